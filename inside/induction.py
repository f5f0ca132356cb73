"""Which heads copy what followed before?"""
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.checks import check_whole
from generation.hooks import Hook
from inside.command import check_out, show
from inside.detect_heads import PATTERNS, scores_of
from inside.model import check_model, model_name
from inside.pictures import plot_grids
from inside.result import table_of, titled, with_title
from utils import Model, load_encoder_hparams_and_params


@titled
class Induction(NamedTuple):
    """Each head's scores, from 0 to 1, float64 [n_layer, n_head], for four patterns: induction, previous (token),
    duplicate (token) and first (token)."""

    induction: np.ndarray
    previous: np.ndarray
    duplicate: np.ndarray
    first: np.ndarray


def induction(model: Model, n: int = 50, seed: int = 0, hook: Hook | None = None) -> Induction:
    """Each head's induction, previous-token, duplicate-token and first-token score, on random tokens that come twice.

    An induction head completes patterns: at a token it looks at what followed the same token before. Its score is the
    average attention that a token of the second half pays to the token after its first occurrence. It relies on a head
    of an earlier layer that looks at the previous token, whose score is the average attention paid to that (Olsson et
    al., "In-context Learning and Induction Heads", 2022, https://arxiv.org/abs/2209.11895). A duplicate-token head
    looks at the first occurrence itself; the first token is where heads look that have nothing to do. The bundled model
    has no induction heads: it learned no more than Shakespeare's words. `detect_heads` scores heads in any text.

    Args:
        model: as in `tokens`.
        n: how many random tokens, all different; with their repetition they must fit the context.
        seed: a whole number that decides which tokens they are.
        hook: as in `gpt2.gpt2`.

    Returns:
        Induction.

    Raises:
        TypeError, ValueError: an argument is not as described.

    >>> induction(model).induction.shape
    (6, 6)
    """
    model = check_model(model)
    n_ctx, n_vocab = model.hparams["n_ctx"], model.hparams["n_vocab"]
    check_whole("n", n, 2, min(n_ctx // 2, n_vocab), "half of the context, n_ctx, and at most n_vocab")
    check_whole("seed", seed, 0)
    ids = np.tile(np.random.default_rng(seed).choice(n_vocab, n, replace=False), 2)
    scores = scores_of(ids, model, *(PATTERNS[name](ids) for name in Induction._fields), hook=hook)
    return with_title(Induction(*scores), f"{model_name(model)}: heads on {n} random tokens, repeated")


@table_of(Induction)
def table_induction(result) -> Table:
    """`Induction` as a table: the scores of each head, the highest induction scores first."""
    heads = sorted(np.ndindex(*result.induction.shape), key=lambda place: -result.induction[place])
    return Table(">>>>>>", ["layer", "head", "induction", "previous token", "duplicate token", "first token"],
                 [[*map(str, place), *(f"{scores[place]:.3f}" for scores in result)] for place in heads])


def plot_induction(result: Any, ax: Any = None) -> Any:
    """Draw `Induction`: a grid for each score, a row for each layer."""
    return plot_grids(result._asdict(), ax, "head", "score", result.title)


def show_induction(n: int = 50, seed: int = 0, *, out: str | None = None, model_size: str | None = None,
                   models_dir: str | None = None) -> None:
    """Each head's induction, previous-token, duplicate-token and first-token score, on random tokens that come twice.

    Args:
        n: how many random tokens, all different; with their repetition they must fit the context.
        seed: a whole number that decides which tokens they are.
    """
    check_out(out)
    model = load_encoder_hparams_and_params(model_size, models_dir)
    show(lambda: induction(model, n, seed), plot_induction, out)
