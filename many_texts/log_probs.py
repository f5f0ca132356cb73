"""The log-probability of each token, for many texts at once."""
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from backend.products import matmul
from gpt2 import gpt2_side_by_side

MAX_ROWS = 512  # of a pass: many short texts, or one long one
MAX_LOGITS = 128  # rows of logits at a time: one of the 124M takes 200 KB


def log_probs(texts: Sequence[Sequence[int] | np.ndarray], params: dict[str, Any], n_head: int, first_id: int,
              stride: int | None = None) -> list[np.ndarray]:
    """The natural logarithm of each token's probability after the tokens before it.

    A text longer than the context is read in `windows`. Short texts share a pass (`gpt2.gpt2_side_by_side`): nothing is
    padded.

    Args:
        texts: the ids of each text, none of them empty.
        params, n_head: as in `gpt2.generate`.
        first_id: what stands before each text, <|endoftext|>, from which its first token is predicted.
        stride: how many tokens lie between the starts of two windows, 1 to n_ctx; None is half of n_ctx.

    Returns:
        list of float64 [n_seq], one for each text.
    """
    n_ctx = len(params["wpe"])
    results = [np.empty(len(ids)) for ids in texts]
    packed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n_rows = 0
    for text, result in zip(texts, results):
        ids = np.concatenate([[first_id], text])  # position i predicts position i + 1
        for start, done, end in windows(len(result), n_ctx, stride):
            if packed and n_rows + end - start > MAX_ROWS:
                fill(packed, params, n_head)
                packed, n_rows = [], 0
            packed.append((ids[start:end], ids[1 + done : 1 + end], result[done:end]))
            n_rows += end - start
    if packed:
        fill(packed, params, n_head)
    return results


def fill(packed: list[tuple[np.ndarray, np.ndarray, np.ndarray]], params: dict[str, Any], n_head: int) -> None:
    """One pass over windows side by side, each (ids to read, ids to score at its end, where to put the results)."""
    x = gpt2_side_by_side([read for read, _, _ in packed], None, **params, n_head=n_head)  # [n_rows, n_embd]
    end = 0
    for read, scored, result in packed:
        end += len(read)
        for start in range(0, len(scored), MAX_LOGITS):
            part = slice(start, start + MAX_LOGITS)
            logits = matmul(x[end - len(scored) : end][part], params["wte"].T)  # [n, n_embd] -> [n, n_vocab]
            result[part] = log_prob_of(scored[part], logits)


def windows(n_seq: int, n_ctx: int, stride: int | None) -> Iterator[tuple[int, int, int]]:
    """(start, done, end) of each window of a text: it reads positions start to end and scores those from `done` on.

    They start `stride` positions apart; None is half of n_ctx.
    """
    stride = max(1, n_ctx // 2) if stride is None else stride
    start = done = 0
    while done < n_seq:
        end = min(start + n_ctx, n_seq)
        yield start, done, end
        start, done = start + stride, end


def log_prob_of(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The log-probability float64 [n] of each id [n], from its logits [n, n_vocab]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    right = shifted[np.arange(len(ids)), ids]
    return right - np.log(np.exp(shifted, out=shifted).sum(axis=-1, dtype=np.float64))
