"""What would each layer predict?"""
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from backend.passes import run_on_cores
from backend.team import share
from cli.tables import Table
from generation.checks import check_whole
from generation.hooks import Hook
from gpt2 import layer_norm
from inside.command import print_answer
from inside.interventions import compose, record
from inside.model import check_model, model_name
from inside.next_tokens import likeliest
from inside.pictures import CHARACTER, LINE, colour_bar, families, legible, name_all, new_axes, number_axis, token_axis
from inside.result import table_of, titled, with_title
from inside.tokens import pieces_of, quote, tokens
from many_texts.batches import logits_of
from utils import Model

MOST_ROWS = 256  # of logits at a time: with the 124M's vocabulary they take 50 MB


@titled
class LogitLens(NamedTuple):
    """What each layer would predict: pieces of the text; for the k likeliest next tokens after each layer and at each
    position ids int [n_layer, n_seq, k], predictions (their pieces, an array of str) and probabilities float32, both
    of the same shape."""

    pieces: list[str]
    ids: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray


def logit_lens(text: str | Sequence[int], model: Model, k: int = 1, hook: Hook | None = None) -> LogitLens:
    """What each layer would predict at each position if it were the last: the logit lens.

    The residual stream after a layer is read the way the model reads it after its last layer (`unembed`). So the last
    layer's predictions are the model's own. (nostalgebraist, "interpreting GPT: the logit lens", 2020,
    https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru)

    Args:
        text, model: as in `tokens`.
        k: how many predictions for each layer and position.
        hook: as in `gpt2.gpt2`; what it does after the last layer does not show.

    Returns:
        LogitLens.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> logit_lens("First Citizen. Second Citizen. First", model).predictions[:, -1, 0].tolist()
    ['·S', '·C', '·C', '·C', '·C', '·C']
    """
    model = check_model(model)
    check_whole("k", k, 1, model.hparams["n_vocab"], "the size of the vocabulary")
    ids, pieces = tokens(text, model)
    names = [f"blocks.{i}.resid_post" for i in range(model.n_layer)]
    seen = record(names)
    model.logits(ids, n_logits=1, hook=compose(hook, seen))
    streams, shape = np.concatenate([seen[name] for name in names]), (len(names), len(ids), k)
    best, probabilities = (each.reshape(shape) for each in predicted(streams, model.params, k))
    predictions = np.array(pieces_of(best.ravel(), model.encoder)).reshape(shape)
    return with_title(LogitLens(pieces, best, predictions, probabilities),
                      f"{model_name(model)}: what each layer would predict next in {quote(ids, model.encoder)}")


def unembed(x, params):
    """The residual stream x [n_seq, n_embd] of any layer as logits [n_seq, n_vocab]: the last norm, then wte."""
    return logits_of(layer_norm(x, **params["ln_f"]), params["wte"])


def predicted(x, params, k):
    """What the residual stream x [n_seq, n_embd] of any layer predicts: the ids of the k likeliest tokens, int
    [n_seq, k], and their probabilities, float32 [n_seq, k]."""
    ids, probabilities = np.empty((len(x), k), np.intp), np.empty((len(x), k), np.float32)

    def predict(i):  # one row, which stays in the core's own cache
        row = logits[i - start]
        ids[i] = likeliest(row, k)
        row -= row[ids[i, 0]]
        weights = np.exp(row, out=row)
        probabilities[i] = weights[ids[i]] / weights.sum()

    for start in range(0, len(x), MOST_ROWS):
        logits = unembed(x[start : start + MOST_ROWS], params)
        run_on_cores(functools.partial(share, predict, range(start, start + len(logits))), len(logits), 1, x.shape[1])
    return ids, probabilities


@table_of(LogitLens)
def table_logit_lens(result) -> Table:
    """`LogitLens` as a table: a row for each token, a column for each layer."""
    n_layer, n, k = result.ids.shape
    return Table("><" + "<" * n_layer, ["", "token", *(f"layer {i}" for i in range(n_layer))],
                 [[str(i) if j == 0 else "", result.pieces[i] if j == 0 else "",
                   *(f"{result.predictions[m, i, j]} {result.probabilities[m, i, j]:.0%}" for m in range(n_layer))]
                  for i in range(n) for j in range(k)], n_repeated=2)


def plot_logit_lens(result: Any, ax: Any = None) -> Any:
    """Draw `LogitLens`: a row for each token, a column for each layer; in each cell the likeliest next token."""
    n_layer, n, _ = result.ids.shape
    ax, width, height = new_axes(ax, 0.8 * n_layer, max(1.5, 0.22 * n if n < 80 else 0.115 * n), margins=(2.6, 1.5))
    p = result.probabilities[:, :, 0].T  # [n_seq, n_layer]
    image = ax.imshow(p, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    size = min(8, 0.95 * height / n / LINE)
    longest = min(9, int(width / n_layer / (1.3 * size * CHARACTER)))  # characters in a cell; capitals are wide
    if size >= 5 and longest >= 3:
        labels = legible(result.predictions[:, :, 0].T.ravel(), longest)
        for (token, layer), label in np.ndenumerate(np.reshape(labels, p.shape)):
            ax.text(layer, token, label, size=size, color="black" if p[token, layer] > 0.6 else "white", ha="center",
                    va="center_baseline", family=families(label), parse_math=False, in_layout=False)
    token_axis(ax.yaxis, result.pieces, height, size=min(8, max(5.5, size)))
    number_axis(ax.xaxis, n_layer, width)
    if n > 40:  # too far to look down to the bottom
        ax.tick_params("x", top=True, labeltop=True)
    name_all(ax, result.title, width + 1, "after layer", "token")
    colour_bar(image, ax, "probability of the prediction", height)
    return ax


def show_logit_lens(text: str | None = None, k: int = 1, *, out: str | None = None, model_size: str | None = None,
                    models_dir: str | None = None) -> None:
    """What each layer would predict at each position if it were the last: the logit lens.

    Args:
        k: how many predictions for each layer and position.
    """
    print_answer(logit_lens, plot_logit_lens, text, out, model_size, models_dir, k)
