"""Matrix products: those of NumPy, fast for few rows too."""
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np

from backend.blas import blas
from backend.team import has_one_core, n_threads, share, this_thread
from generation.hooks import no_hook

MAX_BLOCK_ROWS = 64  # with AVX-512: a product of more rows is as fast in one call as in blocks
MAX_DOT_ROWS = 3  # with AVX2: more rows need each block of w too often for products of two vectors
MAX_SINGLE_ROWS = 7  # with AVX2: more rows are multiplied faster at once than one by one
MIN_ROWS_OF_UNITS = 24  # of x: for fewer, sharing out the units gains nothing
MIN_ROWS_OF_HALVES = 128  # of x: for fewer, half of the units at a time saves little memory
MIN_UNITS = 64  # so that each share has some
CACHED_BLOCK = 96 * 1024  # elements of w, 384 KB: they stay in the core's own cache
HEAD_START = 1_700_000  # multiplications that a thread does until another has woken up; reading w counts as a row

Result = TypeVar("Result")


def matmul(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x @ w, [n_seq, n_in] @ [n_in, n_out], fast for few rows too.

    If the pass has threads of its own, they share out the columns of w, which lie in memory one after the other
    (`model_files.weights`). With AVX2 the rows of the result lie one after the other, too, which suits what follows.
    With AVX-512 its columns do: so its kernels are faster, by as much as what follows gains from rows.
    """
    n_seq, n_out = len(x), w.shape[1]
    if n_seq > 1 and rows_are_alone():
        return np.concatenate([matmul(row, w) for row in x[:, None]])
    x = padded(x)
    order: Literal["C", "F"] = "C" if kernels() == "AVX2" else "F"  # the BLAS then computes x @ w, or w.T @ x.T
    if order == "F" and w.strides[0] != w.itemsize:  # weights that lie in memory row by row
        x = untransposed(x.T).T
    result = np.empty((len(x), n_out), np.result_type(x, w), order)
    shares = panels(n_out, (n_seq + 1) * len(w))
    if n_threads() == 0:
        np.matmul(x, w, out=result)
    elif len(shares) == 1:
        few_rows(x, w, result)
    else:
        share(lambda panel: few_rows(x, w[:, panel], result[:, panel]), shares)
    return result[:n_seq] if len(x) > n_seq else result  # not a view, so that NumPy adds the bias in place


def each_row_alone(go: Callable[[], Result]) -> Result:
    """go(), a pass in which `matmul` rounds each row as if it were the only one.

    For some rows it takes a third of the time of a pass for each of them, since each matrix stays in the cache.
    """
    try:
        this_thread.rows_alone = True
        return go()
    finally:
        this_thread.rows_alone = False


def rows_are_alone() -> bool:
    return getattr(this_thread, "rows_alone", False)


def panels(n: int, n_mults: int) -> list[slice]:
    """n columns of n_mults multiplications each, in a panel for each thread of the pass, or in one if they are too few.

    This thread begins before the others and gets more. Smaller panels cost more than they even out.
    """
    n_panels, lead = n_threads(), HEAD_START // n_mults
    if n_panels < 2 or lead >= n:
        return [slice(0, n)]
    return cut(n, n_panels, lead)


def cut(n: int, n_parts: int, lead: int = 0) -> list[slice]:
    """n columns in parts of the same size, but the first has `lead` more; they begin at multiples of 16."""
    ends = [(lead + (n - lead) * i // n_parts) // 16 * 16 for i in range(1, n_parts)]
    return [slice(start, stop) for start, stop in zip([0, *ends], [*ends, n])]


def units_shared_out(ffn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A decorator of ffn(x, c_fc, c_proj): each thread of the pass computes what some of the hidden units give, and
    these parts are added up.

    So the threads share out gelu too, and wait for each other once instead of twice: 64 to 120 tokens take 4% less time
    (two cores). A thread alone takes one half after the other, which needs half of the memory. A hook sees all units at
    once. (Tensor parallelism: Shoeybi et al., https://arxiv.org/abs/1909.08053)
    """

    @functools.wraps(ffn)
    def run(x: np.ndarray, c_fc: dict[str, Any], c_proj: dict[str, Any], *, hook: Any = no_hook) -> np.ndarray:
        (n_embd, n_inner), is_alone = c_fc["w"].shape, n_threads() == 1
        shares = cut(n_inner, 2) if is_alone else panels(n_inner, (len(x) + 1) * 2 * n_embd)
        too_few = len(x) < (MIN_ROWS_OF_HALVES if is_alone else MIN_ROWS_OF_UNITS) or n_inner < MIN_UNITS
        if hook is not no_hook or len(shares) == 1 or too_few or rows_are_alone():
            return ffn(x, c_fc, c_proj, hook=hook)
        parts: list[Any] = [None] * len(shares)

        def compute(i: int) -> None:
            units, b = shares[i], np.zeros_like(c_proj["b"]) if i else c_proj["b"]  # the bias is added once
            parts[i] = ffn(x, {"w": c_fc["w"][:, units], "b": c_fc["b"][units]}, {"w": c_proj["w"][units], "b": b})

        share(compute, range(len(shares)))
        return functools.reduce(np.add, parts)

    return run


def padded(x: np.ndarray) -> np.ndarray:
    """x with rows of zeros, up to a number of rows that OpenBLAS's kernels multiply faster.

    With AVX2 they take 4 rows at a time, and the rest more slowly: 11 rows take 0.8 of the time with a twelfth. With
    AVX-512 they take 16: 28 rows take 0.86 of the time with 4 more. 10 rows gain from 6 more only with the BLAS's
    threads (0.89).
    """
    n_seq, multiple = len(x), 1
    if kernels() == "AVX2" and n_seq > MAX_SINGLE_ROWS:
        multiple = 4
    elif kernels() == "AVX-512" and n_seq % 16 > 8 and n_seq <= MAX_BLOCK_ROWS and (n_seq > 16 or n_threads() == 0):
        multiple = 16
    n_all = -(-n_seq // multiple) * multiple
    return np.concatenate([x, np.zeros_like(x, shape=(n_all - n_seq, x.shape[1]))]) if n_all > n_seq else x


def untransposed(x: np.ndarray) -> np.ndarray:
    """x with its rows contiguous in memory, so that it can be multiplied with a transposed matrix.

    With AVX-512, OpenBLAS is not thread-safe when it multiplies two small transposed matrices: its function
    sgemm_small_kernel_tt_SKYLAKEX keeps the stride of the result in a static variable, so that two threads write to the
    wrong places. That made one of a few hundred long prompts wrong, and may crash the process. It was seen in the
    OpenBLAS of NumPy 2.4.6 and 2.5.5, not in that of 1.26.4.
    """
    return np.ascontiguousarray(x)


def few_rows(x: np.ndarray, w: np.ndarray, out: np.ndarray) -> None:
    """x @ w in one call, or for few rows in pieces that suit OpenBLAS's kernels.

    It rearranges both matrices before it multiplies, which for few rows takes as long as the rest.
    """
    in_pieces = {"AVX-512": in_small_blocks, "AVX2": one_by_one}.get(kernels())
    if kernels() == "AVX-512" and len(x) == 1 and has_one_core():
        in_pieces = one_by_one
    if not (in_pieces and w.strides[0] == w.itemsize and in_pieces(x, w, out)):
        np.matmul(x, w, out=out)


def in_small_blocks(x: np.ndarray, w: np.ndarray, out: np.ndarray) -> bool:
    """x @ w for 2 to 64 rows, faster with AVX-512. Returns whether it was done.

    With AVX-512, OpenBLAS rearranges nothing in products of at most 10**6 multiplications
    (https://github.com/OpenMathLib/OpenBLAS/pull/3335). In blocks of that size, 8, 32 and 64 rows take 0.5, 0.6 and
    0.75 of the time of one call (one core, 768 x 2,304). Its loops fit a multiple of 6 columns, or 4 columns and 64
    rows.
    """
    (n_seq, n_in), n_out = x.shape, w.shape[1]
    most = 10**6 // (n_in * n_seq) if n_seq else 0
    n_block = most // 6 * 6 or 4 * (most >= 4 and n_seq == 64)
    if not (2 <= n_seq <= MAX_BLOCK_ROWS and 0 < n_block <= n_out):
        return False
    x, w, out = np.ascontiguousarray(x.T), w.T, out.T  # out is contiguous now
    n_whole = n_out - n_out % n_block
    np.matmul(w[:n_whole].reshape(-1, n_block, n_in), x, out=out[:n_whole].reshape(-1, n_block, n_seq))
    if n_whole < n_out:
        np.matmul(w[n_whole:], x, out=out[n_whole:])
    return True


def one_by_one(x: np.ndarray, w: np.ndarray, out: np.ndarray) -> bool:
    """x @ w for 1 to 7 rows, one by one, faster with AVX2. Returns whether it was done.

    OpenBLAS rearranges nothing for a product with a vector. Several rows take turns with each block of w while it is in
    the core's own cache: 4 and 7 rows take 0.8 and 0.7 of the time of one call (one core, 124M). Up to 3 rows are
    multiplied with one column of w after the other: the product of two vectors reads memory faster than that of a
    vector and a matrix. One row takes 0.58 of the time, 2 and 3 take 0.5. With AVX-512 and a single core one row takes
    0.9. With more cores the BLAS's threads are faster there, and the two round differently, so that one of the two must
    compute all single rows.
    """
    (n_seq, n_in), n_out = x.shape, w.shape[1]
    n_block = 1 if n_seq <= MAX_DOT_ROWS else CACHED_BLOCK // n_in
    if not (1 <= n_seq <= MAX_SINGLE_ROWS and 0 < n_block <= n_out):
        return False
    n_whole = n_out - n_out % n_block
    blocks, rows = w.T[:n_whole].reshape(-1, 1, n_block, n_in), np.ascontiguousarray(x)[:, :, None]
    results = out[:, :n_whole].reshape(n_seq, -1, n_block).swapaxes(0, 1)[..., None]  # [n_blocks, n_seq, n_block, 1]
    np.matmul(blocks, rows, out=results, order="C")  # block by block, not row by row
    if n_whole < n_out:
        np.matmul(x, w[:, n_whole:], out=out[:, n_whole:])
    return True


@functools.cache
def kernels() -> str:
    """Which of the OpenBLAS kernels with measured habits multiplies: "AVX-512", "AVX2", or "" for any other BLAS."""
    architectures = {str(getattr(library, "architecture", "")).lower() for library in blas.libraries}
    if architectures & {"skylakex", "cooperlake", "sapphirerapids"}:
        return "AVX-512"
    return "AVX2" if architectures & {"haswell", "zen"} else ""
