"""What the model refuses, with the reason."""
import numbers
from collections.abc import Sequence

import numpy as np

from generation.kv_cache import KVCache


def check_ids(ids: Sequence[int] | np.ndarray, n_vocab: int) -> np.ndarray:
    """Token ids as an int array [n_seq]; TypeError or ValueError where they are not ids that the model knows."""
    try:
        n_seq = len(ids)
    except TypeError:
        raise TypeError(f"token ids must be a sequence of whole numbers, not {ids!r}") from None
    for i in ids:
        if isinstance(i, (bool, np.bool_)) or not isinstance(i, numbers.Integral):
            raise TypeError(f"token ids must be whole numbers, not {i!r}")
        if not 0 <= int(i) < n_vocab:  # a negative one would count from the end
            raise ValueError(f"token id {i} is not in the vocabulary: ids are 0 to {n_vocab - 1}")
    if n_seq == 0:
        raise ValueError("there are no token ids: the model needs at least one; <|endoftext|> begins a new text")
    return np.asarray(ids, dtype=np.intp)


def check_whole(name: str, value: object, low: int, high: int, what: str) -> None:
    """TypeError or ValueError unless `value` is a whole number from low to high; `what` says what `high` is."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number from {low} to {high} ({what}), not {value!r}")
    if not low <= int(value) <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high} ({what}), not {value!r}")


def check_pass(n_seq, wte, wpe, blocks, n_head, cache, n_logits):
    """TypeError or ValueError unless the arguments of `gpt2` fit each other; returns n_past, the cache's length."""
    n_embd, n_past = wte.shape[1], 0
    check_whole("n_head", n_head, 1, n_embd, "n_embd, the width of the model")
    if n_embd % n_head:
        raise ValueError(f"n_head must divide the width of the model, {n_embd} (n_embd): {n_head} does not")
    if n_head != getattr(blocks, "n_head", n_head):
        raise ValueError(f"the model has {blocks.n_head} heads, not {n_head}: call with n_head=hparams[\"n_head\"]")
    if n_logits is not None:
        check_whole("n_logits", n_logits, 1, n_seq, "the number of token ids")
    if cache is not None:
        if not isinstance(cache, KVCache):
            raise TypeError(f"the cache must be a KVCache(n_layer, n_head, n_ctx, n_embd), not {type(cache).__name__}")
        cache.check(len(blocks), n_head, n_embd, n_seq)
        n_past = cache.length
    if n_past + n_seq > len(wpe):
        raise ValueError(f"{n_past + n_seq} positions are more than the context of {len(wpe)} (n_ctx): shorten the "
                         "text")
    return n_past


def check_generation(n_prompt, n_tokens_to_generate, stop_id, top_k, n_vocab, n_ctx):
    """TypeError or ValueError unless a generation with these options can be done."""
    check_whole("n_tokens_to_generate", n_tokens_to_generate, 1, n_ctx, "the context, n_ctx")
    if stop_id is not None:
        check_whole("stop_id", stop_id, 0, n_vocab - 1, "the last token id")
    if top_k is not None:
        check_whole("top_k", top_k, 1, n_vocab, "the size of the vocabulary")
    if n_prompt + n_tokens_to_generate > n_ctx:
        raise ValueError(f"a prompt of {n_prompt} tokens and {n_tokens_to_generate} new ones make "
                         f"{n_prompt + n_tokens_to_generate}, more than the context of {n_ctx} (n_ctx): shorten the "
                         "prompt or ask for fewer")


def check_command(sampling, n_tokens_to_generate, n_samples, stop):
    """ValueError unless the options of gpt2.py fit each other, as far as that is known without the model."""
    for name, value in (("n_tokens_to_generate", n_tokens_to_generate), ("n_samples", n_samples)):
        if value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, not {value}")
    if stop == "":
        raise ValueError("stop is empty: give the text before which to end")
    idle = {"top_k": sampling.top_k, "top_p": sampling.top_p, "seed": sampling.seed,
            "n_samples": n_samples if n_samples > 1 else None}
    for name, value in idle.items():
        if sampling.temperature == 0 and value is not None:
            raise ValueError(f"{name} = {value} makes no difference at temperature 0, which takes the most likely "
                             "token each time: give a --temperature above 0, for instance 0.8")
