"""Hooks: how the model's intermediate values are named, looked at and replaced."""
import functools
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

Hook = Callable[[str, np.ndarray], "np.ndarray | None"]  # hook(name, array) -> its replacement, or None to leave it

# TransformerLens's names without "hook_". BLOCK_NAMES come in each layer, in the order in which they are computed.
BY_HEAD = ("attn.q", "attn.k", "attn.v", "attn.attn_scores", "attn.pattern", "attn.z", "attn.result")
BLOCK_NAMES = ("resid_pre", "ln1.scale", "ln1.normalized", *BY_HEAD, "attn_out", "resid_mid", "ln2.scale",
               "ln2.normalized", "mlp.pre", "mlp.post", "mlp_out", "resid_post")
ON_REQUEST = "attn.result"  # computed only for a hook that names it: it is n_head times as large as the residual stream


@functools.lru_cache
def hook_names(n_layer: int) -> tuple[str, ...]:
    """The names of all values of a model with so many layers."""
    return ("embed", "pos_embed", "ln_final.scale", "ln_final.normalized", "logits",
            *(f"blocks.{i}.{name}" for i in range(n_layer) for name in BLOCK_NAMES))


def no_hook(name: str, x: np.ndarray) -> np.ndarray:
    """The hook of a plain pass: returns each value unchanged."""
    return x


class BoundHook:
    """A user's hook as the layers call it: it always returns a value.

    Args:
        hook: callable hook(name, array) that returns an array to replace the value, or None to leave it.
        place: str that goes before each name, for instance "blocks.3.".
    """

    def __init__(self, hook: Hook, place: str = ""):
        self.hook, self.place = hook, place

    def __call__(self, name: str, x: np.ndarray) -> np.ndarray:
        name = self.place + name
        replacement = self.hook(name, x)
        if replacement is None:
            return x
        if not isinstance(replacement, np.ndarray):
            raise TypeError(f"the hook returned {type(replacement).__name__} for {name}: return an array to replace "
                            "the value, or None to leave it")
        if replacement.shape != x.shape:
            raise ValueError(f"the hook returned shape {list(replacement.shape)} for {name}, which has "
                             f"{list(x.shape)}: keep the shape")
        return replacement.astype(np.float32, copy=False)

    def asks_for(self, name: str) -> bool:
        """Whether the hook's `names`, if it has any, include this one."""
        return any(name in asked for asked in getattr(self.hook, "names", None) or ())


def bound(hook: Hook | None) -> Callable[[str, np.ndarray], np.ndarray]:
    """A user's hook (or None) as the layers call it."""
    return no_hook if hook is None else BoundHook(hook)


def within(place: str, hook: Any) -> Callable[[str, np.ndarray], np.ndarray]:
    """The hook of a part of the model: `place`, for instance "blocks.3.", goes before each name."""
    return hook if hook is no_hook else BoundHook(hook.hook, hook.place + place)


def check_hook(hook: Any, n_layer: int, n_past: int = 0) -> None:
    """ValueError if a hook that says what it is for cannot work in this pass: it would silently do nothing.

    Args:
        hook: callable; its attributes, if it has them, are `names`, the names (or patterns with *) of the values it
            looks at or changes, and `whole_text`, True if it must see a text from its first position on.
        n_layer, n_past: the model's layers, and how many positions came before in the cache.
    """
    known = hook_names(n_layer)
    for pattern in getattr(hook, "names", None) or ():
        if pattern not in known and not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"the hook is for {pattern}, but the model has layers 0 to {n_layer - 1} only")
    if n_past and getattr(hook, "whole_text", False):
        raise ValueError(f"the hook needs the whole text, but this pass goes on after {n_past} positions, as those of "
                         "generate() do after the prompt: give mean() values without a position, [n_head, d_head] or "
                         "[n_embd]")


def with_results(mha: Callable) -> Callable:
    """A decorator of `mha`: a hook that asks for attn.result gets it: what each head adds to the residual stream."""

    @functools.wraps(mha)
    def run(x, c_attn, c_proj, n_head, *, hook=no_hook, **options):
        if hook is no_hook or not hook.asks_for(ON_REQUEST):
            return mha(x, c_attn, c_proj, n_head, hook=hook, **options)
        w = c_proj["w"].reshape(n_head, -1, x.shape[-1])  # [n_embd, n_embd] -> [n_head, d_head, n_embd]
        results = []

        def watch(name, value):
            value = hook(name, value)
            if name == "attn.z":  # [n_seq, n_head, d_head], [n_head, d_head, n_embd] -> [n_seq, n_head, n_embd]
                results.append(hook(ON_REQUEST, np.einsum("qhd,hde->qhe", value, w, optimize=True)))
            return value

        mha(x, c_attn, c_proj, n_head, hook=watch, **options)
        return results[0].sum(axis=1) + c_proj["b"]  # [n_seq, n_head, n_embd] -> [n_seq, n_embd]

    return run
