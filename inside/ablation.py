"""Which head does the answer need?"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cli.tables import Table, print_tables
from cli.terminal import argument_errors
from inside.command import check_out, given, read_text, save_picture
from inside.interventions import mean, sweep, zero
from inside.model import check_choice, check_model, model_name
from inside.pictures import plot_grid
from inside.result import titled, with_title
from inside.tokens import one_token, pieces_of, quote, tokens
from many_texts.batches import log_prob_of
from utils import load_encoder_hparams_and_params

KINDS = {"z": "head", "attn_out": "attention", "mlp_out": "feed-forward network"}


@titled
class Ablation(NamedTuple):
    """What taking a part out changes: change float64 [n_layer, n_head] ([n_layer, 1] for a part without heads), the
    answer's new log-probability minus log_prob, its log-probability in the whole model; `what` was taken out."""

    change: np.ndarray
    log_prob: float
    what: str


def ablation(text: str | Sequence[int], model, answer: str | int, what: str = "z", by: str = "zero",
             hook=None) -> Ablation:
    """What the answer's log-probability at the end of a text loses or gains as each head is taken out.

    Taking out (ablation) shows what the model needs a head for; a head that others stand in for may seem idle.

    Args:
        text, model: as in `tokens`.
        answer: the token whose log-probability is watched: its text, " C", or its id, 417 or "#417".
        what: z takes out each head; attn_out or mlp_out each layer's attention or feed-forward network.
        by: zero puts zeros in the place of the output, mean its mean over the positions of the text.
        hook: as in `gpt2.gpt2`, in all runs.

    Returns:
        Ablation.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> change = ablation("First Citizen. Second Citizen. First", model, answer=" C").change
    >>> divmod(int(change.argmin()), 6)  # layer and head
    (1, 5)
    """
    encoder, hparams, _ = check_model(model)
    check_choice("what", what, KINDS)
    check_choice("by", by, ("zero", "mean"))
    ids = tokens(text, model).ids
    answer = one_token(answer, model, "answer")
    heads = range(hparams["n_head"]) if what == "z" else [None]
    take_out = zero if by == "zero" else mean
    interventions = [take_out(layer, head, what) for layer in range(hparams["n_layer"]) for head in heads]
    log_probs = sweep(ids, model, [None, *interventions], lambda logits: log_prob_of(answer, logits[-1:])[0],
                      hook=hook)
    change = (log_probs[1:] - log_probs[0]).reshape(-1, len(heads))
    (piece,) = pieces_of([answer], encoder)
    title = (f"{model_name(model)}: change of the log-probability of {piece} ({log_probs[0]:.2f}) without each "
             f"{KINDS[what]} ({by} ablation), after {quote(ids, encoder)}")
    return with_title(Ablation(change, float(log_probs[0]), what), title)


def table_ablation(result) -> Table:
    """`Ablation` as a table: a row for each layer, a column for each head."""
    columns = [f"head {head}" for head in range(result.change.shape[1])] if result.what == "z" else [result.what]
    return Table(">" + ">" * len(columns), ["layer", *columns],
                 [[str(layer), *(f"{round(value, 2) + 0:+.2f}" for value in row)]  # + 0: no -0.00
                  for layer, row in enumerate(result.change)], n_repeated=1)


def plot_ablation(result, ax=None):
    """Draw `Ablation` as a grid, a row for each layer; red lowers the answer's log-probability, blue raises it."""
    labels = range(result.change.shape[1]) if result.what == "z" else [result.what]
    return plot_grid(result.change, ax, labels, "head taken out" if result.what == "z" else "taken out",
                     "change of the log-probability", result.title)


def show_ablation(text: str | None = None, answer: str | None = None, what: str = "z", by: str = "zero", *,
                  out: str | None = None, model_size: str | None = None, models_dir: str | None = None) -> None:
    """What the answer's log-probability at the end of a text loses or gains as each head is taken out.

    Args:
        answer: the token whose log-probability is watched: its text, as " C" with its space, or its id, as "#417".
        what: z takes out each head; attn_out or mlp_out each layer's attention or feed-forward network.
        by: zero puts zeros in the place of the output, mean its mean over the positions of the text.
    """
    check_out(out)
    answer = given(answer, "answer")
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = read_text(text, model)
    with argument_errors():
        result = ablation(text, model, answer, what, by)
    print_tables(table_ablation(result))
    save_picture(plot_ablation, result, out)
