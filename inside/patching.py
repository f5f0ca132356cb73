"""Where does the model keep what makes the difference between two texts?"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.hooks import BLOCK_NAMES, BY_HEAD, Hook
from inside.answers import Answer, answer_of, baseline_of, tokens_up_to, warn_of_the_other_spelling
from inside.command import print_over_texts
from inside.interventions import block_name, compose, patch, record, sweep
from inside.model import check_choice, check_model, model_name
from inside.pictures import plot_grid
from inside.result import baseline_table, table_of, titled, with_error, with_title
from inside.texts import over_texts
from inside.tokens import Tokens, quote
from utils import Model

HEADS = [name.removeprefix("attn.") for name in BY_HEAD]
PLACES = [*(name for name in BLOCK_NAMES if name not in BY_HEAD), *HEADS]


@titled
class Patching(NamedTuple):
    """How much of the clean run each value brings back, where 0 is the corrupted run and 1 the clean one: grid float64
    [n_layer, n_seq]; for values by head [n_layer, n_head], or [n_layer, n_head, n_seq] by position; pieces of the clean
    and of the corrupted text; `at`, the value."""

    grid: np.ndarray
    clean: list[str]
    corrupted: list[str]
    at: str


class Pair(NamedTuple):
    """A clean and a corrupted text with the same number of tokens, and the answer that they lead to or away from."""

    clean: Tokens
    corrupted: Tokens
    answer: Answer
    model: Model

    def ends(self, clean_logits, corrupted_logits) -> tuple[float, float]:
        """The answer's logit in both runs; ValueError if it is the same, since there is nothing to bring back then."""
        best, worst = self.answer.logit(clean_logits), self.answer.logit(corrupted_logits)
        if abs(best - worst) < 1e-4 * max(1, abs(best)):
            raise ValueError(f"the logit of {self.answer.named} is the same after both texts ({best:.4f}), so there is "
                             "nothing to bring back: choose another answer, or texts that differ more")
        return best, worst

    def result(self, values, clean_logits, corrupted_logits, at: str, how: str) -> Patching:
        """`Patching` of the answer's logits `values` [n_layer, n_column], between those of the two whole runs."""
        best, worst = self.ends(clean_logits, corrupted_logits)
        warn_of_the_other_spelling(self.answer, clean_logits, self.model)
        corrupted, clean = (quote(text.ids, self.model.encoder) for text in (self.corrupted, self.clean))
        return with_title(
            Patching((values - worst) / (best - worst), self.clean.pieces, self.corrupted.pieces, at),
            f"{model_name(self.model)}: logit of {self.answer.named} after {corrupted} with {how} from {clean}",
            f"logit of {self.answer.named}",
            [baseline_of(name, value, logits, self.answer, self.model) for name, value, logits in (
                ("clean text", best, clean_logits), ("corrupted text", worst, corrupted_logits))])


def pair_of(clean, corrupted, model: Model, answer, wrong, position) -> Pair:
    """Both texts up to the position; ValueError if they have different numbers of tokens."""
    model = check_model(model)
    ours, theirs = tokens_up_to(clean, model, position), tokens_up_to(corrupted, model, position)
    if len(ours.ids) != len(theirs.ids):
        raise ValueError(f"the clean text has {len(ours.ids)} tokens, the corrupted one {len(theirs.ids)}: each token "
                         "needs its counterpart, so edit the texts until they have the same number.\n"
                         f"clean:     {' '.join(ours.pieces)}\ncorrupted: {' '.join(theirs.pieces)}")
    return Pair(ours, theirs, answer_of(model, answer, wrong), model)


