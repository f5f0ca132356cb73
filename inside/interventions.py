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
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

import numpy as np

from generation.hooks import BLOCK_NAMES, BY_HEAD, ON_REQUEST, Hook, check_hook, hook_names
from inside.model import check_model
from utils import Model

Index = int | Sequence[int] | slice | None


class record(dict):
    """A hook that keeps copies of the values it sees: a dict {name: array}. A later pass replaces what an earlier one
    left.

    Args:
        names: a name, or several, in which * stands for any text; all names if not given. attn.result, each head's
            output after c_proj, is large: it is computed only for a hook whose names say it, as
            record("blocks.*.attn.result").

    Raises:
        ValueError: no value has such a name; in a pass, the model has no such layer.
        KeyError: on access, a name that was not recorded.

    >>> seen = record("blocks.*.attn.pattern")
    >>> logits = model.logits(model.encode("O Romeo"), hook=seen)
    >>> len(seen), seen["blocks.5.attn.pattern"].shape
    (6, (6, 3, 3))
    """

    changes: frozenset[str] = frozenset()

    def __init__(self, names: str | Iterable[str] | None = None):
        super().__init__()
        self.names = ["*"] if names is None else [names] if isinstance(names, str) else list(names)
        for pattern in self.names:
            _check_name(pattern)

    def __call__(self, name, array):
        if any(fnmatchcase(name, pattern) for pattern in self.names):
            self[name] = np.array(array)

    def __repr__(self):
        shown = [f"{name} {list(array.shape)}" for name, array in list(self.items())[:3]]
        return f"<{len(self)} arrays{': ' if shown else ''}{', '.join(shown)}{', ...' if len(self) > 3 else ''}>"

    def __missing__(self, name):
        raise KeyError(f"{name} was not recorded: " + (f"these are: {', '.join(self)}" if self else
                                                       "no pass had this as its hook yet"))


class Intervention:
    """A hook that replaces values and says which.

    Args:
        function: the hook, function(name, array).
        names: the names of the values that it looks at or changes; None if it may be any. A pass refuses those that
            its model does not have.
        changes: those that it changes; by default all of `names`. `sweep` starts each run at the first layer of them.
        whole_text: True if it must see a text from its first position on, so that a pass with a filled cache refuses
            it.
        parts: what it replaces, as far as that is known: pairs of a name and a function that gives, for the value, the
            index of the part. `gradients` needs it where what is put in is equal to what was there.
    """

    def __init__(self, function: Callable, names: Iterable[str] | None = None, changes: Iterable[str] | None = None,
                 whole_text: bool = False, parts: Iterable[tuple[str, Callable]] = ()):
        self.function, self.parts = function, tuple(parts)
        self.names = None if names is None else frozenset(names)
        self.changes = self.names if changes is None else frozenset(changes)
        self.whole_text = whole_text

    def __call__(self, name, array):
        return self.function(name, array)


def zero(layer: int, head: int | None = None, what: str = "z") -> Intervention:
    """A hook that takes a head out: its output becomes 0.

    Args:
        layer, head: which one; all heads of the layer if no head is given.
        what: the value that becomes 0, named as in the layer: z, or one without heads, as attn_out or mlp_out. In
            attn.attn_scores the causal mask stays.

    Raises:
        ValueError: no value has such a name; when called, there is no such head or layer.
    """
    return _replace(block_name(layer, what), lambda x: np.where(np.isneginf(x), x, 0), heads=head)


def mean(layer: int, head: int | None = None, what: str = "z", values=None) -> Intervention:
    """As `zero`, but the output becomes a mean: of `values`, or of this text so far.

    Args:
        layer, head, what: as in `zero`.
        values: the means to put in, for instance over many texts that `record` has seen: an array [n_head, d_head] (or
            [n_embd] for a value without heads) that is put in at each position; or with one axis more in front, a mean
            for each position, for at least as many as the text has. For attn_scores and pattern, the whole array
            [n_head, n_query, n_key]. Without `values`, each position gets the mean over itself and the positions
            before it in the same text, never over later ones.

    Raises:
        ValueError: as `zero`; when called, the shape of `values` does not fit; or the pass goes on after others, as
            those of `generate` after the first, and the mean depends on the position.

    >>> ids, seen = model.encode("First Citizen. Second Citizen. First"), record("blocks.1.attn.z")
    >>> logits = model.logits(ids, hook=seen)
    >>> hook = mean(1, 5, values=seen["blocks.1.attn.z"].mean(axis=0))
    >>> model.decode(model.generate(ids, 3, hook=hook))
    ' Citizen:'
    """
    name = block_name(layer, what)
    if values is None:
        return _replace(name, lambda x: _mean_so_far(x, _position_axis(name)), heads=head, whole_text=True)
    values = np.asarray(values)
    n_axes = 3 if name.endswith(BY_HEAD) else 2

    def value(x):
        wanted = x.shape if values.ndim == n_axes else x.shape[1:]
        given = values[: len(x)] if values.ndim == n_axes and _position_axis(name) == 0 else values
        if given.shape != wanted:
            raise ValueError(f"the mean of {name} must have shape {list(x.shape[1:])}, or {list(x.shape)} for each "
                             f"position, not {list(values.shape)}")
        return given

    return _replace(name, value, heads=head, whole_text=values.ndim == n_axes)


