"""Which heads look where they should?"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from cli.terminal import argument_errors
from generation.checks import check_whole
from generation.hooks import Hook
from inside.command import check_out, given, read_text, show
from inside.interventions import compose, record
from inside.model import check_choice, check_model, model_name
from inside.pictures import plot_grids
from inside.result import table_of, titled, with_error, with_title
from inside.texts import over_texts
from inside.tokens import quote, tokens
from utils import Model, load_encoder_hparams_and_params


def duplicate(ids: np.ndarray) -> np.ndarray:
    """[n_seq, n_seq]: 1 where the key is an earlier occurrence of the query's token."""
    return np.tril(ids[:, None] == ids[None, :], k=-1)


def induction(ids: np.ndarray) -> np.ndarray:
    """[n_seq, n_seq]: 1 where the key comes right after an earlier occurrence of the query's token."""
    return np.pad(duplicate(ids), [(0, 0), (1, 0)])[:, :-1]


PATTERNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "induction": induction,
    "duplicate": duplicate,
    "previous": lambda ids: np.eye(len(ids), k=-1),
    "first": lambda ids: np.outer(np.arange(len(ids)) > 0, np.arange(len(ids)) == 0),
}


@titled
class HeadScores(NamedTuple):
    """How well each head's attention fits a pattern, from 0 to 1: scores float64 [n_layer, n_head]; the pattern's
    name."""

    scores: np.ndarray
    pattern: str


@over_texts("text")
def detect_heads(text: str | Sequence[int], model: Model, pattern: str | np.ndarray,
                 hook: Hook | None = None) -> HeadScores:
    """How much of each head's attention goes where a pattern says: which heads do a certain job in this text.

    The score is the attention paid to the keys that the pattern marks, on average over the queries for which it marks
    any (as `transformer_lens.head_detector.detect_head`, which divides by all queries).

    Args:
        text, model: as in `tokens`; with a list of texts, what comes back is the mean over them.
        pattern: duplicate: an earlier occurrence of the same token; induction: the token after that; previous: the
            token before; first: the first token. Or one of your own, to compare with: an array [n_seq, n_seq] of
            weights from 0 to 1, a row for each query.
        hook: as in `gpt2.gpt2`.

    Returns:
        HeadScores.

    Raises:
        TypeError, ValueError: an argument is not as described, or the pattern marks nothing in this text.

    >>> scores = detect_heads("First Citizen. Second Citizen. First", model, "previous").scores
    >>> divmod(int(scores.argmax()), 6)  # layer and head
    (5, 5)
    """
    model = check_model(model)
    ids = tokens(text, model).ids
    if isinstance(pattern, str):
        check_choice("pattern", pattern, PATTERNS)
        name, wanted = pattern, PATTERNS[pattern](ids)
    else:
        name, wanted = "the given pattern", np.asarray(pattern, dtype=np.float64)
        fits = wanted.shape == (len(ids), len(ids))
        if not fits or not (0 <= wanted).all() or not (wanted <= 1).all():
            has = f"weights from {wanted.min()} to {wanted.max()}" if fits else f"shape {list(wanted.shape)}"
            raise ValueError(f"the pattern must have a row and a column for each of the {len(ids)} tokens and weights "
                             f"from 0 to 1; it has {has}")
    if not wanted.any():
        raise ValueError(f"{name} marks nothing in this text of {len(ids)} tokens: give one in which tokens repeat")
    return with_title(HeadScores(scores_of(ids, model, wanted, hook=hook)[0], name),
                      f"{model_name(model)}: attention on {name} in {quote(ids, model.encoder)}")


def scores_of(ids, model: Model, *patterns: np.ndarray, hook: Hook | None = None) -> list[np.ndarray]:
    """For each pattern [n_seq, n_seq], the scores of all heads, float64 [n_layer, n_head]."""
    seen = record("blocks.*.attn.pattern")
    model.logits(ids, n_logits=1, hook=compose(hook, seen))
    attention = np.array(list(seen.values()))  # [n_layer, n_head, n_query, n_key]
    return [np.einsum("lhqk,qk->lh", attention, wanted, dtype=np.float64) / wanted.any(axis=1).sum()
            for wanted in patterns]


@table_of(HeadScores)
def table_detect_heads(result, *, k: int = 10) -> Table:
    """`HeadScores` as a table: the k heads that fit best, the best first."""
    check_whole("k", k, 1)
    heads = sorted(np.ndindex(*result.scores.shape), key=lambda place: -result.scores[place])
    return Table(">>>", ["layer", "head", result.pattern],
                 [[*map(str, place), with_error(result, place, 3, "")] for place in heads[:k]])


def plot_detect_heads(result: Any, ax: Any = None) -> Any:
    """Draw `HeadScores` as a grid, a row for each layer."""
    return plot_grids({result.pattern: result.scores}, ax, "head", "share of the attention", result.title)


def read_pattern(pattern: str) -> str | np.ndarray:
    """A pattern's name as it is; the file of one (.csv or .npy) as an array."""
    if pattern in PATTERNS:
        return pattern
    if (ending := Path(pattern).suffix) not in (".csv", ".npy"):
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, or a .csv or .npy file, not {pattern!r}")
    if not Path(pattern).exists():
        raise FileNotFoundError(f"{pattern}: there is no such file")
    if not Path(pattern).stat().st_size:
        raise ValueError(f"{pattern} is empty: it should have a row of weights for each token")
    return np.load(pattern, allow_pickle=False) if ending == ".npy" else np.loadtxt(pattern, delimiter=",", ndmin=2)


def show_detect_heads(text: str | None = None, pattern: str | None = None, k: int = 10, *, out: str | None = None,
                      model_size: str | None = None, models_dir: str | None = None) -> None:
    """How much of each head's attention goes where a pattern says: which heads do a certain job in this text.

    Args:
        pattern: duplicate (an earlier occurrence of the same token), induction (the token after that), previous (the
            token before) or first (the first token); or a .csv or .npy file with a row of weights from 0 to 1 for each
            token, saying how much it should look at each token.
        k: how many heads to list, the best first.
    """
    check_out(out)
    with argument_errors():
        wanted = read_pattern(given(pattern, "pattern"))
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = read_text(text, model)
    show(lambda: detect_heads(text, model, wanted), plot_detect_heads, out, k=k)
