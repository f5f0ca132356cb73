"""Rows of a pass: a long prompt in chunks, one per thread; in the last layer only the rows that are wanted."""
import contextlib
import functools
import math
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from backend.team import n_threads, share
from generation.hooks import no_hook
from generation.kv_cache import LayerCache, SideBySide, no_cache

MIN_CHUNK_ROWS = 64  # fewer multiply slowly
MAX_CHUNK_ROWS = 256  # of one thread of several: more need more memory
MAX_CHUNK_ROWS_ALONE = 512  # of a thread alone, which then needs as much as two threads
MAX_ROWS_IN_ONE = 256  # with this many rows chunks are faster, with any number of threads


def in_chunks(layers: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A decorator of layers(x, caches, n_wanted, ...): takes the rows of x through the layers in chunks, one per
    thread, if that is faster.

    Chunks go through a layer one shortly after the other, because a row needs the keys and values of all rows before
    it. With a hook, all rows go at once.
    """

    @functools.wraps(layers)
    def run(x: np.ndarray, caches: list[Any], n_wanted: int, blocks: list[Any], n_head: int, hook: Any = no_hook
            ) -> np.ndarray:
        if hook is not no_hook or isinstance(caches[0], SideBySide):
            return layers(x, caches, n_wanted, blocks, n_head, hook)

        def go(x: np.ndarray, caches: list[Any], n_wanted: int) -> np.ndarray:
            *caches, last = caches
            return layers(x, [*caches, LastRows(last, n_wanted)], n_wanted, blocks, n_head)

        n_chunks = number_of_chunks(len(x), n_threads())
        return go(x, caches, n_wanted) if n_chunks == 1 else chunk_by_chunk(go, x, caches, n_wanted, n_chunks)

    return run


def number_of_chunks(n_seq: int, n_threads: int) -> int:
    if n_threads <= 1:
        return -(-n_seq // MAX_CHUNK_ROWS_ALONE)
    if n_seq < min_rows_for_chunks(n_threads):
        return 1
    return min(n_threads * -(-n_seq // (n_threads * MAX_CHUNK_ROWS)), n_seq // MIN_CHUNK_ROWS)


def min_rows_for_chunks(n_threads: int) -> int:
    """From how many rows on a pass goes in chunks: with two threads 128 do, with four 256."""
    return min(n_threads * MIN_CHUNK_ROWS, MAX_ROWS_IN_ONE)


def chunk_by_chunk(go: Callable[..., np.ndarray], x: np.ndarray, caches: list[LayerCache], n_wanted: int,
                   n_chunks: int) -> np.ndarray:
    """The last n_wanted rows of x [n_seq, n_embd] after all layers, go(rows, caches, n_wanted) for each chunk."""
    n_seq, n_past = len(x), caches[0].length
    cuts, progress = equal_work(n_past, n_seq, n_chunks), Progress(n_chunks)
    outputs: list[Any] = [None] * n_chunks

    def run_chunk(i: int) -> None:
        start, stop = cuts[i : i + 2]
        chunk_caches = [ChunkCache(layer, n_past + start, n_past + stop, i, progress) for layer in caches]
        try:
            outputs[i] = go(x[start:stop], chunk_caches, max(0, min(stop - start, stop - n_seq + n_wanted)))
        except Stopped:
            pass
        except BaseException:
            progress.stopped = True
            raise

    try:
        share(run_chunk, range(n_chunks))
    finally:
        progress.stopped = True  # for those who still wait after an error or Ctrl-C
    for layer in caches:
        layer.length += n_seq
    return np.concatenate(outputs)  # [n_wanted, n_embd]


def equal_work(n_past: int, n_seq: int, n_chunks: int) -> list[int]:
    """Cut n_seq rows into chunks of the same work: [0, ..., n_seq].

    A later row meets more keys: at the 124M's shapes, position 2,000 costs twice as much as position 0.
    """
    work = np.cumsum(1 + np.arange(n_past, n_past + n_seq) / 2000)
    cuts = np.searchsorted(work, work[-1] * np.arange(1, n_chunks) / n_chunks)
    return [0, *(cuts // 4 * 4).tolist(), n_seq]  # 4 rows at a time: see `backend.products.padded`


class Stopped(Exception):
    """Another chunk failed."""


class Progress:
    """How many layers each chunk has written its keys and values in.

    Made of steps that Ctrl-C cannot leave half done, as it can threading.Event's, in Python 3.14 with its lock held.
    """

    def __init__(self, n_chunks: int):
        self.n_written = [0] * n_chunks
        self.changed: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(n_chunks)]  # wakes the chunk that waits
        self.stopped = False  # after an error or Ctrl-C

    def has_written(self, chunk: int) -> None:
        """This chunk has written its keys and values in one layer more."""
        self.n_written[chunk] += 1
        for changed in self.changed[chunk + 1 :]:
            changed.put(None)

    def wait_for_all_before(self, chunk: int) -> None:
        """Return when the chunks before this one have written in as many layers; raise `Stopped` if one failed."""
        while min(self.n_written[:chunk], default=math.inf) < self.n_written[chunk] and not self.stopped:
            with contextlib.suppress(Empty):
                self.changed[chunk].get(timeout=0.02)
        self.check()

    def check(self) -> None:
        if self.stopped:
            raise Stopped


class ChunkCache:
    """What a chunk sees of a layer's cache: the positions up to its own, n_past to stop."""

    def __init__(self, layer: LayerCache, n_past: int, stop: int, chunk: int, progress: Progress):
        self.layer, self.length, self.stop, self.chunk, self.progress = layer, n_past, stop, chunk, progress

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """As `LayerCache.append`; tells the chunks after this one when it has written all of its own."""
        self.progress.check()  # the cache may be in use by another pass already
        self.length = self.layer.write(self.length, k, v)
        if self.length == self.stop:
            self.progress.has_written(self.chunk)

    def extend(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `LayerCache.extend`; returns when all chunks before this one have written theirs."""
        self.append(k, v)
        self.progress.wait_for_all_before(self.chunk)
        return self.layer.read(self.length)


# --- the last layer -----------------------------------------------------------------------------


class LastRows:
    """The cache of the last layer, where only the last n_wanted rows are needed."""

    def __init__(self, cache: LayerCache | ChunkCache, n_wanted: int):
        self.cache, self.n_wanted = cache, n_wanted


class KeysAndValues:
    """A layer's cache that keeps keys and values and ends the block there."""

    def __init__(self, cache: LayerCache | ChunkCache):
        self.cache = cache

    def extend(self, k: np.ndarray, v: np.ndarray) -> None:
        self.cache.append(k, v)
        raise Kept


class Kept(Exception):
    """The keys and values are in the cache: nothing else of these rows is needed."""


def wanted_rows_only(block: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A decorator of transformer_block(x, ..., cache): where the cache is `LastRows`, the other rows are computed as
    far as their keys and values, since nothing uses their output."""

    @functools.wraps(block)
    def run(x: np.ndarray, *weights: Any, cache: Any = no_cache, **options: Any) -> np.ndarray:
        if not isinstance(cache, LastRows):
            return block(x, *weights, cache=cache, **options)
        others, x = np.split(x, [len(x) - cache.n_wanted])
        if len(others):
            with contextlib.suppress(Kept):
                block(others, *weights, cache=KeysAndValues(cache.cache), **options)
        return block(x, *weights, cache=cache.cache, **options) if len(x) else x

    return run
