"""Matrix products: those of NumPy, fast for few rows too."""
import functools

import numpy as np

from backend.blas import blas
from backend.team import n_threads, share

MAX_BLOCK_ROWS = 64  # of x, with AVX-512: a product of more is as fast in one call as in blocks
MAX_SINGLE_ROWS = 7  # of x, with AVX2: more are multiplied faster at once than one by one
CACHED_BLOCK = 96 * 1024  # elements of w, 384 KB: they stay in the core's own cache
MIN_SHARED_WORK = 2**20  # multiplications: a product of fewer is over before another thread could help


def matmul(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x @ w, [n_seq, n_in] @ [n_in, n_out], fast for few rows too.

    It is computed as (w.T @ x.T).T: the weights are stored column by column (`model_files.weights`), so w.T
    lies in memory row by row. If the pass has threads of its own, they share out the rows of w.T.
    """
    n_seq, n_out = len(x), w.shape[1]
    if n_threads() == 0 and 8 < n_seq < 16 and kernels() == "AVX-512":  # 16 at once: 10 tokens take 11% less time
        x = np.concatenate([x, np.zeros_like(x, shape=(16 - n_seq, x.shape[1]))])
    w, x = w.T, x.T
    if not w.flags.c_contiguous:  # weights that lie in memory row by row: then w.T is a transposed matrix
        x = untransposed(x)
    if n_threads() == 0:
        return (w @ x).T[:n_seq]
    if n_threads() == 1 or n_seq == 1 and w.size < MIN_SHARED_WORK:
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
    """w @ x, [n_out, n_in] @ [n_in, n_seq], in one call, or for few columns in pieces that suit OpenBLAS's kernels.

    It rearranges both matrices before it multiplies, which for few columns takes as long as the rest.
    """
    if out is None:
        out = np.empty((len(w), x.shape[1]), dtype=np.result_type(w, x))
    in_blocks = {"AVX-512": in_small_blocks, "AVX2": one_by_one}.get(kernels())
    if not (in_blocks and w.flags.c_contiguous and in_blocks(w, x, out)):
        np.matmul(w, x, out=out)
    return out


def in_small_blocks(w: np.ndarray, x: np.ndarray, out: np.ndarray) -> bool:
    """w @ x for 2 to 64 columns, faster with AVX-512. Returns whether it was done.

    With AVX-512, OpenBLAS rearranges nothing in products of at most 10**6 multiplications
    (https://github.com/OpenMathLib/OpenBLAS/pull/3335). In blocks of that size, 8, 32 and 64 columns take 0.5, 0.6 and
    0.75 of the time of one call (one core, 768 x 2,304). Its loops fit a multiple of 6 rows, or 4 rows and 64 columns.
    """
    (n_out, n_in), n_seq = w.shape, x.shape[1]
    most = 10**6 // (n_in * n_seq) if n_seq else 0
    n_block = most // 6 * 6 or 4 * (most >= 4 and n_seq == 64)
    if not (2 <= n_seq <= MAX_BLOCK_ROWS and 0 < n_block <= n_out):
        return False
    x = np.ascontiguousarray(x)
    n_whole = n_out - n_out % n_block
    np.matmul(w[:n_whole].reshape(-1, n_block, n_in), x, out=out[:n_whole].reshape(-1, n_block, n_seq))
    if n_whole < n_out:
        np.matmul(w[n_whole:], x, out=out[n_whole:])
    return True


def one_by_one(w: np.ndarray, x: np.ndarray, out: np.ndarray) -> bool:
    """w @ x for 1 to 7 columns, one by one, faster with AVX2. Returns whether it was done.

    OpenBLAS rearranges nothing for a product with a vector. Several columns take turns with each block of w while it is
    in the core's own cache: 2, 4 and 7 columns take 0.6, 0.7 and 0.7 of the time of one call (one core, the 124M's
    shapes). A single column is multiplied with one row of w after the other: the product of two vectors reads memory
    faster than that of a matrix and a vector, in 0.58 of the time.
    """
    (n_out, n_in), n_seq = w.shape, x.shape[1]
    n_block = 1 if n_seq == 1 else CACHED_BLOCK // n_in
    if not (1 <= n_seq <= MAX_SINGLE_ROWS and 0 < n_block <= n_out):
        return False
    vectors, n_whole = np.ascontiguousarray(x.T)[:, :, None], n_out - n_out % n_block  # [n_seq, n_in, 1]
    results = out[:n_whole].reshape(-1, n_block, n_seq).swapaxes(1, 2)[..., None]  # [n_blocks, n_seq, n_block, 1]
    np.matmul(w[:n_whole].reshape(-1, 1, n_block, n_in), vectors, out=results)
    if n_whole < n_out:
        np.matmul(w[n_whole:], x, out=out[n_whole:])
    return True


@functools.cache
def kernels() -> str:
    """Which of the OpenBLAS kernels with measured habits multiplies: "AVX-512", "AVX2", or "" for any other BLAS."""
    architectures = {str(getattr(library, "architecture", "")).lower() for library in blas.libraries}
    if architectures & {"skylakex", "cooperlake", "sapphirerapids"}:
        return "AVX-512"
    return "AVX2" if architectures & {"haswell", "zen"} else ""
