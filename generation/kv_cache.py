"""The kv cache: keys and values that need not be computed again."""
import functools
import numbers
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from generation.hooks import Hook, no_hook

Result = TypeVar("Result")

IN_USE = ("the cache is in use by a pass that has not ended: a hook or another thread that runs the model needs a "
          "cache of its own")


class LayerCache:
    """The keys and values of one layer, each [n_head, n_ctx, d_head], of which the first `length` positions are filled.

    A position's keys and values depend on that token and the ones before it only, so they stay as they are while the
    text grows: a new token costs one row of the model, not the whole text.
    """

    def __init__(self, n_head: int, n_ctx: int, d_head: int):
        self.k = np.empty((n_head, n_ctx, d_head), dtype=np.float32)
        self.v = np.empty((n_head, n_ctx, d_head), dtype=np.float32)
        self.length = 0

    def extend(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Append the keys and values of new positions, each [n_head, n_seq, d_head].

        Returns:
            (k, v): those of all positions so far, each [n_head, length, d_head].
        """
        self.append(k, v)
        return self.read(self.length)

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        self.length = self.write(self.length, k, v)

    def write(self, n_past: int, k: np.ndarray, v: np.ndarray) -> int:
        """Write k and v after the first n_past positions; returns the new number of positions."""
        end = n_past + k.shape[1]
        self.k[:, n_past:end] = k
        self.v[:, n_past:end] = v
        return end

    def read(self, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys and values of the first `end` positions."""
        return self.k[:, :end], self.v[:, :end]


class NoCache:
    """A layer's cache that stores nothing, for a pass that no positions come before or after."""

    def extend(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return k, v


no_cache = NoCache()


class SideBySide:
    """One layer's caches of several texts, whose rows lie side by side in a pass.

    Args:
        caches: list with a `LayerCache` for each text.
        n_rows: list of int, how many rows each text has in the pass.
    """

    def __init__(self, caches: Sequence[LayerCache | NoCache], n_rows: list[int]):
        ends = np.cumsum(n_rows).tolist()
        self.caches, self.rows = caches, [slice(end - n, end) for end, n in zip(ends, n_rows)]

    def attend(self, attend: Callable[..., np.ndarray], q: np.ndarray, k: np.ndarray, v: np.ndarray, hook: Hook
               ) -> np.ndarray:
        """attend(q, k, v, cache) for each text: [n_head, n_rows, d_head]"""
        return np.concatenate([attend(q[:, rows], k[:, rows], v[:, rows], one, hook=hook)
                               for rows, one in zip(self.rows, self.caches)], axis=1)


def text_by_text(attend: Callable) -> Callable:
    """A decorator of attend(q, k, v, cache), attention within one text: if several texts lie side by side, each attends
    only to itself."""

    @functools.wraps(attend)
    def run(q, k, v, cache, *, hook=no_hook):
        if isinstance(cache, SideBySide):
            return cache.attend(attend, q, k, v, hook)
        return attend(q, k, v, cache, hook=hook)

    return run


class KVCache:
    """The keys and values of all layers, with room for n_ctx positions; `gpt2(..., cache=...)` appends to it.

    Attributes:
        layers: list of n_layer `LayerCache`.
        length: how many positions are filled. Lower it to go back to a shorter text.

    Example:
        >>> cache = KVCache(n_layer=2, n_head=4, n_ctx=16, n_embd=32)
        >>> k, v = cache.layers[0].extend(np.ones((4, 3, 8)), np.ones((4, 3, 8)))
        >>> k.shape
        (4, 3, 8)
    """

    def __init__(self, n_layer: int, n_head: int, n_ctx: int, n_embd: int):
        self.n_layer, self.n_head, self.n_ctx, self.n_embd = n_layer, n_head, n_ctx, n_embd
        self.layers = [LayerCache(n_head, n_ctx, n_embd // n_head) for _ in range(n_layer)]
        self.in_use: dict[str, object] = {}  # by a pass: at most one

    @property
    def n_bytes(self) -> int:
        """The memory, in bytes, that the keys and values of all n_ctx positions take."""
        return 8 * self.n_layer * self.n_ctx * self.n_embd

    @property
    def length(self) -> int:
        return self.layers[0].length

    @length.setter
    def length(self, length: int) -> None:
        if self.in_use:
            raise ValueError(IN_USE)
        if isinstance(length, bool) or not isinstance(length, numbers.Integral):
            raise TypeError(f"the cache's length must be a whole number from 0 to {self.length}, not {length!r}")
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} positions: its length can be lowered to 0 to "
                             f"{self.length}, not set to {length}")
        for layer in self.layers:
            layer.length = int(length)

    def all_or_nothing(self, go: Callable[[], Result]) -> Result:
        """go(), a pass that fills the cache: if it ends with an exception, the cache is as it was before.

        It is not a context manager because Ctrl-C may come between the end of the pass and the end of the context.
        """
        this_pass = object()
        try:
            if self.in_use.setdefault("by", this_pass) is not this_pass:  # in one step, even for threads and Ctrl-C
                raise ValueError(IN_USE)
            n_past = self.length
            try:
                return go()
            except BaseException:
                for layer in self.layers:
                    layer.length = n_past
                raise
        finally:
            if self.in_use == {"by": this_pass}:  # without a call, after which Ctrl-C could come
                del self.in_use["by"]

    def check(self, n_layer: int, n_head: int, n_embd: int, n_new: int) -> None:
        """ValueError unless the cache fits a model of these sizes and has room for n_new more positions."""
        for name, ours, theirs in (("n_layer", self.n_layer, n_layer), ("n_head", self.n_head, n_head),
                                   ("n_embd", self.n_embd, n_embd)):
            if ours != theirs:
                raise ValueError(f"the cache was made for {name} = {ours}, but the model has {theirs}: make one with "
                                 "KVCache(n_layer, n_head, n_ctx, n_embd)")
        if self.length + n_new > self.n_ctx:
            raise ValueError(f"{self.length + n_new} positions do not fit the cache, which has room for {self.n_ctx}: "
                             "make it larger, or lower cache.length")
