"""Hooks: how the model's intermediate values are looked at or replaced."""
from collections.abc import Callable

import numpy as np

Hook = Callable[[str, np.ndarray], "np.ndarray | None"]  # hook(name, array) -> its replacement, or None to leave it


def no_hook(name: str, x: np.ndarray) -> np.ndarray:
    """The hook of a plain pass: returns each value unchanged."""
    return x


def at(place: str, hook: Hook | None) -> Callable[[str, np.ndarray], np.ndarray]:
    """A user's hook (or None) as the layers call it: `place` goes before each name, and a value always comes back.

    Args:
        place: str, for instance "blocks.3.".
        hook: callable hook(name, array) that returns an array to replace the value, or None to leave it; or None.

    Returns:
        callable (name, array) -> array. It raises TypeError or ValueError where the replacement does not fit.
    """
    if hook is None:
        return no_hook

    def call(name, x):
        replacement = hook(place + name, x)
        if replacement is None:
            return x
        if not isinstance(replacement, np.ndarray):
            raise TypeError(f"the hook returned {type(replacement).__name__} for {place + name}: return an array to "
                            "replace the value, or None to leave it")
        if replacement.shape != x.shape:
            raise ValueError(f"the hook returned shape {list(replacement.shape)} for {place + name}, which has "
                             f"{list(x.shape)}")
        return replacement.astype(np.float32, copy=False)

    return call
