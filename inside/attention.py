"""Where do the heads of a layer look?"""
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.checks import check_whole
from generation.hooks import Hook
from inside.command import print_answer
from inside.interventions import compose, record
from inside.model import check_model, model_name
from inside.pictures import LINE, MASKED, colour_bar, name_all, new_axes, token_axis
from inside.result import table_of, titled, with_title
from inside.tokens import quote, tokens
from utils import Model


@titled
class Attention(NamedTuple):
    """Where a layer's heads look: pieces of the text, pattern float32 [n_head, n_query, n_key] in which each row is
    a distribution over this and earlier tokens, the layer, and the heads' numbers (list of int)."""

    pieces: list[str]
    pattern: np.ndarray
    layer: int
    heads: list[int]


def attention(text: str | Sequence[int], model: Model, layer: int = 0, head: int | None = None,
              hook: Hook | None = None) -> Attention:
    """Where the heads of a layer look: for each token, how much attention it pays to itself and those before it.

    This is the attention pattern of Vaswani et al., https://arxiv.org/abs/1706.03762.

    Args:
        text, model: as in `tokens`.
        layer: which layer, from 0.
        head: which head, from 0; all heads of the layer if not given.
        hook: as in `gpt2.gpt2`.

    Returns:
        Attention; with one head, pattern is [1, n_query, n_key].

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> attention("The king and the queen", model, layer=1, head=5).pattern.shape
    (1, 5, 5)
    """
    model = check_model(model)
    check_whole("layer", layer, 0, model.n_layer - 1, "the last layer")
    if head is not None:
        check_whole("head", head, 0, model.n_head - 1, "the last head")
    heads = list(range(model.n_head)) if head is None else [head]
    ids, pieces = tokens(text, model)
    seen = record(name := f"blocks.{layer}.attn.pattern")
    model.logits(ids, n_logits=1, hook=compose(hook, seen))
    which = f"layer {layer}" + ("" if head is None else f", head {head}")
    return with_title(Attention(pieces, seen[name][heads], layer, heads),
                      f"{model_name(model)}: attention of {which} in {quote(ids, model.encoder)}")


@table_of(Attention)
def table_attention(result, *, k: int = 3) -> Table:
    """`Attention` as a table: the tokens that each token looks at, with their share of its attention.

    Args:
        k: with one head, how many tokens to list for each token; with all heads, only the first is listed.
    """
    n = len(result.pieces)
    check_whole("k", k, 1)
    one_head = len(result.heads) == 1
    n_links = min(k, n) if one_head else 1

    def links(i, row):
        order = np.argsort(-row[: i + 1], kind="stable")[:n_links]
        return [f"{j} {result.pieces[j]} {row[j]:.0%}" for j in order] + [""] * (n_links - len(order))

    header = [f"layer {result.layer}, head {head}" for head in result.heads]
    header = [f"{header[0]} looks at", *[""] * (n_links - 1)] if one_head else header
    rows = [[str(i), result.pieces[i], *(link for rows in result.pattern for link in links(i, rows[i]))]
            for i in range(n)]
    return Table("><" + "<" * len(header), ["", "token", *header], rows, n_repeated=2)


def plot_attention(result: Any, ax: Any = None) -> Any:
    """Draw `Attention`: one heat map for each head, a row for each query; what the causal mask hides is grey."""
    n_head, n, _ = result.pattern.shape
    n_columns = math.ceil(math.sqrt(n_head))
    n_rows = -(-n_head // n_columns)
    side, space = max(2.4, 0.13 * n) if n_head > 1 else max(3.5, 0.19 * n), 0.35 if n_head > 1 else 0  # inches
    ax, width, height = new_axes(ax, min(17.8, n_columns * (side + space)), n_rows * (side + space), margins=(2.2, 1.8))
    space = min(space, 0.2 * min(width / n_columns, height / n_rows))  # for the head's name
    side = min(width / n_columns, height / n_rows) - space  # the Axes has equal units
    gap = space / side * n  # in tokens
    from matplotlib import colormaps

    colours = colormaps["viridis"].with_extremes(bad=MASKED)
    hidden = np.triu(np.ones((n, n), dtype=bool), k=1)
    places = [(i % n_columns * (n + gap), i // n_columns * (n + gap)) for i in range(n_head)]
    for (x, y), head, pattern in zip(places, result.heads, result.pattern, strict=True):
        image = ax.imshow(np.ma.array(pattern, mask=hidden), cmap=colours, vmin=0, vmax=1, interpolation="nearest",
                          extent=(x - 0.5, x + n - 0.5, y + n - 0.5, y - 0.5))
        if n_head > 1:
            ax.text(x + (n - 1) / 2, y - 0.5 - 0.2 * gap, f"head {head}", ha="center", va="bottom",
                    size=min(9, 0.7 * space / LINE))
    size = 7 if n_head > 1 else 8
    token_axis(ax.xaxis, result.pieces, side, sorted({x for x, _ in places}), size)
    token_axis(ax.yaxis, result.pieces, side, sorted({y for _, y in places}), size)
    ax.set(xlim=(-0.5, n_columns * (n + gap) - gap - 0.5), ylim=(n_rows * (n + gap) - gap - 0.5, -0.5 - gap))
    name_all(ax, result.title, width, "token looked at (key)", "token that looks (query)")
    ax.spines[:].set_visible(False)
    colour_bar(image, ax, "attention (grey: masked, it comes later)", n_rows * (side + space))
    return ax


def show_attention(text: str | None = None, layer: int = 0, head: int | None = None, *, k: int = 3,
                   out: str | None = None, model_size: str | None = None, models_dir: str | None = None) -> None:
    """Where the heads of a layer look: for each token, how much attention it pays to itself and those before it.

    Args:
        layer: which layer, from 0.
        head: which head, from 0; without it, all heads of the layer.
        k: with one head, how many tokens to list for each token; with all heads, only the first is listed.
    """
    print_answer(attention, plot_attention, text, out, model_size, models_dir, layer, head, k=k)
