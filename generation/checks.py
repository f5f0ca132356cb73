"""Argument checks: what the model refuses, and why."""
import functools
import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from generation.hooks import Hook, bound, check_hook
from generation.kv_cache import KVCache

if TYPE_CHECKING:
    from generation.sampling import Sampling


class ForwardPass(Protocol):
    """`gpt2.gpt2` as it is called."""

    def __call__(self, inputs: Sequence[int] | np.ndarray, wte: np.ndarray, wpe: np.ndarray,
                 blocks: list[dict[str, Any]], ln_f: dict[str, Any], n_head: int, *, cache: KVCache | None = None,
                 n_logits: int | None = None, hook: Hook | None = None) -> np.ndarray: ...


def checked_pass(forward: Callable[..., np.ndarray]) -> ForwardPass:
    """A decorator of the forward pass that checks and completes its arguments.

    It refuses arguments that do not fit each other, makes the ids an array, wraps the hook so that it always returns a
    value, makes a cache if there is none, and sets n_logits. If the pass raises an exception, the cache is left as it
    was.
    """

    @functools.wraps(forward)
    def run(inputs, wte, wpe, blocks, ln_f, n_head, *, cache=None, n_logits=None, hook=None):
        inputs = check_ids(inputs, n_vocab=len(wte))
        check_pass(len(inputs), wte, wpe, blocks, n_head, cache, n_logits)
        if cache is None:
            cache = KVCache(len(blocks), n_head, len(inputs), wte.shape[1])
        check_hook(hook, len(blocks), cache.length)
        return cache.all_or_nothing(functools.partial(
            forward, inputs, wte, wpe, blocks, ln_f, n_head, cache=cache, n_logits=n_logits or len(inputs),
            hook=bound(hook)))

    return run


def check_ids(ids: Sequence[int] | np.ndarray, n_vocab: int) -> np.ndarray:
    """Token ids as an int array [n_seq]; TypeError or ValueError if they are not ids that the model knows."""
    try:
        n_seq = len(ids)
    except TypeError:
        raise TypeError(f"token ids must be a sequence of whole numbers, not {ids!r}") from None
    for i in ids:
        if isinstance(i, (bool, np.bool_)) or not isinstance(i, numbers.Integral):
            hint = ": encode the text first, encoder.encode(text)" if isinstance(i, str) else ""
            raise TypeError(f"token ids must be whole numbers, not {i!r}{hint}")
        if not 0 <= int(i) < n_vocab:  # a negative one would count from the end
            raise ValueError(f"token id {i} is not in the vocabulary: ids are 0 to {n_vocab - 1}")
    if n_seq == 0:
        raise ValueError("there are no token ids: the model needs at least one; <|endoftext|> begins a new text")
    return np.asarray(ids, dtype=np.intp)


def check_whole(name: str, value: object, low: int, high: int | None = None, what: str = "") -> None:
    """TypeError or ValueError unless `value` is a whole number from low to high; `what` says what `high` is."""
    wanted = f"at least {low}" if high is None else f"from {low} to {high} ({what})"
    wrong = f"{name} must be a whole number{', ' if high is None else ' '}{wanted}, not {value!r}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(wrong)
    if not low <= int(value) or high is not None and int(value) > high:
        raise ValueError(wrong)


def check_number(name: str, value: object, valid: Callable[[Any], bool], wanted: str) -> None:
    """TypeError or ValueError unless `value` is a number and valid."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    if not is_number or not valid(value):
        raise (ValueError if is_number else TypeError)(f"{name} must be {wanted}, not {value!r}")


def check_pass(n_seq: int, wte: np.ndarray, wpe: np.ndarray, blocks: list[dict[str, Any]], n_head: int,
               cache: KVCache | None, n_logits: int | None) -> None:
    """TypeError or ValueError unless the arguments of `gpt2.gpt2` fit each other."""
    n_embd, n_past = wte.shape[1], 0
    check_whole("n_head", n_head, 1, n_embd, "n_embd, the width of the model")
    if n_embd % n_head:
        raise ValueError(f"n_head must divide the width of the model, {n_embd} (n_embd): {n_head} does not")
    n_head_of_model = getattr(blocks, "n_head", n_head)  # `utils.Blocks` knows it; a plain list does not
    if n_head != n_head_of_model:
        raise ValueError(f"the model has {n_head_of_model} heads, not {n_head}: call with n_head=hparams[\"n_head\"]")
    if n_logits is not None:
        check_whole("n_logits", n_logits, 1, n_seq, "the number of token ids")
    if cache is not None:
        if not isinstance(cache, KVCache):
            raise TypeError(f"the cache must be a KVCache(n_layer, n_head, n_ctx, n_embd), not {type(cache).__name__}")
        cache.check(len(blocks), n_head, n_embd, n_seq)
        n_past = cache.length
    if n_past + n_seq > len(wpe):
        raise ValueError(f"{n_past + n_seq} positions exceed the context of {len(wpe)} (n_ctx): shorten the text")


def check_generation(inputs: Sequence[int] | np.ndarray, params: dict[str, Any], n_tokens_to_generate: int,
                     stop_id: int | None, sampling: "Sampling") -> list[int]:
    """The prompt's ids; TypeError or ValueError unless a generation with these options can be done."""
    n_vocab, n_ctx = len(params["wte"]), len(params["wpe"])
    ids: list[int] = check_ids(inputs, n_vocab).tolist()
    check_whole("n_tokens_to_generate", n_tokens_to_generate, 1, n_ctx, "the context, n_ctx")
    if stop_id is not None:
        check_whole("stop_id", stop_id, 0, n_vocab - 1, "the last token id")
    if sampling.top_k is not None:
        check_whole("top_k", sampling.top_k, 1, n_vocab, "the size of the vocabulary")
    if len(ids) + n_tokens_to_generate > n_ctx:
        raise ValueError(f"a prompt of {len(ids)} tokens and {n_tokens_to_generate} new ones make "
                         f"{len(ids) + n_tokens_to_generate}, more than the context of {n_ctx} (n_ctx): shorten the "
                         "prompt or ask for fewer")
    return ids
