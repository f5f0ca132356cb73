"""Hooks to combine: record values, replace them, run many interventions at the cost of less than as many passes."""
from fnmatch import fnmatchcase


class record(dict):
    """A hook that keeps the values it sees, as a dict {name: array}; `gpt2.gpt2` lists the names.

    A later pass replaces what an earlier one left.

    >>> from gpt2 import gpt2
    >>> encoder, hparams, params = model
    >>> seen = record("blocks.*.attn.pattern")
    >>> logits = gpt2(encoder.encode("O Romeo"), **params, n_head=hparams["n_head"], hook=seen)
    >>> seen["blocks.5.attn.pattern"].shape
    (6, 2, 2)
    """

    def __init__(self, names=None):
        """
        Args:
            names: a name, or several, in which * stands for any text; all names if not given.
        """
        super().__init__()
        self.names = ["*"] if names is None else [names] if isinstance(names, str) else list(names)

    def __call__(self, name, array):
        if any(fnmatchcase(name, wanted) for wanted in self.names):
            self[name] = array

    def __missing__(self, name):
        kept = f"recorded were {', '.join(self)}" if self else "nothing was recorded yet: pass this as a hook first"
        raise KeyError(f"{name} was not recorded; {kept}")


def compose(*hooks):
    """One hook out of several: each gets the value as the one before it left it. None among them is skipped."""
    hooks = [hook for hook in hooks if hook is not None]

    def composed(name, array):
        replacement = None
        for hook in hooks:
            changed = hook(name, array)
            if changed is not None:
                array = replacement = changed
        return replacement

    return composed
