"""The answer that a question is about: a token that comes next, alone or against a wrong one."""
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from generation.checks import check_whole
from gpt2 import softmax
from inside.model import check_model
from inside.result import Baseline
from inside.tokens import Tokens, one_token, pieces_of, tokens
from utils import Model

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A token whose logit is watched, or how far that is above another's: ids [answer] or [answer, wrong], int; and
    `named`, both as pieces."""

    ids: list[int]
    named: str

    def logit(self, logits: np.ndarray) -> float:
        """The answer's logit, or the difference of the two, in the last row of logits [n_logits, n_vocab]."""
        chosen = logits[-1, self.ids].astype(np.float64)
        return float(chosen[0] if len(chosen) == 1 else chosen[0] - chosen[1])

    def gradient(self, n_vocab: int) -> np.ndarray:
        """The derivative of `logit` with respect to that row, float32 [1, n_vocab]: 1 at the answer, -1 at wrong."""
        d = np.zeros((1, n_vocab), dtype=np.float32)
        for i, sign in zip(self.ids, (1, -1)):
            d[0, i] += sign
        return d


def answer_of(model: Model, answer: str | int, wrong: str | int | None = None) -> Answer:
    """The answer as `one_token` finds it, and the wrong one if there is one."""
    model = check_model(model)
    ids = [one_token(answer, model, "answer"), *([] if wrong is None else [one_token(wrong, model, "wrong")])]
    return Answer(ids, " minus ".join(pieces_of(ids, model.encoder)))


def tokens_up_to(text: str | Sequence[int], model: Model, position: int | str = -1) -> Tokens:
    """The tokens of a text up to a position, the last of which the answer follows: later ones cannot change it.

    Raises TypeError or ValueError if the text has no such position; a negative one counts from the end.
    """
    ids, pieces = tokens(text, model)
    check_whole("position", position, -len(ids), len(ids) - 1, "the last token of the text")
    end = int(position) % len(ids) + 1
    return Tokens(ids[:end], pieces[:end])


def baseline_of(name: str, value: float, logits: np.ndarray, answer: Answer, model: Model) -> Baseline:
    """A whole run, by the last row of its logits [n_logits, n_vocab], to compare others with."""
    probabilities = softmax(logits[-1].astype(np.float64))
    best = int(probabilities.argmax())
    (says,) = pieces_of([best], model.encoder)
    return Baseline(name, value, says, float(probabilities[best]), best == answer.ids[0])


def warn_of_the_other_spelling(answer: Answer, logits: np.ndarray, model: Model) -> None:
    """Log a warning if the model expects the answer's first token with the space before it, or without: a slip."""
    encoder, i = model.encoder, answer.ids[0]
    text = "" if encoder is None else encoder.token_bytes(i).decode("utf-8", errors="replace")
    other = text[1:] if text.startswith(" ") else " " + text
    ids = encoder.encode(other) if text and other else []
    if len(ids) == 1 and logits[-1, ids[0]] > logits[-1, i]:
        p = softmax(logits[-1].astype(np.float64))
        logger.warning(f"the answer {text!r} has a probability of {p[i]:.1%} here, and {other!r}, "
                       f"{'without' if text.startswith(' ') else 'with'} a space before it, one of {p[ids[0]]:.1%}")
