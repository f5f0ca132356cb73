"""What is computed together: the texts of a batch, as they start, grow and end."""
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from generation.sampling import Sampling

MAX_ROWS = 1024  # of a pass: what its intermediate arrays take stays below some 30 MB at the 124M's width


class Continuation:
    """A text of a batch that is being generated.

    Args:
        prompt: list of int.
        n_new: how many ids to generate.
        seed: of this text's sampling.
    """

    def __init__(self, prompt: list[int], n_new: int, seed: int | None):
        self.ids, self.n_prompt, self.n_max = prompt, len(prompt), len(prompt) + n_new
        self.rng = np.random.default_rng(seed)
        self.cache: Any = None  # a KVCache, from its start to its end
        self.n_alone = 0  # how many positions of the cache were computed as `generate` computes them
        self.ended = False

    @property
    def step(self) -> list[int]:
        """The ids of the next pass: those that the cache does not have."""
        return self.ids[self.cache.length :]

    def choose(self, logits: np.ndarray, sampling: Sampling, alone: Callable) -> int:
        """The next id, the one that `generate` chooses.

        Rows computed side by side are rounded differently from one row alone, which decides between tokens that are
        nearly as good as each other. Then `alone`, a callable (text) -> logits, computes them again.
        """
        state = self.rng.bit_generator.state
        if sampling.is_near_tie(logits, self.rng):
            logits = alone(self)
        self.rng.bit_generator.state = state
        return sampling.choose(logits, self.rng)

    def steps_alone(self) -> Iterator[list[int]]:
        """The passes of `generate` up to here, as lists of ids, from where the last of them ended."""
        self.cache.length = self.n_alone
        while self.cache.length < len(self.ids):
            start = self.cache.length
            yield self.ids[start : max(self.n_prompt, start + 1)]
        self.n_alone = self.cache.length

    def append(self, i: int, stop_id: int | None) -> None:
        """Append the next id, unless it is `stop_id`."""
        if i != stop_id:
            self.ids.append(i)
        if i == stop_id or len(self.ids) == self.n_max:
            self.ended, self.cache = True, None


def running(texts: list[Continuation], make_cache: Callable, max_texts: int, max_bytes: int
            ) -> Iterator[list[Continuation]]:
    """The texts of each pass, until all have ended: whenever one ends, the next that fits starts.

    Args:
        texts: all of them, in order.
        make_cache: callable n -> `KVCache` with room for n positions.
        max_texts: how many run at once.
        max_bytes: what their caches take together; one text runs in any case.
    """
    waiting = iter(texts)
    batch: list[Continuation] = []
    next_text = next(waiting, None)
    while next_text or batch:
        n_rows, n_bytes = len(batch), sum(text.cache.n_bytes for text in batch)
        while next_text and len(batch) < max_texts:
            cache = make_cache(next_text.n_max)  # the memory is only reserved: pages come when they are written
            if batch and (n_rows + next_text.n_prompt > MAX_ROWS or n_bytes + cache.n_bytes > max_bytes):
                break
            next_text.cache = cache
            batch.append(next_text)
            n_rows, n_bytes = n_rows + next_text.n_prompt, n_bytes + cache.n_bytes
            next_text = next(waiting, None)
        yield batch
        batch = [text for text in batch if not text.ended]
