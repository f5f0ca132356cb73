"""Where does the model keep what makes the difference between two texts?"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cli.tables import Table, print_tables
from cli.terminal import argument_errors
from gpt2 import gpt2
from inside.command import check_out, given, read_text, save_picture
from inside.interventions import block_name, compose, patch, record, sweep
from inside.model import check_choice, check_model, model_name
from inside.pictures import plot_grid
from inside.result import titled, with_title
from inside.tokens import one_token, pieces_of, quote, tokens
from utils import load_encoder_hparams_and_params

PLACES = ("resid_pre", "attn_out", "mlp_out", "z")


@titled
class Patching(NamedTuple):
    """How much of the clean run each value brings back: grid float64 [n_layer, n_seq], or [n_layer, n_head] at z, where
    0 is the corrupted run and 1 the clean one; pieces of the clean and of the corrupted text; `at`, the value."""

    grid: np.ndarray
    clean: list[str]
    corrupted: list[str]
    at: str


def patching(clean: str | Sequence[int], corrupted: str | Sequence[int], model, answer: str | int,
             wrong: str | int | None = None, at: str = "resid_pre", hook=None) -> Patching:
    """How much of a clean text's answer comes back as single values of its run are put into a corrupted text's run.

    Activation patching (Meng et al., "Locating and Editing Factual Associations in GPT", 2022,
    https://arxiv.org/abs/2202.05262; as `transformer_lens.patching`): the two texts differ in little. Where a value of
    the clean run turns the corrupted run's answer, the model keeps there what tells the texts apart.

    Args:
        clean: the first text, or its ids.
        corrupted: the second text, or its ids; it must have as many tokens.
        model: as in `tokens`.
        answer: the clean text's answer, one token: its text, " C", or its id, 417 or "#417". The metric is its logit at
            the end of the text.
        wrong: the corrupted text's answer: the metric is then the answer's logit minus this one's.
        at: resid_pre, attn_out or mlp_out patch one position of one layer, z all positions of one head.
        hook: as in `gpt2.gpt2`, in all runs.

    Returns:
        Patching.

    Raises:
        TypeError, ValueError: an argument is not as described; the texts have different numbers of tokens (the message
            has both, token by token); the metric is the same in both.

    >>> clean, corrupted = "First Murderer. Second Murderer. First", "First Senator. Second Senator. First"
    >>> grid = patching(clean, corrupted, model, answer=" M", wrong=" S", at="z").grid
    >>> divmod(int(grid.argmax()), 6)  # layer and head
    (1, 5)
    """
    encoder, hparams, params = check_model(model)
    check_choice("at", at, PLACES)
    ids, clean_pieces = tokens(clean, model)
    corrupted_ids, corrupted_pieces = tokens(corrupted, model)
    if len(ids) != len(corrupted_ids):
        raise ValueError(f"the clean text has {len(ids)} tokens, the corrupted one {len(corrupted_ids)}: each token "
                         "needs its counterpart, so change the texts until they have as many.\n"
                         f"clean:     {' '.join(clean_pieces)}\ncorrupted: {' '.join(corrupted_pieces)}")
    answers = [one_token(answer, model, "answer")] + ([] if wrong is None else [one_token(wrong, model, "wrong")])

    def metric(logits):
        chosen = logits[-1, answers].astype(np.float64)
        return chosen[0] if wrong is None else chosen[0] - chosen[1]

    layers = range(hparams["n_layer"])
    seen = record([block_name(layer, at) for layer in layers])
    best = metric(gpt2(ids, **params, n_head=hparams["n_head"], n_logits=1, hook=compose(hook, seen)))
    where = "heads" if at == "z" else "positions"
    n = hparams["n_head"] if at == "z" else len(ids)
    interventions = [patch(name, seen[name], **{where: i}) for name in map(block_name, layers, [at] * len(layers))
                     for i in range(n)]
    worst, *values = sweep(corrupted_ids, model, [None, *interventions], metric, hook=hook)
    named = " minus ".join(pieces_of(answers, encoder))
    if abs(best - worst) < 1e-4 * max(1, abs(best)):
        raise ValueError(f"the logit of {named} is the same after both texts ({best:.4f}), so there is nothing to "
                         "bring back: choose another answer, or texts that differ more")
    grid = (np.array(values) - worst) / (best - worst)
    title = (f"{model_name(model)}: logit of {named} after {quote(corrupted_ids, encoder)} with {at} patched in from "
             f"{quote(ids, encoder)}")
    return with_title(Patching(grid.reshape(len(layers), n), clean_pieces, corrupted_pieces, at), title)


def table_patching(result) -> Table:
    """`Patching` as a table: a row for each position (or head), a column for each layer."""
    n_layer, n = result.grid.shape
    header = [*(["head"] if result.at == "z" else ["", "clean", "corrupted"]), *(f"layer {i}" for i in range(n_layer))]
    first = [[str(i)] if result.at == "z" else [str(i), result.clean[i], result.corrupted[i]] for i in range(n)]
    rows = [[*names, *(f"{round(value, 2) + 0:.2f}" for value in column)]  # + 0: no -0.00
            for names, column in zip(first, result.grid.T, strict=True)]
    return Table((">" if result.at == "z" else "><<") + ">" * n_layer, header, rows, n_repeated=len(first[0]))


def plot_patching(result, ax=None):
    """Draw `Patching` as a grid, a row for each layer; where the texts differ, a column names both tokens."""
    if result.at == "z":
        return plot_grid(result.grid, ax, range(result.grid.shape[1]), "head", "0: corrupted, 1: clean", result.title)
    tokens = [a if a == b else f"{a} / {b}" for a, b in zip(result.clean, result.corrupted, strict=True)]
    return plot_grid(result.grid, ax, tokens, "token: clean / corrupted", "0: corrupted, 1: clean", result.title)


def show_patching(clean: str | None = None, corrupted: str | None = None, answer: str | None = None,
                  wrong: str | None = None, at: str = "resid_pre", *, out: str | None = None,
                  model_size: str | None = None, models_dir: str | None = None) -> None:
    """How much of a clean text's answer comes back as single values of its run are put into a corrupted text's run.

    Args:
        clean: the first text; without it, what is piped into stdin.
        corrupted: the second text; it must have as many tokens.
        answer: the clean text's answer, one token: its text, as " C" with its space, or its id, as "#417". The metric
            is its logit at the end of the text.
        wrong: the corrupted text's answer: the metric is then the answer's logit minus this one's.
        at: resid_pre, attn_out or mlp_out patch one position of one layer, z all positions of one head.
    """
    check_out(out)
    corrupted, answer = given(corrupted, "corrupted"), given(answer, "answer")
    model = load_encoder_hparams_and_params(model_size, models_dir)
    clean = read_text(clean, model)
    with argument_errors():
        result = patching(clean, corrupted, model, answer, wrong, at)
    print_tables(table_patching(result))
    save_picture(plot_patching, result, out)
