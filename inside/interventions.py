"""Hooks to combine: record values, replace them, sweep over many interventions.

A hook is what `gpt2.gpt2` calls with each intermediate value: hook(name, array) returns an array that takes the value's
place, or None. Here are hooks for what people do most, as pieces to combine:

    seen = record("blocks.*.attn.z")                              # keep values
    zero(1, 5), mean(1, 5)                                        # take head 5 of layer 1 out
    patch("blocks.1.attn.z", other["blocks.1.attn.z"], heads=5)   # put a value from another text in
    compose(zero(0, 3), zero(1, 5), seen)                         # one after the other
    sweep(ids, model, [zero(1, head) for head in range(6)], lambda logits: logits[-1, 417])
"""
import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np

from gpt2 import gpt2
from inside.model import check_model

Index = int | Sequence[int] | slice | None

BY_HEAD = ("attn.q", "attn.k", "attn.v", "attn.attn_scores", "attn.pattern", "attn.z")
BLOCK_NAMES = ("resid_pre", "ln1.normalized", *BY_HEAD, "attn_out", "resid_mid", "ln2.normalized", "mlp.pre",
               "mlp.post", "mlp_out", "resid_post")


@lru_cache
def hook_names(n_layer: int) -> tuple[str, ...]:
    """The names of all values of a model with so many layers."""
    return ("embed", "pos_embed", "ln_final.normalized", "logits",
            *(f"blocks.{i}.{name}" for i in range(n_layer) for name in BLOCK_NAMES))


class record(dict):
    """A hook that keeps the values it sees: a dict {name: array}. A later pass replaces what an earlier one left.

    Args:
        names: a name, or several, in which * stands for any text; all names if not given.

    Raises:
        ValueError: no value has such a name.
        KeyError: on access, a name that was not recorded.

    >>> from gpt2 import gpt2
    >>> encoder, hparams, params = model
    >>> seen = record("blocks.*.attn.pattern")
    >>> logits = gpt2(encoder.encode("O Romeo"), **params, n_head=hparams["n_head"], hook=seen)
    >>> len(seen), seen["blocks.5.attn.pattern"].shape
    (6, (6, 3, 3))
    """

    def __init__(self, names: str | Iterable[str] | None = None):
        super().__init__()
        self.patterns = ["*"] if names is None else [names] if isinstance(names, str) else list(names)
        for pattern in self.patterns:
            _check_name(pattern)

    def __call__(self, name, array):
        if any(fnmatchcase(name, pattern) for pattern in self.patterns):
            self[name] = array

    def __missing__(self, name):
        raise KeyError(f"{name} was not recorded: " + (f"these are: {', '.join(self)}" if self else
                                                       "no pass had this as its hook yet"))


class Intervention:
    """A hook that replaces values and knows which: `names`, or None if it may be any.

    `sweep` starts each run at the first layer that has one of the names.
    """

    def __init__(self, function: Callable, names: Iterable[str] | None = None):
        self.function = function
        self.names = None if names is None else frozenset(names)

    def __call__(self, name, array):
        return self.function(name, array)


def zero(layer: int, head: int | None = None, what: str = "z") -> Intervention:
    """A hook that takes a head out: its output becomes 0.

    Args:
        layer, head: which one; all heads of the layer if no head is given.
        what: the value that becomes 0, named as in the layer: z, or one without heads, as attn_out or mlp_out.

    Raises:
        ValueError: no value has such a name; when called, there is no such head.
    """
    return _replace(block_name(layer, what), lambda x: np.zeros_like(x), None, head)


def mean(layer: int, head: int | None = None, what: str = "z") -> Intervention:
    """As `zero`, but at each position the output becomes its mean over the positions of the text."""
    return _replace(block_name(layer, what), lambda x: np.broadcast_to(x.mean(axis=0), x.shape), None, head)


def patch(name: str, array, positions: Index = None, heads: Index = None) -> Intervention:
    """A hook that puts `array` in the place of a value: all of it, or only at some positions and heads.

    Args:
        name: the value's name.
        array: the new value, of the whole value's shape; only its part at `positions` and `heads` is used.
        positions: an int, ints or a slice; all positions if not given. Of attn_scores and pattern they are the queries.
        heads: the same for heads, if the value has any.

    Raises:
        ValueError: no value has such a name; when called, the shapes differ, or there is no such position or head.
    """
    array = np.asarray(array)
    _check_name(name)

    def value(x):
        if array.shape != x.shape:
            raise ValueError(f"the array to patch in for {name} has shape {list(array.shape)}, but the value has "
                             f"{list(x.shape)}: record it in a text of as many tokens, with the same model")
        return array

    return _replace(name, value, positions, heads)


def compose(*hooks) -> Intervention:
    """One hook out of several: each gets the value as the one before it left it; None is skipped."""
    hooks = tuple(hook for hook in hooks if hook is not None)

    def composed(name, array):
        replacement = None
        for hook in hooks:
            changed = hook(name, array)
            if changed is not None:
                array = replacement = changed
        return replacement

    changing = [hook for hook in hooks if not isinstance(hook, record)]
    if not all(isinstance(hook, Intervention) and hook.names is not None for hook in changing):
        return Intervention(composed)
    return Intervention(composed, {name for hook in changing for name in hook.names})