def _mean_so_far(x, axis):
    """The mean over each position and those before it; of scores, over the queries that may look at the key."""
    seen = np.isfinite(x)
    total = np.cumsum(np.where(seen, x, 0), axis=axis, dtype=np.float64)
    return np.where(seen, total / np.maximum(np.cumsum(seen, axis=axis), 1), x)  # masked scores stay masked


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
    array = np.array(array)
    _check_name(name)

    def value(x):
        if array.shape != x.shape:
            raise ValueError(f"the array to patch in for {name} has shape {list(array.shape)}, but the value "
                             f"has {list(x.shape)}: record it in the same model, with the same number of tokens")
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

    def union(attribute):
        sets = [getattr(hook, attribute, None) for hook in hooks]
        return {name for names in sets for name in (["*"] if names is None else names)}  # None: it may be any

    return Intervention(composed, union("names"), union("changes"),
                        any(getattr(hook, "whole_text", False) for hook in hooks),
                        [part for hook in hooks for part in getattr(hook, "parts", ())])


def sweep(inputs, model: Model, interventions: Iterable, metric: Callable, *, n_logits: int | None = 1,
          hook: Hook | None = None):
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
        ValueError: an intervention is for a layer that the model does not have.

    >>> ids = model[0].encode("First Citizen. Second Citizen. First")
    >>> best = sweep(ids, model, [None, zero(1, 5)], lambda logits: logits[-1].argmax())
    >>> model[0].decode(best)
    ' C,'
    """
    model = check_model(model)
    blocks, streams = model.params["blocks"], record("blocks.*.resid_pre")
    model.logits(inputs, n_logits=1, hook=compose(hook, streams))

    def run(intervention):
        check_hook(intervention, model.n_layer)
        start = _first_layer(intervention, model.n_layer)
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

        asked = ["*", *(f"blocks.*.{ON_REQUEST}" for name in both.names or () if ON_REQUEST in name)]
        rest = model._replace(params={**model.params, "blocks": blocks[start:]})
        return metric(rest.logits(inputs, n_logits=n_logits, hook=Intervention(restarted, asked) if start else both))

    return np.array([run(intervention) for intervention in interventions])


def _first_layer(intervention, n_layer):
    """The first layer in which the intervention changes a value."""
    if intervention is None:
        return n_layer - 1
    changes = getattr(intervention, "changes", None)
    if changes is None:
        return 0
    names = [name for name in hook_names(n_layer) if any(fnmatchcase(name, pattern) for pattern in changes)]
    if "embed" in names or "pos_embed" in names:
        return 0
    return min((int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=n_layer - 1)


def _replace(name, value, positions=None, heads=None, whole_text=False):
    """A hook that puts value(x) in the place of x = the value `name`, at some positions and heads."""

    def part_of(x):
        return _part(name, x, positions, heads)

    def replace(at, x):
        if at != name:
            return None
        changed, part = x.copy(), part_of(x)
        changed[part] = np.broadcast_to(value(x), x.shape)[part]
        return changed

    return Intervention(replace, [name], whole_text=whole_text, parts=[(name, part_of)])


def _part(name, x, positions, heads):
    """The index of some positions and heads of a value."""
    axes = {"position": positions}  # [n_seq, n_embd]
    if name.endswith(BY_HEAD):
        axes["head"] = heads  # [n_seq, n_head, d_head]
    elif heads is not None:
        raise ValueError(f"{name} has no heads; these have: {', '.join(BY_HEAD)}")
    if _position_axis(name) == 1:
        axes = {"head": heads, "position": positions}  # [n_head, n_query, n_key]
    indices = []
    for (kind, wanted), length in zip(axes.items(), x.shape):
        wanted = slice(None) if wanted is None else list(wanted) if isinstance(wanted, tuple) else wanted
        try:
            indices.append(np.atleast_1d(np.arange(length)[wanted]))
        except IndexError:
            raise ValueError(f"{name} has no {kind} {wanted}: they are 0 to {length - 1}") from None
    return np.ix_(*indices)


def _position_axis(name):
    """Which axis of a value counts its positions; of scores and pattern, [n_head, n_query, n_key], the queries."""
    return 1 if name.endswith(("attn_scores", "pattern")) else 0


def block_name(layer: int, what: str) -> str:
    """The full name of a layer's value: blocks.3.attn.z for 3 and z."""
    name = f"blocks.{layer}.{f'attn.{what}' if f'attn.{what}' in BY_HEAD else what}"
    _check_name(name)
    return name


def _check_name(pattern):
    """ValueError unless some value has the name, or a name that fits the pattern, in whatever layer."""
    layer = re.match(r"blocks\.(\d+)\.", pattern)
    first = lambda name: f"blocks.0.{name[layer.end():]}" if layer else name
    if not any(fnmatchcase(name, first(pattern)) for name in hook_names(1)):
        close = difflib.get_close_matches(first(pattern), hook_names(1), n=1)
        hint = f": did you mean {re.sub('0', layer[1], close[0], count=1) if layer else close[0]!r}?" if close else ""
        raise ValueError(f"no value is called {pattern!r}{hint} (the names are " + ", ".join(
            hook_names(0) + tuple("blocks.{i}." + name for name in BLOCK_NAMES)) + ")")
