"""How the next token is chosen from its logits."""
from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from generation.checks import check_number, check_whole
from generation.prompt_lookup import near_tie, rounding


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    Args:
        temperature: 0 takes the most likely token each time (greedy); else the logits are divided by it, and a token is
            drawn from their softmax.
        top_k: draw from the k most likely tokens only.
        top_p: draw from the fewest tokens that together have this probability, in (0, 1] (nucleus sampling, Holtzman
            et al., https://arxiv.org/abs/1904.09751).
        seed: int for the same choices each time, None for others each time.

    Raises:
        TypeError, ValueError: an option is not as described; the message says which and why.

    Example:
        >>> Sampling(temperature=1, top_k=2).probabilities(np.log([0.5, 0.25, 0.25])).round(2).tolist()
        [0.67, 0.33, 0.0]
    """

    temperature: float = 0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, lambda t: 0 <= t <= sys.float_info.max,
                     "a finite number, 0 (greedy) or more")
        if self.top_k is not None:
            check_whole("top_k", self.top_k, 1)
        if self.top_p is not None:
            check_number("top_p", self.top_p, lambda p: 0 < p <= 1, "a number above 0 and at most 1")
        if self.seed is not None:
            check_whole("seed", self.seed, 0)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Each token's probability: logits [n_vocab] -> float64 [n_vocab]; ValueError if a logit is NaN."""
        check_logits(logits)
        if self.temperature == 0:
            return np.eye(1, len(logits), int(np.argmax(logits)))[0]
        # Infinite logits become the largest finite ones: the difference of two infinities is not a number.
        logits = np.nan_to_num(logits.astype(np.float64))
        with np.errstate(over="ignore"):  # of a tiny temperature: -inf, whose probability is 0
            p = np.exp((logits - logits.max()) / np.float64(self.temperature))
        if self.top_k is not None and self.top_k < len(p):
            p[np.argpartition(-logits, self.top_k - 1)[self.top_k :]] = 0
        p /= p.sum()
        if self.top_p is not None:
            # The tokens left out here add up to at most 1 - top_p, so they are not needed; sorting all takes longer.
            likely = np.flatnonzero(p > (1 - self.top_p) / len(p) / 2)  # half of it: at least one, however p is rounded
            order = likely[np.argsort(-p[likely], kind="stable")]
            kept = order[: 1 + np.searchsorted(np.cumsum(p[order]), self.top_p)]
            p = np.bincount(kept, p[kept], minlength=len(p)) / p[kept].sum()
        return p

    def rng(self) -> Any:
        """A random generator of this seed; None at temperature 0, which draws nothing: its import takes 10 ms."""
        return None if self.temperature == 0 else np.random.default_rng(self.seed)

    def choose(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        """The next token, an int, from its logits [n_vocab]; ValueError if a logit is NaN.

        Exponential noise decides: a token's probability divided by its noise is the largest with that probability (the
        Gumbel-max trick, Maddison et al., https://arxiv.org/abs/1411.0030, without its logarithms). In a table of
        cumulative probabilities, the rounding of one logit would move all the others.
        """
        if self.temperature == 0:
            check_logits(logits)
            return int(np.argmax(logits))
        return int(np.argmax(self.probabilities(logits) / exponential(rng, len(logits))))

    def is_near_tie(self, logits: np.ndarray, rng: np.random.Generator) -> bool:
        """Whether `choose(logits, rng)` might be another token if the logits were rounded differently."""
        if self.temperature == 0:
            return near_tie(logits)
        p, noise, margin = self.probabilities(logits), exponential(rng, len(logits)), rounding(logits)
        race, kept = p / noise, p > 0
        winner = np.argmax(race)
        unsure = np.zeros_like(kept)
        if not kept.all() and self._edge_is_unsure(logits, kept, margin):
            edge, next_one = np.argmin(np.where(kept, logits, np.inf)), np.max(logits[~kept])
            unsure = (logits <= logits[edge] + margin) & (logits >= next_one - margin)
            race[unsure] = p[edge] * np.exp((logits[unsure] - logits[edge]) / self.temperature) / noise[unsure]
        near = race >= race[winner] * np.exp(-margin / self.temperature)
        return bool(unsure[winner] or np.count_nonzero(near) > 1)

    def _edge_is_unsure(self, logits: np.ndarray, kept: np.ndarray, margin: np.floating) -> bool:
        """Whether rounding may decide which tokens top_k and top_p keep."""
        least = logits[kept].min()
        if least - logits[~kept].max() <= margin:
            return True
        if self.top_p is None:
            return False
        p = replace(self, top_p=None).probabilities(logits)
        mass = p[kept].sum()  # at least top_p, and without the least likely token less than that
        return min(mass - self.top_p, self.top_p - mass + p[kept].min()) <= margin / self.temperature


def exponential(rng: np.random.Generator, n: int) -> np.ndarray:
    """n exponentially distributed numbers, none of them 0."""
    return np.maximum(rng.standard_exponential(n), np.finfo(np.float64).tiny)


def seed_of(seed: int | None, place: int) -> int | None:
    """The seed of the text at a place in a batch (0 is the first); None stays None, a different seed each time."""
    return None if seed is None else int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0])


def check_logits(logits: np.ndarray) -> None:
    """ValueError if a logit is NaN: damaged weights, or a hook, made it so."""
    if np.isnan(logits.max()):
        raise ValueError(f"logit {int(np.argmax(np.isnan(logits)))} is not a number (NaN), so no token can be chosen: "
                         "the weights are damaged, or a hook returned a value that is not finite")

