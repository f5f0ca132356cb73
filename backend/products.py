"""Matrix products: those of NumPy, fast for few rows too."""
import functools

import numpy as np

from backend.blas import blas
from backend.team import n_threads, share

MAX_BLOCK_ROWS = 64  # of x: a product of more is as fast in one call as in blocks
MAX_SINGLE_ROWS = 7  # of x: more are multiplied faster at once than one by one
SINGLE_ROWS_BLOCK = 96 * 1024  # elements of w, 384 KB: they stay in the core's own cache
MIN_SHARED_WORK = 2**20  # multiplications: a product of fewer is over before another thread could help


def matmul(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x @ w, [n_seq, n_in] @ [n_in, n_out], fast for few rows too.

    It is computed as (w.T @ x.T).T: the weights are stored column by column (`model_files.weights`), so w.T
    lies in memory row by row. If the pass has threads of its own, they share out the rows of w.T.
    """
    n_seq, n_out = len(x), w.shape[1]
    if n_threads() == 0 and 8 < n_seq < 16 and small_products():  # it takes 16 at once: 10 tokens take 11% less time
        x = np.concatenate([x, np.zeros_like(x, shape=(16 - n_seq, x.shape[1]))])
    w, x = w.T, x.T
    if not w.flags.c_contiguous:  # weights that lie in memory row by row: then w.T is a transposed matrix
        x = untransposed(x)
    if n_threads() == 0 or n_seq == 1 and w.size < MIN_SHARED_WORK:
        return (w @ x).T[:n_seq]
    if n_threads() == 1:
        return few_rows(w, x).T
    result = np.empty((n_out, n_seq), dtype=np.result_type(x, w))
    n_panel = -(-n_out // (n_threads() * 64)) * 64  # more and smaller panels cost more than they even out

    def multiply_panel(start: int) -> None:
        few_rows(w[start : start + n_panel], x, out=result[start : start + n_panel])

    share(multiply_panel, range(0, n_out, n_panel))
    return result.T


def untransposed(x: np.ndarray) -> np.ndarray:
    """x with its rows contiguous in memory, so that it can be multiplied with a transposed matrix.

    With AVX-512, OpenBLAS is not thread-safe when it multiplies two small transposed matrices: its function
    sgemm_small_kernel_tt_SKYLAKEX keeps the stride of the result in a static variable, so that two threads write to the
    wrong places. That made one of a few hundred long prompts wrong, and may crash the process. It was seen in the
    OpenBLAS of NumPy 2.4.6 and 2.5.5, not in that of 1.26.4.
    """
    return np.ascontiguousarray(x)


def few_rows(w: np.ndarray, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """w @ x, [n_out, n_in] @ [n_in, n_seq], in one call, or for 2 to 64 columns in blocks of w.

    A BLAS rearranges both matrices before it multiplies, which for few columns takes as long as the rest. With AVX-512,
    OpenBLAS leaves that out for products of at most 10**6 multiplications
    (https://github.com/OpenMathLib/OpenBLAS/pull/3335). In blocks of that size, 8, 32 and 64 columns take 0.5, 0.6 and
    0.75 of the time of one call (one core, 768 x 2,304). Its loops fit a multiple of 6 rows, or 4 rows and 64 columns.

    Other kernels always rearrange, but not for a product with a vector. So up to 7 columns are multiplied one by one
    with each block of w while it is in the core's own cache: 2, 4 and 7 columns take 0.6, 0.7 and 0.7 of the time of
    one call (one core with AVX2, the 124M's shapes).
    """
    (n_out, n_in), n_seq = w.shape, x.shape[1]
    if small_products():
        most = 10**6 // (n_in * n_seq) if n_seq else 0
        n_block, max_rows = most // 6 * 6 or 4 * (most >= 4 and n_seq == 64), MAX_BLOCK_ROWS
    else:
        n_block, max_rows = SINGLE_ROWS_BLOCK // n_in, MAX_SINGLE_ROWS
    if not (2 <= n_seq <= max_rows and 0 < n_block <= n_out and w.flags.c_contiguous):
        return np.matmul(w, x, out=out)
    if out is None:
        out = np.empty((n_out, n_seq), dtype=np.result_type(w, x))
    x = np.ascontiguousarray(x if small_products() else x.T)
    n_whole = n_out - n_out % n_block
    blocks, results = w[:n_whole].reshape(-1, n_block, n_in), out[:n_whole].reshape(-1, n_block, n_seq)
    if small_products():
        np.matmul(blocks, x, out=results)
    else:
        np.matmul(blocks[:, None], x[:, :, None], out=results.swapaxes(1, 2)[..., None])
        x = x.T
    if n_whole < n_out:
        np.matmul(w[n_whole:], x, out=out[n_whole:])
    return out


@functools.cache
def small_products() -> bool:
    """Whether the BLAS is an OpenBLAS that multiplies small matrices as they are, which it does with AVX-512."""
    architectures = {str(getattr(library, "architecture", "")).lower() for library in blas.libraries}
    return not architectures.isdisjoint({"skylakex", "cooperlake", "sapphirerapids"})
