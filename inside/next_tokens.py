"""Which token comes next?"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.checks import check_whole
from generation.hooks import Hook
from generation.sampling import Sampling
from inside.command import print_answer
from inside.model import check_model, model_name
from inside.pictures import bars
from inside.result import table_of, titled, with_title
from inside.tokens import pieces_of, quote, tokens
from utils import Model


@titled
class NextTokens(NamedTuple):
    """The k most likely next tokens, the likeliest first: ids int [k], pieces, probabilities float64 [k]."""

    ids: np.ndarray
    pieces: list[str]
    probabilities: np.ndarray


def next_tokens(text: str | Sequence[int], model: Model, k: int = 10, temperature: float = 1,
                hook: Hook | None = None) -> NextTokens:
    """The tokens that are most likely to follow a text, with their probabilities.

    Args:
        text, model: as in `tokens`.
        k: how many tokens.
        temperature: the logits are divided by it, as in sampling; 0 gives the likeliest token all the probability.
        hook: as in `gpt2.gpt2`.

    Returns:
        NextTokens.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> next_tokens("O Romeo, Romeo! wherefore art thou", model, k=2).pieces
    ['·Rome', '·art']
    """
    model = check_model(model)
    check_whole("k", k, 1, model.hparams["n_vocab"], "the size of the vocabulary")
    sampling = Sampling(temperature=temperature)
    ids = tokens(text, model).ids
    logits = model.logits(ids, n_logits=1, hook=hook)[-1]
    probabilities = sampling.probabilities(logits)
    order = np.array(likeliest(logits, k))
    at = "" if temperature == 1 else f" at temperature {temperature}"
    return with_title(NextTokens(order, pieces_of(order, model.encoder), probabilities[order]),
                      f"{model_name(model)}: next token{at} after {quote(ids, model.encoder)}")


def likeliest(logits: np.ndarray, k: int) -> list[int]:
    """The k ids with the highest logits [n_vocab], the highest first; of equal ones the lowest id.

    Only these are sorted: with the 124M's vocabulary that takes 0.1 ms instead of 9.
    """
    if k == 1:
        return [int(np.argmax(logits))]
    found = np.flatnonzero(logits >= np.partition(logits, -k)[-k])  # those, and others as high as the last of them
    return found[np.argsort(-logits[found], kind="stable")][:k].tolist()


@table_of(NextTokens)
def table_next_tokens(result) -> Table:
    """`NextTokens` as a table."""
    return Table("<>><", ["token", "id", "probability", ""],
                 [[piece, str(i), f"{p:.2%}", "█" * round(40 * p) or "▏"] for i, piece, p in zip(*result, strict=True)])


def plot_next_tokens(result: Any, ax: Any = None) -> Any:
    """Draw `NextTokens` as bars, the likeliest on top."""
    return bars(ax, result.pieces, result.probabilities, [f"{p:.1%}" for p in result.probabilities],
                "probability", "next token", result.title)


def show_next_tokens(text: str | None = None, k: int = 10, temperature: float = 1, *, out: str | None = None,
                     model_size: str | None = None, models_dir: str | None = None) -> None:
    """The tokens that are most likely to follow a text, with their probabilities.

    Args:
        k: how many tokens.
        temperature: the logits are divided by it, as in sampling; 0 gives the likeliest token all the probability.
    """
    print_answer(next_tokens, plot_next_tokens, text, out, model_size, models_dir, k, temperature)
