"""What the live page asks: one state of the page in, its numbers out.

A state says which text, what is taken out or patched in, and what is being looked at. The passes made last are kept, so
that a look at another token or head needs none.
"""
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from backend.passes import run_on_cores
from generation.checks import check_ids, check_whole
from generation.kv_cache import KVCache
from generation.sampling import Sampling
from inside import page_data
from inside.interventions import block_name, compose, patch, record, sweep
from inside.logit_lens import predicted
from inside.model import check_choice, check_model
from inside.next_tokens import likeliest
from inside.page import Page, page_of
from inside.tokens import one_token, pieces_of, tokens
from many_texts.batches import MAX_LOGITS, log_prob_of, logits_of, side_by_side

VIEWS = ("next", "attention", "layers", "patching")
SMALL = 48  # a longer text's small patterns are drawn in this many rows, each the largest weights of several
MOST_KEPT = 50_000  # predictions of the logit lens that are kept
MOST_ROWS = 768  # of the logit lens, over all layers: with the 124M's 12 those of 64 tokens
MOST_WORK = 10**9  # multiplications for the logit lens before it is shown: with the 124M those of 2 tokens
MOST_RUNS = 300  # that `measure` makes: those of the 124M take some seconds


class Asked(NamedTuple):
    """A state of the page, as the browser sends it; most fields are those of `state` in browser/data.js."""

    text: str | None = None  # what was typed; or
    ids: Sequence[int] = ()  # the tokens, where nothing was typed since
    steps: Sequence[str | int] = ()  # then: "likeliest", "sample" or "back", or the ids of tokens to append
    temperature: float = 1
    token: int | None = None  # the last one
    head: Sequence[int] | None = None  # layer and head; the one where the token looks most decidedly
    out: Sequence[int] = ()  # the parts that are taken out
    other: str = ""  # the second text
    patches: Sequence[Sequence[int]] = ()  # (layer, token), where its stream goes in
    answer: str | int | None = None
    wrong: str | int | None = None
    view: str = "next"
    explained: int | None = None  # the id whose prediction is explained; the likeliest one
    saliency: bool = False
    opened: bool = False  # is an attention weight opened?


class Changes(NamedTuple):
    """What is changed in a pass: parts taken out, and places whose stream comes from a pass over another text."""

    out: tuple[int, ...] = ()
    other: tuple[int, ...] = ()
    patches: tuple[tuple[int, int], ...] = ()

    def before(self, end: int) -> "Changes":
        """Those in a pass over the tokens before `end` alone."""
        return Changes(self.out, self.other[:end], tuple((layer, at) for layer, at in self.patches if at < end))

    def up_to(self, layer: int, n_head: int) -> "Changes":
        """Those that change what comes out of a layer."""
        return Changes(tuple(part for part in self.out if part < (layer + 1) * (n_head + 1)), self.other,
                       tuple((of, at) for of, at in self.patches if of <= layer))


class Run(NamedTuple):
    """A pass over a text, and beside it over <|endoftext|> and all its tokens but the last, from which each token is
    predicted: both take little longer than one.

    Each of the `streams`, before and after each layer, and `normalized`, after the last norm, is
    [2, n_seq, n_embd]; log_probs float64 [n_seq] are NaN until they are asked for.
    """

    ids: tuple[int, ...]
    streams: record
    normalized: np.ndarray
    log_probs: np.ndarray


NOTHING = Run((), record(), np.empty(0), np.empty(0))


class Interrupted(Exception):
    """Something else is asked meanwhile."""


