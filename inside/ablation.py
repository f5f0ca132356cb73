"""Which head does the answer need?"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.hooks import Hook
from inside.answers import answer_of, baseline_of, tokens_up_to, warn_of_the_other_spelling
from inside.command import print_over_texts
from inside.interventions import block_name, mean, sweep, zero
from inside.model import check_choice, check_model, model_name
from inside.pictures import plot_grid
from inside.result import baseline_table, table_of, titled, with_error, with_title
from inside.texts import over_texts
from inside.tokens import quote
from many_texts.batches import log_prob_of
from utils import Model

KINDS = {"z": "head", "attn_out": "attention", "mlp_out": "feed-forward network"}


@titled
class Ablation(NamedTuple):
    """What taking a part out changes: change float64 [n_layer, n_head] ([n_layer, 1] for a part without heads), the
    answer's new log-probability minus log_prob, its log-probability in the whole model; `what` was taken out."""

    change: np.ndarray
    log_prob: float
    what: str


@over_texts("text", "answer", "position")
def ablation(text: str | Sequence[int], model: Model, answer: str | int, what: str = "z", by: str | Mapping = "zero",
             position: int = -1, hook: Hook | None = None) -> Ablation:
    """What the answer's log-probability at the end of a text loses or gains as each head is taken out.

    Taking out (ablation) shows what the model needs a head for; a head that others stand in for may seem idle.

    Args:
        text, model: as in `tokens`; with a list of texts, what comes back is the mean over them.
        answer: the token whose log-probability is watched: its text, " C", or its id, 417 or "#417"; or a list of
            them, one for each text.
        what: z takes out each head; attn_out or mlp_out each layer's attention or feed-forward network.
        by: zero puts zeros in the place of the output, mean its mean over the position and those before it; a dict
            {name: values} the means that it has, over many texts for instance, as `mean` takes them.
        position: the token after which the answer comes, from 0; -1 is the last one.
        hook: as in `gpt2.gpt2`, in all runs.

    Returns:
        Ablation.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> change = ablation("First Citizen. Second Citizen. First", model, answer=" C").change
    >>> divmod(int(change.argmin()), 6)  # layer and head
    (1, 5)
    """
    model = check_model(model)
    check_choice("what", what, KINDS)
    ids, watched = tokens_up_to(text, model, position).ids, answer_of(model, answer)
    heads: list[int | None] = list(range(model.n_head)) if what == "z" else [None]
    if isinstance(by, Mapping):
        for name in (block_name(layer, what) for layer in range(model.n_layer)):
            if name not in by:
                raise ValueError(f"by has no values for {name}: each layer needs its own")
        take_out = lambda layer, head, what: mean(layer, head, what, by[block_name(layer, what)])
    else:
        check_choice("by", by, ("zero", "mean"))
        take_out = zero if by == "zero" else mean
    interventions = [take_out(layer, head, what) for layer in range(model.n_layer) for head in heads]
    logits = model.logits(ids, n_logits=1, hook=hook)
    warn_of_the_other_spelling(watched, logits, model)
    log_prob = lambda logits: float(log_prob_of(np.array(watched.ids), logits[-1:])[0])
    change = sweep(ids, model, interventions, log_prob, hook=hook) - log_prob(logits)
    kind = f"{by if isinstance(by, str) else 'mean'} ablation"
    title = (f"{model_name(model)}: change of the log-probability of {watched.named} ({log_prob(logits):.2f}) without "
             f"each {KINDS[what]} ({kind}), after {quote(ids, model.encoder)}")
    return with_title(Ablation(change.reshape(-1, len(heads)), log_prob(logits), what), title,
                      f"log-probability of {watched.named}",
                      [baseline_of("whole model", log_prob(logits), logits, watched, model)])


@table_of(Ablation)
def table_ablation(result) -> list[Table]:
    """`Ablation` as tables: the whole model, then a row for each layer, a column for each head."""
    columns = [f"head {head}" for head in range(result.change.shape[1])] if result.what == "z" else [result.what]
    rows = [[f"layer {layer}", *(with_error(result, (layer, i)) for i in range(len(columns)))]
            for layer in range(len(result.change))]
    return [baseline_table(result),
            Table(">" + ">" * len(columns), ["change of log-probability", *columns], rows, n_repeated=1)]


def plot_ablation(result: Any, ax: Any = None) -> Any:
    """Draw `Ablation` as a grid, a row for each layer; red lowers the answer's log-probability, blue raises it."""
    labels = range(result.change.shape[1]) if result.what == "z" else [result.what]
    return plot_grid(result.change, ax, labels, "head taken out" if result.what == "z" else "taken out",
                     "change of the log-probability", result.title, errors=result.standard_error)


def show_ablation(text: str | None = None, answer: str | None = None, what: str = "z", by: str = "zero", *,
                  position: int = -1, file: str | None = None, out: str | None = None, model_size: str | None = None,
                  models_dir: str | None = None) -> None:
    """What the answer's log-probability at the end of a text loses or gains as each head is taken out.

    Args:
        answer: the token whose log-probability is watched: its text, with its space if it has one, or its id, as
            "#417".
        what: z takes out each head; attn_out or mlp_out each layer's attention or feed-forward network.
        by: zero puts zeros in the place of the output, mean its mean over the position and those before it.
        file: a CSV file with the columns text and answer (and position): the mean over its rows.
    """
    texts = {"text": text, "answer": answer}
    print_over_texts(ablation, plot_ablation, texts, position, file, out, model_size, models_dir, what=what, by=by)
