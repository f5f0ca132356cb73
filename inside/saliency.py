"""Which tokens of the text made the answer?"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.hooks import Hook
from inside.answers import answer_of, tokens_up_to
from inside.command import print_answer
from inside.gradients import forward_and_backward
from inside.model import check_model, model_name
from inside.pictures import bars
from inside.result import table_of, titled, with_title
from inside.tokens import pieces_of, quote
from utils import Model


@titled
class Saliency(NamedTuple):
    """What each token of a text does for an answer: pieces of the text, values float64 [n_seq] (positive where the
    token speaks for the answer), and the piece of the answer."""

    pieces: list[str]
    values: np.ndarray
    answer: str


def saliency(text: str | Sequence[int], model: Model, answer: str | int | None = None, wrong: str | int | None = None,
             position: int = -1, hook: Hook | None = None) -> Saliency:
    """What each token of a text does for the answer: the gradient of the answer's logit times the token's embedding.

    To first order, this is how much of the logit goes when the embedding does (gradient times input, Shrikumar et al.,
    "Not Just a Black Box", 2016, https://arxiv.org/abs/1605.01713). Far from small changes it is a hint: `ablation`
    and `patching` measure.

    Args:
        text, model: as in `tokens`.
        answer: the token to explain: its text, " C", or its id, 417 or "#417"; the model's likeliest if not given.
        wrong: another token: what is explained is then the answer's logit minus this one's.
        position: the token after which the answer comes, from 0; -1 is the last one. Those after it do not count.
        hook: as in `gpt2.gpt2`.

    Returns:
        Saliency, of the tokens up to the position.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> pieces, values, answer = saliency("First Citizen. Second Citizen. First", model, " C", " S")
    >>> pieces[values.argmax()]
    'itizen'
    """
    model = check_model(model)
    ids, pieces = tokens_up_to(text, model, position)
    if answer is None:
        answer = int(model.logits(ids, n_logits=1, hook=hook)[-1].argmax())
    watched = answer_of(model, answer, wrong)
    values, gradients = forward_and_backward(ids, model, watched, hook)
    each = (values["embed"].astype(np.float64) * gradients["embed"]).sum(axis=-1)  # [n_seq, n_embd] -> [n_seq]
    return with_title(Saliency(pieces, each, pieces_of(watched.ids, model.encoder)[0]),
                      f"{model_name(model)}: effect of each token on the logit of {watched.named} after "
                      f"{quote(ids, model.encoder)}", f"logit of {watched.named}")


@table_of(Saliency)
def table_saliency(result) -> Table:
    """`Saliency` as a table."""
    rows = zip(range(len(result.pieces)), result.pieces, result.values, strict=True)
    return Table("><>", ["", "token", f"saliency for the {result.metric}"],
                 [[str(i), piece, f"{value:+.3f}"] for i, piece, value in rows])


def plot_saliency(result: Any, ax: Any = None) -> Any:
    """Draw `Saliency` as bars, the first token on top."""
    return bars(ax, result.pieces, result.values, [f"{value:+.2f}" for value in result.values],
                "effect on the logit", "token", result.title)


def show_saliency(text: str | None = None, answer: str | None = None, wrong: str | None = None, position: int = -1, *,
                  out: str | None = None, model_size: str | None = None, models_dir: str | None = None) -> None:
    """What each token of a text does for the answer: the gradient of its logit times the token's embedding.

    Args:
        answer: the token to explain: its text, with its space if it has one, or its id, as "#417"; by default the
            model's likeliest.
        wrong: another token: what is explained is then the answer's logit minus this one's.
    """
    print_answer(saliency, plot_saliency, text, out, model_size, models_dir, answer, wrong, position)
