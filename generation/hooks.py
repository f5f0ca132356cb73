"""Hooks: how the model's intermediate values are looked at or replaced."""
from collections.abc import Callable

import numpy as np

Hook = Callable[[str, np.ndarray], "np.ndarray | None"]  # hook(name, array) -> its replacement, or None to leave it
BoundHook = Callable[[str, np.ndarray], np.ndarray]


def no_hook(name: str, x: np.ndarray) -> np.ndarray:
    """The hook of a plain pass: returns each value unchanged."""
    return x


def within(place: str, hook: BoundHook) -> BoundHook:
    """The hook of a part of the model: `place`, for instance "blocks.3.", goes before each name."""
    return hook if hook is no_hook else lambda name, x: hook(place + name, x)


def bound(hook: Hook | None) -> BoundHook:
    """A user's hook (or None) as the layers call it: a value always comes back.

    Returns:
        callable (name, array) -> array. It raises TypeError or ValueError where the replacement does not fit.
    """
    if hook is None:
        return no_hook

    def call(name: str, x: np.ndarray) -> np.ndarray:
        replacement = hook(name, x)
        if replacement is None:
            return x
        if not isinstance(replacement, np.ndarray):
            raise TypeError(f"the hook returned {type(replacement).__name__} for {name}: return an array to replace "
                            "the value, or None to leave it")
        if replacement.shape != x.shape:
            raise ValueError(f"the hook returned shape {list(replacement.shape)} for {name}, which has "
                             f"{list(x.shape)}")
        return replacement.astype(np.float32, copy=False)

    return call