def sweep(inputs, model, interventions: Iterable, metric: Callable, *, n_logits: int | None = 1, hook=None):
    """What a metric becomes under each of many interventions.

    Up to the layer in which an intervention first changes a value, its run is the plain run. So there is one plain
    pass, which keeps the residual stream before each layer, and each run restarts at the layer where it differs: over
    the heads of all layers that is about half of the work. A restarted run calls no hook for the layers before.

    Args:
        inputs: token ids, a sequence of n_seq int.
        model: (encoder, hparams, params), as `utils.load_encoder_hparams_and_params` returns it.
        interventions: hooks; None is the plain run. Those of `zero`, `mean`, `patch`, `compose` and `Intervention`
            say what they change; with any other function the run goes through all layers.
        metric: function of the logits, float32 [n_logits, n_vocab], that returns a number or an array.
        n_logits: how many of the last rows of logits the metric gets; None for all n_seq.
        hook: a hook that works in all runs, before the intervention.

    Returns:
        An array of the metrics, [n_interventions, ...].

    Raises:
        ValueError: an intervention changes a layer that the model has not.

    >>> ids = model[0].encode("First Citizen. Second Citizen. First")
    >>> best = sweep(ids, model, [None, zero(1, 5)], lambda logits: logits[-1].argmax())
    >>> model[0].decode(best)
    ' C,'
    """
    _, hparams, params = check_model(model)
    blocks = params["blocks"]
    streams = record("blocks.*.resid_pre")
    gpt2(inputs, **params, n_head=hparams["n_head"], n_logits=1, hook=compose(hook, streams))

    def run(intervention):
        start = _first_layer(intervention, len(blocks))
        begin = f"blocks.{start}.resid_pre"
        both = compose(hook, intervention)

        def restarted(name, array):  # a pass over the layers from `start` on, which it calls 0, 1, ...
            if name in ("embed", "pos_embed"):
                return None
            if name.startswith("blocks."):
                _, i, rest = name.split(".", 2)
                name = f"blocks.{int(i) + start}.{rest}"
            if name == begin:
                return compose(patch(begin, streams[begin]), intervention)(name, array)
            return both(name, array)

        logits = gpt2(inputs, **{**params, "blocks": blocks[start:]}, n_head=hparams["n_head"], n_logits=n_logits,
                      hook=restarted if start else both)
        return metric(logits)

    return np.array([run(intervention) for intervention in interventions])


def _first_layer(intervention, n_layer):
    """The first layer in which the intervention changes a value."""
    if intervention is None:
        return n_layer - 1
    names = getattr(intervention, "names", None)
    if names is None or "embed" in names or "pos_embed" in names:
        return 0
    unknown = names - set(hook_names(n_layer))
    if unknown:
        raise ValueError(f"an intervention changes {min(unknown)}, but the model has layers 0 to {n_layer - 1} only")
    return min((int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=n_layer - 1)


def _replace(name, value, positions, heads):
    """A hook that puts value(x) in the place of x = the value `name`, at some positions and heads."""

    def replace(at, x):
        if at != name:
            return None
        new = value(x)
        if positions is None and heads is None:
            return new
        changed, part = x.copy(), _part(name, x, positions, heads)
        changed[part] = new[part]
        return changed

    return Intervention(replace, [name])


def _part(name, x, positions, heads):
    """The index of some positions and heads of a value."""
    axes = {"position": positions}  # [n_seq, n_embd]
    if name.endswith(BY_HEAD):
        axes["head"] = heads  # [n_seq, n_head, d_head]
    elif heads is not None:
        raise ValueError(f"{name} has no heads; these have: {', '.join(BY_HEAD)}")
    if name.endswith(("attn_scores", "pattern")):
        axes = {"head": heads, "position": positions}  # [n_head, n_query, n_key]
    indices = []
    for (kind, wanted), length in zip(axes.items(), x.shape):
        try:
            indices.append(np.atleast_1d(np.arange(length)[slice(None) if wanted is None else wanted]))
        except IndexError:
            raise ValueError(f"{name} has no {kind} {wanted}: they are 0 to {length - 1}") from None
    return np.ix_(*indices)


def block_name(layer: int, what: str) -> str:
    """The full name of a layer's value: blocks.3.attn.z for 3 and z."""
    name = f"blocks.{layer}.{'attn.z' if what == 'z' else what}"
    _check_name(name)
    return name


def _check_name(pattern):
    """ValueError unless some value has the name, or a name that fits the pattern."""
    names = hook_names(1000)  # no model has more layers
    if not any(fnmatchcase(name, pattern) for name in names):
        close = difflib.get_close_matches(pattern, names, n=1)
        raise ValueError(f"no value is called {pattern!r}" + (f": did you mean {close[0]!r}?" if close else "") +
                         " (the names are " + ", ".join(hook_names(0) + tuple("blocks.{i}." + n for n in BLOCK_NAMES))
                         + ")")
