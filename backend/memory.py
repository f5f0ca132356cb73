"""Keep freed memory for reuse."""
import functools

from backend.cores import c_function

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h


@functools.cache  # once
def keep_freed_memory() -> None:
    """Make the C library keep freed memory for reuse.

    It hands freed blocks of more than 128 KB back to the system, so that each new intermediate array has to be paged in
    again, which takes longer than to compute it: gelu took 12 us a row, and 2.6 us with this. glibc's mallopt(3) sets
    the two limits. (By itself glibc raises them when a large block is freed, but not where the environment sets one of
    them, as Dask does for its workers.)
    """
    mallopt = c_function("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 256 * 2**20)  # the kv cache of 1,023 tokens of the 124M takes 75 MB
