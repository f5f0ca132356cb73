"""Which heads copy what followed before?"""
from typing import NamedTuple

import numpy as np

from cli.tables import Table, print_tables
from cli.terminal import argument_errors
from generation.checks import check_whole
from gpt2 import gpt2
from inside.command import check_out, save_picture
from inside.interventions import compose, record
from inside.model import check_model, model_name
from inside.pictures import plot_grids
from inside.result import titled, with_title
from utils import load_encoder_hparams_and_params


@titled
class Induction(NamedTuple):
    """Each head's scores, from 0 to 1, float64 [n_layer, n_head]: induction, and previous (token)."""

    induction: np.ndarray
    previous: np.ndarray


def induction(model, n: int = 50, seed: int = 0, hook=None) -> Induction:
    """Each head's induction score and previous-token score, on random tokens that come a second time.

    An induction head completes patterns: at a token it looks at what followed the same token before. Its score is the
    average attention that a token of the second half pays to the token after its first occurrence. It relies on a head
    of an earlier layer that looks at the previous token, whose score is the average attention paid to that (Olsson et
    al., "In-context Learning and Induction Heads", 2022, https://arxiv.org/abs/2209.11895). The bundled model has no
    induction heads: it learned no more than Shakespeare's words.

    Args:
        model: as in `tokens`.
        n: how many random tokens, all different; with their repetition they must fit the context.
        seed: of the random tokens, a whole number.
        hook: as in `gpt2.gpt2`.

    Returns:
        Induction.

    Raises:
        TypeError, ValueError: an argument is not as described.

    >>> induction(model).induction.shape
    (6, 6)
    """
    _, hparams, params = check_model(model)
    check_whole("n", n, 2, min(hparams["n_ctx"] // 2, hparams["n_vocab"]), "half of the context, n_ctx")
    check_whole("seed", seed, 0, 2**63, "any whole number")
    ids = np.tile(np.random.default_rng(seed).choice(hparams["n_vocab"], n, replace=False), 2)
    names = [f"blocks.{i}.attn.pattern" for i in range(hparams["n_layer"])]
    seen = record(names)
    gpt2(ids, **params, n_head=hparams["n_head"], n_logits=1, hook=compose(hook, seen))
    patterns = np.array([seen[name] for name in names])  # [n_layer, n_head, 2 * n, 2 * n]
    second = np.arange(n, 2 * n)
    scores = (patterns[:, :, second, second - n + 1].mean(axis=-1, dtype=np.float64),
              patterns[:, :, np.arange(1, 2 * n), np.arange(2 * n - 1)].mean(axis=-1, dtype=np.float64))
    return with_title(Induction(*scores), f"{model_name(model)}: heads on {n} random tokens, repeated")


def table_induction(result) -> Table:
    """`Induction` as a table: both scores of each head, the highest induction scores first."""
    heads = sorted(np.ndindex(*result.induction.shape), key=lambda place: -result.induction[place])
    return Table(">>>>", ["layer", "head", "induction", "previous token"],
                 [[str(layer), str(head), f"{result.induction[layer, head]:.3f}", f"{result.previous[layer, head]:.3f}"]
                  for layer, head in heads])


def plot_induction(result, ax=None):
    """Draw `Induction`: two grids side by side, a row for each layer."""
    return plot_grids({"induction": result.induction, "previous token": result.previous}, ax, "head", "score",
                      result.title)


def show_induction(n: int = 50, seed: int = 0, *, out: str | None = None, model_size: str | None = None,
                   models_dir: str | None = None) -> None:
    """Each head's induction score and previous-token score, on random tokens that come a second time.

    Args:
        n: how many random tokens, all different; with their repetition they must fit the context.
        seed: of the random tokens, a whole number.
    """
    check_out(out)
    model = load_encoder_hparams_and_params(model_size, models_dir)
    with argument_errors():
        result = induction(model, n, seed)
    print_tables(table_induction(result))
    save_picture(plot_induction, result, out)
