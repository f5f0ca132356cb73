"""Prompt lookup decoding: guess the next tokens from text that repeats itself.

If the last few tokens have come before, what followed them then may follow again (Saxena, 2023,
https://github.com/apoorvumang/prompt-lookup-decoding). One pass over the whole guess checks it, since each row of
logits predicts the token after it, and the part that the model would have chosen anyway is kept. It is speculative
decoding (Leviathan et al., https://arxiv.org/abs/2211.17192) with the text itself as the draft model: it
needs no second model. It changes the speed but no token, as long as rounding stays below `ROUNDING`.
"""
from collections.abc import Callable, Iterator

import numpy as np

from generation.kv_cache import KVCache

# The shortest and longest match, and the fewest and most tokens guessed from it. A pass over 1 + 7 rows takes as long
# as 1.7 to 2.3 passes over one row, a pass over 1 + 63 rows as long as 4.7 to 5.7; without AVX-512, twice that.
MATCH, GUESS = (4, 64), (7, 63)

# Rows computed side by side are rounded differently from one row alone. Logits that are closer than this, as a fraction
# of the largest, may change places. (Measured: 3e-6 at the 124M's shapes.)
ROUNDING = 2**-15

BYTES = 4  # of an id in the history


def next_ids_with_lookup(ids: list[int], n_new: int, forward: Callable, cache: KVCache, choose: Callable,
                         stop_id: int | None) -> Iterator[int]:
    """As `gpt2.next_ids`, with guesses: `choose` must be greedy."""
    text, guesses = list(ids), PromptLookup(ids)
    end = len(text) + n_new
    while len(text) < end:
        guess = guesses.guess(end - len(text) - 1)  # empty, unless the text repeats itself
        logits = forward(text[cache.length :] + guess, cache=cache, n_logits=1 + len(guess))
        new_ids = accepted(guess, logits, choose)  # what was guessed right, and one more unless two are nearly tied
        guesses.extend(new_ids)
        for i in new_ids:
            if i == stop_id:
                return
            yield i
        text += new_ids
        cache.length = len(text) - 1  # the next pass begins with the last token; what was guessed wrong is forgotten


class PromptLookup:
    """Guesses from the text so far. It asks for longer matches after wrong guesses and guesses more after right ones.

    Args:
        ids: list of int, the prompt.
    """

    def __init__(self, ids: list[int]):
        self.history = to_bytes(ids)  # as bytes, so that searching for ids is searching for a substring
        self.n_match, self.n_guess = MATCH[0], GUESS[0]
        self.last_guess: list[int] = []
        self.plain_pass_next = True  # the first pass is plain, and so is one that decides a near tie

    def guess(self, n_max: int) -> list[int]:
        """At most n_max ids that may follow the text; an empty list if nothing repeats."""
        n_guess = 0 if self.plain_pass_next else min(self.n_guess, n_max)
        self.last_guess, self.plain_pass_next = look_up(self.history, self.n_match, n_guess), False
        return self.last_guess

    def extend(self, new_ids: list[int]) -> None:
        """Append what followed: the `accepted` part of the last guess."""
        self.history += to_bytes(new_ids)
        if not self.last_guess:
            return
        n_right = sum(i == guessed for i, guessed in zip(new_ids, self.last_guess))
        self.plain_pass_next = n_right == len(new_ids)  # no id after the guess: a near tie
        if n_right == len(self.last_guess):
            self.n_match, self.n_guess = max(self.n_match // 2, MATCH[0]), min(2 * self.n_guess + 1, GUESS[1])
        else:
            self.n_guess = GUESS[0]
            if n_right < 3:  # the guess cost more than it saved
                self.n_match = min(2 * self.n_match, MATCH[1])


def look_up(history: bytes, n_match: int, n_guess: int) -> list[int]:
    """What followed the last n_match ids when they came before: a list of n_guess ids, or an empty one.

    Args:
        history: the text so far, as bytes (`BYTES` per id).
        n_match, n_guess: how many ids must match, and how many to guess.
    """
    end = len(history) - 1
    if n_guess == 0 or len(history) <= n_match * BYTES:
        return []
    pattern = history[-n_match * BYTES :]
    place = history.rfind(pattern, 0, end)
    while place % BYTES:  # a match that begins inside an id; or -1, for no match
        if place < 0:
            return []
        place = history.rfind(pattern, 0, place + len(pattern) - 1)
    period = np.frombuffer(history[place + len(pattern) :], np.uint32)
    return np.resize(period, n_guess).tolist()  # repeated if too short: then the text is a loop


def accepted(guess: list[int], logits: np.ndarray, choose: Callable[[np.ndarray], int]) -> list[int]:
    """The ids that follow, given the logits of a pass over the last token and a guess.

    Args:
        guess: list of n_guess ids.
        logits: [1 + n_guess, n_vocab]; row i predicts the token after the first i of the guess.
        choose: callable logits [n_vocab] -> id.

    Returns:
        list of int: the part of the guess that is right, and the id that the model chooses after it. That id is left
        out where the two best logits are closer than `ROUNDING`: a pass over that one row decides.
    """
    new_ids = []
    for row, guessed in zip(np.ascontiguousarray(logits), [*guess, None]):
        if guess and near_tie(row):
            break
        new_ids.append(choose(row))
        if new_ids[-1] != guessed:
            break
    return new_ids


def near_tie(logits: np.ndarray) -> bool:
    """Whether the two best logits are so close that rounding may decide between them."""
    return bool(np.count_nonzero(logits >= logits.max() - rounding(logits)) > 1)


def rounding(logits: np.ndarray) -> np.floating:
    """By how much the difference of two logits may change when they are computed beside other rows."""
    return ROUNDING * max(logits.max(), -logits.min())


def to_bytes(ids: list[int]) -> bytes:
    return np.asarray(ids, np.uint32).tobytes()
