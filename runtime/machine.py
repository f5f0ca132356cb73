"""What makes the same arithmetic faster on the machine."""
import numpy as np


def keep_freed_memory():
    """Make the C library keep freed memory for reuse.

    It hands freed blocks of more than 128 KB back to the system, so that each new intermediate array has to be paged in
    again, which takes longer than to compute it: gelu took 12 us a row, and 2.6 us with this. Freeing one large block
    raises that limit (the dynamic M_MMAP_THRESHOLD of mallopt(3), at most 32 MB). The block is never touched and costs
    nothing.
    """
    np.empty(31 * 2**20, dtype=np.uint8)


def matmul(x, w):
    """x @ w, [n_seq, n_in] @ [n_in, n_out], fast for few rows too.

    It is computed as (w.T @ x.T).T: the weights are stored column by column (`runtime.weights`), so w.T is what lies in
    memory row after row, and for few rows of x the BLAS is a quarter faster with it. 9 to 15 rows are filled up to 16,
    which the BLAS takes at once: a prompt of 10 tokens takes 11% less time.
    """
    n_seq = len(x)
    if 8 < n_seq < 16:
        x = np.concatenate([x, np.zeros_like(x, shape=(16 - n_seq, x.shape[1]))])
    return (w.T @ x.T).T[:n_seq]