class Explorer:
    """A model, and the passes over the texts looked at last.

    Args:
        model: as in `tokens`, with a tokenizer.
        rng: np.random.Generator for sampled tokens.
    """

    def __init__(self, model, rng: np.random.Generator | None = None):
        self.model = self.encoder, self.hparams, self.params = check_model(model)
        self.k = min(10, self.hparams["n_vocab"])  # how many tokens to list as the likeliest
        self.rng = np.random.default_rng() if rng is None else rng
        self.passed = functools.lru_cache(maxsize=4)(self._pass)
        self.patterns = functools.lru_cache(maxsize=2)(self._patterns)
        self.latest: dict[tuple[int, ...], tuple[Run, list[KVCache]]] = {}  # by what is taken out, the last one last
        self.logits = functools.lru_cache(maxsize=12)(self._logits)
        self.lens_of: dict[tuple, tuple[list[int], list[float]]] = {}  # of a text up to a token, and a layer

    def see(self, asked: dict) -> dict:
        """What the page shows in a state, a dict of `Asked`.

        Raises:
            TypeError, ValueError: the state is not as described, or the text is too long. What is wrong with the second
                text or the answer is part of what is returned.
        """
        state, ids, changes = self._read(asked)
        token = state.token
        logits = {"whole": self.logits(ids, Changes(), token), "now": self.logits(ids, changes, token)}
        explained = self._explained(state, logits["now"])
        top = {explained}.union(*(likeliest(run, self.k) for run in logits.values()))
        data = page_data.about_model(self.model, self.k) | page_data.about_text(ids, self.model)
        data |= {"live": True, "token": token, "head": state.head, "text": self._text(ids),
                 "changes": self.in_words(changes), "explained": explained,
                 "next": {token: {name: page_data.run(run, top) for name, run in logits.items()}}}
        if state.view != "attention":  # where the tokens' colours say how surprising they are
            data["surprisal"] = page_data.surprisal(self.log_probs(ids, changes))
        if state.view == "next" and state.saliency:
            data["saliency"] = page_data.about_saliency(ids, self.model, token, explained,
                                                         self._hook(changes.before(token + 1)))
        elif state.view == "attention":
            data |= self._attention(ids, changes, state)
        elif state.view == "layers":
            data["lens"] = self._lens(ids, changes, token)
        elif state.view == "patching" and state.other:
            data["patching"] = self._patching(state, ids, changes)
        return data | {"pieces": page_data.pieces(page_data.ids_in(data), self.encoder)}

    def measure(self, asked: dict, interrupted: Callable[[], bool] = lambda: False) -> dict:
        """What takes long: the effect of each part that could be taken out or, in the view of patching, of each place
        that could be patched, nothing where it would take too long; in that of the layers, the whole logit lens.

        Args:
            asked: as in `see`.
            interrupted: says whether to raise Interrupted, between two steps of it.
        """
        state, ids, changes = self._read(asked)
        n_layer, n_head = self.hparams["n_layer"], self.hparams["n_head"]

        def metrics(interventions, hook, metric):
            def interruptible(logits):
                if interrupted():
                    raise Interrupted
                return metric(logits[0])

            return sweep(ids, self.model, interventions, interruptible, n_logits=len(ids) - state.token, hook=hook)

        if state.view == "next" and n_layer * (n_head + 1) <= MOST_RUNS:
            now = self.logits(ids, changes, state.token)
            answer = self._explained(state, now)
            found = metrics([page_data.part_taken_out(part, n_head) for part in range(n_layer * (n_head + 1))],
                            self._hook(changes), lambda logits: page_data.log_prob(logits, answer))
            return {"effects": {"token": state.token, "answer": answer,
                                "log_probs": page_data.rounded(found - page_data.log_prob(now, answer), 3)}}
        if state.view == "patching" and state.other and n_layer * len(ids) <= MOST_RUNS:
            texts = self._patching(state, ids, changes)
            if texts.get("error") or texts["clean"] == texts["corrupted"]:
                return {}
            plain = Changes(changes.out)
            source = self.passed(self._ids(state.other), plain).streams
            names = [block_name(layer, "resid_pre") for layer in range(n_layer)]
            found = metrics([patch(name, source[name][0], positions=at) for name in names for at in range(len(ids))],
                            self._hook(plain), lambda logits: difference(logits, texts["answer"], texts["wrong"]))
            fractions = (found - texts["corrupted"]) / (texts["clean"] - texts["corrupted"])
            return {"places": page_data.rounded(fractions.reshape(n_layer, -1), 3)}
        if state.view == "layers":
            lens = self._lens(ids, changes, state.token)
            while any([] in layer for layer in lens["ids"]):
                if interrupted():
                    raise Interrupted
                lens = self._lens(ids, changes, state.token)
            return {"lens": lens, "pieces": page_data.pieces(page_data.ids_in({"lens": lens}), self.encoder)}
        return {}

    def page(self, asked: dict) -> Page:
        """The page to save: all that is in a file, of the state's text with its changes."""
        state, ids, changes = self._read(asked)
        return page_of(page_data.whole_page(
            ids, self.model, self.k, self._hook(changes), state.token, state.head, self.in_words(changes),
            self.log_probs(ids, changes), self._hook(changes.before(state.token + 1))))

    def _explained(self, state, logits):
        """The id whose prediction after the chosen token is explained."""
        if state.explained is None:
            return int(np.argmax(logits))
        return int(check_ids([state.explained], self.hparams["n_vocab"])[0])

    # --- reading a state ---

    def _read(self, asked):
        """(Asked, ids, Changes), checked; the token is a number."""
        try:
            state = Asked(**asked)
        except TypeError:
            raise TypeError(f"a state has the fields {', '.join(Asked._fields)}") from None
        for name in ("text", "other"):
            if not isinstance(value := getattr(state, name), (str, type(None))):
                raise TypeError(f"{name} must be a string, not {value!r}")
        n_layer, n_head = self.hparams["n_layer"], self.hparams["n_head"]
        check_choice("view", state.view, VIEWS)
        if state.head is not None:
            for value, high in zip(state.head, (n_layer - 1, n_head - 1), strict=True):
                check_whole("head", value, 0, high, "the last one")
        for part in state.out:
            check_whole("out", part, 0, n_layer * (n_head + 1) - 1, "the last part")
        out = tuple(sorted(set(state.out)))
        ids = self._ids(state.ids if state.text is None else state.text)
        other = self._ids(state.other) if state.other else ()
        for step in state.steps:
            ids = self._stepped(ids, step, state.temperature, Changes(out))
        token = len(ids) - 1 if state.token is None else state.token
        check_whole("token", token, 0, len(ids) - 1, "the last token")
        patches = tuple(sorted({(layer, at) for layer, at in state.patches})) if len(other) == len(ids) else ()
        for layer, at in patches:
            check_whole("layer", layer, 0, n_layer - 1, "the last layer")
            check_whole("token", at, 0, len(ids) - 1, "the last token")
        changes = Changes(out, other if patches else (), patches)
        head = self._decided_head(ids, changes, token) if state.head is None else tuple(state.head)
        return state._replace(token=token, head=head), ids, changes

    def _decided_head(self, ids, changes, token):
        """The head in which a token looks most at a single one, beside itself and the first, where idle heads look."""
        patterns = self.patterns(ids, changes)
        row = token // -(-len(ids) // SMALL)  # in `small` patterns
        most = np.array([pattern[:, row, 1:row].max(axis=-1, initial=0) for pattern in patterns])  # [n_layer, n_head]
        layer, head = np.unravel_index(np.argmax(most), most.shape)
        return int(layer), int(head)

    def _ids(self, text):
        """Ids as a tuple, no more than fit into the context."""
        n_ctx = self.hparams["n_ctx"]
        too_long = "the text has {} tokens, but the model's context holds {}: shorten it"
        if isinstance(text, str) and len(text) > n_ctx * self.encoder.max_token_bytes:  # not even worth encoding
            raise ValueError(too_long.format(f"more than {n_ctx}", n_ctx))
        ids = tokens(text, self.model).ids.tolist()
        if len(ids) > n_ctx:
            raise ValueError(too_long.format(len(ids), n_ctx))
        return tuple(ids)

    def _stepped(self, ids, step, temperature, changes):
        """The ids after a step."""
        start = self.encoder.new_text()
        if step == "back":
            return ids[:-1] or tuple(start)
        if len(ids) == self.hparams["n_ctx"]:
            raise ValueError(f"the text fills the model's context of {len(ids)} tokens: step back")
        if step in ("likeliest", "sample"):
            sampling = Sampling(temperature=temperature if step == "sample" else 0)
            return (*ids, int(sampling.choose(self.logits(ids, changes, len(ids) - 1), self.rng)))
        return (*ids, *check_ids([step], self.hparams["n_vocab"]).tolist())

    def _text(self, ids):
        """The text of some ids as one would type it: without the <|endoftext|> that begins a new one."""
        start = self.encoder.new_text()
        return self.encoder.decode(ids[1:] if list(ids[:1]) == start else ids)

    def in_words(self, changes: Changes) -> str:
        """What is changed: "without layer 1, head 5"."""
        n_head = self.hparams["n_head"]
        parts = [divmod(part, n_head + 1) for part in changes.out]
        names = [f"layer {layer}, " + (f"head {of}" if of < n_head else "feed-forward network") for layer, of in parts]
        said = ["without " + "; ".join(names)] if names else []
        if changes.patches:
            said.append("patched at " + "; ".join(f"layer {layer}, token {at}" for layer, at in changes.patches))
        return ", ".join(said)

    # --- passes ---

    def _hook(self, changes, beside=False):
        """The hook that makes the changes in a pass over the text alone, or with the second one of `Run` beside it."""
        hooks = [page_data.part_taken_out(part, self.hparams["n_head"]) for part in changes.out]
        if changes.patches:
            source, n = self.passed(changes.other, Changes(changes.out)).streams, len(changes.other)
            for layer, at in changes.patches:
                stream = source[name := block_name(layer, "resid_pre")]  # [2, n_seq, n_embd]
                rows = [at, n + at + 1][: 2 if at + 1 < n else 1] if beside else at
                hooks.append(patch(name, np.concatenate(stream) if beside else stream[0], positions=rows))
        return compose(*hooks) if hooks else None  # a pass without a hook is faster

    def _pass(self, ids, changes):
        """The `Run` of a text. What it has in common with the text before, as when a letter is typed, is kept."""
        texts, start = [list(ids), [*self.encoder.new_text(), *ids[:-1]]], 0
        before, caches = NOTHING, None
        if not changes.patches:
            before, caches = self.latest.pop(changes.out, (NOTHING, [self._cache(), self._cache()]))
            differ = (i for i, (a, b) in enumerate(zip(ids, before.ids)) if a != b)
            start = min(next(differ, len(before.ids)), len(ids) - 1)
            for cache in caches:
                cache.length = start
        streams = record(["blocks.*.resid_pre", "blocks.*.resid_post"])
        x = side_by_side([text[start:] for text in texts], caches, **self.params, n_head=self.hparams["n_head"],
                         hook=compose(self._hook(changes, beside=True), streams))
        normalized, log_probs = x.reshape(2, -1, x.shape[-1]), np.full(len(ids), np.nan)
        for name, stream in streams.items():
            streams[name] = stream.reshape(normalized.shape)
        if start:
            normalized = np.concatenate([before.normalized[:, :start], normalized], axis=1)
            log_probs[:start] = before.log_probs[:start]
            for name, stream in streams.items():
                streams[name] = np.concatenate([before.streams[name][:, :start], stream], axis=1)
        run = Run(ids, streams, normalized, log_probs)
        if caches:
            self.latest[changes.out] = run, caches
            if len(self.latest) > 2:  # with nothing and with something taken out
                del self.latest[next(iter(self.latest))]
        return run

    def _cache(self):
        return KVCache(*(self.hparams[name] for name in ("n_layer", "n_head", "n_ctx", "n_embd")))

    def log_probs(self, ids, changes):
        """The log-probability of each token, as `score`; computed once."""
        run = self.passed(ids, changes)
        new = np.flatnonzero(np.isnan(run.log_probs))
        for rows in np.array_split(new, -(-len(new) // MAX_LOGITS)) if len(new) else ():
            logits = logits_of(run.normalized[1, rows], self.params["wte"])
            run.log_probs[rows] = log_prob_of(np.array(ids)[rows], logits)
        return run.log_probs

    def _logits(self, ids, changes, token):
        """The logits [n_vocab] of what follows a token."""
        return logits_of(self.passed(ids, changes).normalized[0, token : token + 1], self.params["wte"])[0]

    def _patterns(self, ids, changes):
        """The small patterns of all heads: a list of an array for each layer."""
        streams, n_head = self.passed(ids, changes).streams, self.hparams["n_head"]

        def patterns():
            inputs = (page_data.head_inputs(streams[block_name(layer, "resid_pre")][0], block, n_head)
                      for layer, block in enumerate(self.params["blocks"]))
            return [small(page_data.pattern_of(q, k)) for q, k, _ in inputs]

        return run_on_cores(patterns, len(ids), self.hparams["n_layer"], self.hparams["n_embd"])

    # --- what the views show ---

    def _attention(self, ids, changes, state):
        patterns = [page_data.triangles(each) for each in self.patterns(ids, changes)]
        layer, head = state.head
        stream = self.passed(ids, changes).streams[block_name(layer, "resid_pre")][0]
        q, k, v = page_data.head_inputs(stream, self.params["blocks"][layer], self.hparams["n_head"])[:, head]
        data: dict[str, Any] = {"attention": patterns}
        if len(ids) > SMALL:
            pattern = page_data.triangles(page_data.pattern_of(q, k)[None])
            data = {"small": patterns, "attention": [[]] * layer + [[[]] * head + pattern]}
        if state.opened:
            data["opened"] = page_data.opened(state.head, q, k, v)
        return data

    def _lens(self, ids, changes, token):
        """The logit lens of the tokens around the chosen one: the likeliest, and for the chosen one the k likeliest.

        Where that takes too long, it is there for the nearest of them only, and for more of them the next time. What a
        layer predicts after a token depends on no later one and on no later layer: what was computed before is
        kept.
        """
        layers = range(self.hparams["n_layer"])
        n_rows = max(1, MOST_ROWS // len(layers))
        start = max(0, min(token - n_rows // 2, len(ids) - n_rows))
        rows = range(start, min(start + n_rows, len(ids)))
        texts = {at: ids[: at + 1] for at in rows}
        keys = {(layer, at): (layer, texts[at], changes.before(at + 1).up_to(layer, self.hparams["n_head"]))
                for layer in layers for at in rows}
        if len(self.lens_of) > MOST_KEPT:
            self.lens_of.clear()
        new = [place for place, key in keys.items() if key not in self.lens_of]
        n_new = max(1, MOST_WORK // (len(layers) * self.params["wte"].size))
        nearest = sorted({at for _, at in new}, key=lambda at: abs(at - token))[:n_new]
        if new := [(layer, at) for layer, at in new if at in nearest]:
            streams = self.passed(ids, changes).streams
            x = np.array([streams[block_name(layer, "resid_post")][0, at] for layer, at in new])
            top_ids, probabilities = predicted(x, self.params, self.k)
            found = zip(top_ids.tolist(), page_data.rounded(probabilities, 4))
            self.lens_of.update(zip((keys[place] for place in new), found))
        shown = [[[values[: self.k if at == token else 1] for values in self.lens_of.get(keys[layer, at], ([], []))]
                  for at in rows] for layer in layers]
        return {"first": start, "ids": [[top for top, _ in row] for row in shown],
                "probabilities": [[p for _, p in row] for row in shown]}

    def _patching(self, state, ids, changes):
        """The second text, and how far what is patched in brings its answer back; as `patching`."""
        other = self._ids(state.other)
        data = {"tokens": pieces_of(other, self.encoder)}
        if len(other) != len(ids):
            return data | {"error": f"The texts have {len(ids)} and {len(other)} tokens: each token needs its "
                                    "counterpart, so edit them until they have the same number."}
        plain = Changes(changes.out)
        runs = [self.logits(one, how, state.token) for one, how in ((other, plain), (ids, plain), (ids, changes))]
        try:
            answer = int(np.argmax(runs[0])) if state.answer is None else one_token(state.answer, self.model, "answer")
            wrong = int(np.argmax(runs[1])) if state.wrong is None else one_token(state.wrong, self.model, "wrong")
        except ValueError as error:
            return data | {"error": f"{error}."}
        clean, corrupted, now = (difference(logits, answer, wrong) for logits in runs)
        return data | {"answer": answer, "wrong": wrong, "clean": clean, "corrupted": corrupted, "now": now}


def difference(logits: np.ndarray, answer: int, wrong: int) -> float:
    """The answer's logit minus the wrong one's; the answer's alone where both are the same token."""
    return float(logits[answer]) - (float(logits[wrong]) if wrong != answer else 0)


def small(pattern: np.ndarray) -> np.ndarray:
    """A layer's pattern [n_head, n_seq, n_seq] in at most SMALL rows and columns, each the largest of several."""
    n_head, n, _ = pattern.shape
    if n <= SMALL:
        return pattern
    step = -(-n // SMALL)
    n_rows = -(-n // step)
    padded = np.zeros((n_head, n_rows * step, n_rows * step), pattern.dtype)
    padded[:, :n, :n] = pattern
    return padded.reshape(n_head, n_rows, step, n_rows, step).max(axis=(2, 4))