@over_texts("clean", "corrupted", "answer", "wrong", "position")
def patching(clean: str | Sequence[int], corrupted: str | Sequence[int], model: Model, answer: str | int,
             wrong: str | int | None = None, at: str = "resid_pre", by_position: bool = False, position: int = -1,
             hook: Hook | None = None) -> Patching:
    """How much of a clean text's answer comes back when single values of its run are put into a corrupted text's run.

    Activation patching (Meng et al., "Locating and Editing Factual Associations in GPT", 2022,
    https://arxiv.org/abs/2202.05262; as `transformer_lens.patching`): the two texts differ in little. Where a value of
    the clean run flips the corrupted run's answer, the model stores what tells the texts apart.

    Args:
        clean: the first text, or its ids; with a list of texts, what comes back is the mean over them.
        corrupted: the second text, or its ids, with the same number of tokens; or a list of them, as the next two.
        model: as in `tokens`.
        answer: the clean text's answer, one token: its text, " C", or its id, 417 or "#417". The metric is its logit at
            the end of the text.
        wrong: the corrupted text's answer: the metric is then the answer's logit minus this one's.
        at: resid_pre, attn_out, mlp_out or any value of a layer without heads: patch one position of one layer. z, q,
            k, v, pattern or result: patch all positions of one head.
        by_position: True patches single positions of heads, too.
        position: the token after which the answer comes, from 0; -1 is the last one.
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
    check_place(at, by_position)
    pair = pair_of(clean, corrupted, model, answer, wrong, position)
    model, names = pair.model, [block_name(layer, at) for layer in range(pair.model.n_layer)]
    seen = record(names)
    clean_logits = model.logits(pair.clean.ids, n_logits=1, hook=compose(hook, seen))
    corrupted_logits = model.logits(pair.corrupted.ids, n_logits=1, hook=hook)
    pair.ends(clean_logits, corrupted_logits)  # refuses them before the long sweep
    positions: list = list(range(len(pair.clean.ids))) if by_position or at not in HEADS else [None]
    heads: list = list(range(model.n_head)) if at in HEADS else [None]
    patches = [patch(name, seen[name], i, head) for name in names for head in heads for i in positions]
    values = sweep(pair.corrupted.ids, model, patches, pair.answer.logit, hook=hook)
    shape = (len(names), len(heads), len(positions)) if by_position else (len(names), -1)
    return pair.result(values.reshape(shape), clean_logits, corrupted_logits, at, f"{at} patched in")


def check_place(at: str, by_position: bool) -> None:
    """ValueError unless there is such a value of a layer, and it has heads if single positions of them are wanted."""
    check_choice("at", at, PLACES)
    if by_position and at not in HEADS:
        raise ValueError(f"by_position is for values by head, {', '.join(HEADS)}: {at} is patched by position anyway")


@table_of(Patching)
def table_patching(result) -> list[Table]:
    """`Patching` as tables: the whole runs, then a row for each position (or head), a column for each layer (each head
    where positions of heads were patched)."""
    rows, columns = rows_and_columns(result)
    names = ["head"] if is_by_head(result) else ["", "clean", "corrupted"]
    place = lambda row, column: np.unravel_index(row * len(columns) + column, result.grid.shape)
    cells = [[*column, *(with_error(result, place(row, i), sign="") for row in range(len(rows)))]
             for i, column in enumerate(columns)]
    table = Table((">" if len(names) == 1 else "><<") + ">" * len(rows), [*names, *rows], cells, n_repeated=len(names))
    return [baseline_table(result), table]


def plot_patching(result: Any, ax: Any = None) -> Any:
    """Draw `Patching` as a grid, a row for each layer (or head); where the texts differ, a column names both tokens."""
    rows, columns = rows_and_columns(result)
    labels: range | list[str]
    if is_by_head(result):
        labels, x_label = range(len(columns)), "head"
    else:
        labels, x_label = [a if a == b else f"{a} / {b}" for _, a, b in columns], "token: clean / corrupted"
    shape, errors = (len(rows), -1), result.standard_error
    return plot_grid(result.grid.reshape(shape), ax, labels, x_label, "0: corrupted, 1: clean", result.title,
                     rows if result.grid.ndim == 3 else None, None if errors is None else errors.reshape(shape))


def is_by_head(result) -> bool:
    """Whether the columns of the grid are heads; otherwise they are positions."""
    return result.at in HEADS and result.grid.ndim == 2


def rows_and_columns(result) -> tuple[list[str], list[list[str]]]:
    """The names of the grid's rows, and of its columns: of a head its number, of a position that and both tokens."""
    layers = [f"layer {layer}" for layer in range(len(result.grid))]
    if is_by_head(result):
        return layers, [[str(head)] for head in range(result.grid.shape[1])]
    if result.grid.ndim == 3:
        layers = [f"{layer}.{head}" for layer, head in np.ndindex(*result.grid.shape[:2])]
    return layers, [[str(i), a, b] for i, (a, b) in enumerate(zip(result.clean, result.corrupted, strict=True))]


def show_patching(clean: str | None = None, corrupted: str | None = None, answer: str | None = None,
                  wrong: str | None = None, at: str = "resid_pre", *, by_position: bool = False, position: int = -1,
                  file: str | None = None, out: str | None = None, model_size: str | None = None,
                  models_dir: str | None = None) -> None:
    """How much of a clean text's answer comes back when single values of its run are put into a corrupted text's run.

    Args:
        at: resid_pre, attn_out, mlp_out: one position of one layer; z, q, k, v, pattern: one head at all positions.
        by_position: patch single positions of heads.
    """
    texts = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong": wrong}
    print_over_texts(patching, plot_patching, texts, position, file, out, model_size, models_dir, at=at,
                     by_position=by_position)
