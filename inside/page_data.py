"""The numbers on a page, as JSON can hold them. They are those of lens.py's functions, rounded.

The parts of a model that can be taken out are numbered as in the page's grid: layer by layer, each its heads, then its
feed-forward network.
"""
import math
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from generation.hooks import Hook
from gpt2 import causal_mask, gpt2, layer_norm, linear, softmax
from inside.interventions import Intervention, compose, record, sweep, zero
from inside.logit_lens import logit_lens
from inside.model import check_model, model_name
from inside.next_tokens import likeliest
from inside.saliency import saliency
from inside.score import score
from inside.tokens import pieces_of, quote
from many_texts.batches import log_prob_of
from utils import Model

TEMPERATURES = [round(0.1 + 0.05 * i, 2) for i in range(39)]  # the stops of the slider, 0.1 to 2
MOST_WEIGHTS = 2_000_000  # attention weights in a file: it stays below about 6 MB, which a phone still opens


def whole_page(ids: Sequence[int], model: Model, k: int, hook: Hook | None = None, token: int | None = None,
               head: tuple[int, int] | None = None, changes: str = "", log_probs: np.ndarray | None = None,
               hook_up_to_token: Hook | None = None) -> dict:
    """All that a page in a file shows.

    Args:
        ids, model, k, hook: as in `page`.
        token: the token chosen at first, by default the last. What follows it is there without each part, too.
        head: (layer, head) chosen at first, by default the one without which the prediction changes most.
        changes: what the hook does, in words.
        log_probs, hook_up_to_token: of a hook for this text alone, what `score` would give with it, and the same hook
            for a pass up to the token.
    """
    encoder, hparams, params = check_model(model)
    _check_length(len(ids), hparams)
    n_layer, n_head = hparams["n_layer"], hparams["n_head"]
    token = len(ids) - 1 if token is None else token
    seen = record(["blocks.*.resid_pre", "blocks.*.attn.v", "blocks.*.attn.pattern", "logits"])
    gpt2(ids, **params, n_head=n_head, hook=compose(hook, seen))
    without = _without_each_part(ids, model, hook, token)
    lens = logit_lens(ids, model, k, hook)

    answer = int(np.argmax(seen["logits"][token]))
    effects = np.array([log_prob(logits, answer) for logits in without]) - log_prob(seen["logits"][token], answer)
    if head is None:  # of the heads, without the column of the feed-forward networks
        head = divmod(int(np.argmax(np.abs(effects.reshape(n_layer, -1)[:, :n_head]))), n_head)
    listed = [likeliest(logits, k) for logits in seen["logits"]]
    in_runs = [{*likeliest(logits, k), *listed[token]} for logits in without]
    listed[token] = sorted(set().union(listed[token], *in_runs))  # each run is shown beside the whole model's
    if log_probs is None:
        log_probs = score(ids, model, hook=hook).log_probs
    data = about_model(model, k) | about_text(ids, model) | {
        "live": False,
        "surprisal": surprisal(log_probs),
        "changes": changes,
        "token": token,
        "explained": answer,
        "head": list(head),
        "attention": [triangles(seen[f"blocks.{i}.attn.pattern"]) for i in range(n_layer)],
        "lens": {"first": 0, "ids": lens.ids.tolist(), "probabilities": rounded(lens.probabilities, 4)},
        "next": {i: {"whole": run(logits, of)} for i, (logits, of) in enumerate(zip(seen["logits"], listed))},
        "without": {"token": token, "runs": [run(logits, of) for logits, of in zip(without, in_runs)]},
        "saliency": about_saliency(ids, model, token, answer, hook_up_to_token or hook),
        "effects": {"token": token, "answer": answer, "log_probs": rounded(effects, 3)},
    }
    inputs = head_inputs(seen[f"blocks.{head[0]}.resid_pre"], params["blocks"][head[0]], n_head)[:, head[1]]
    pattern, v = seen[f"blocks.{head[0]}.attn.pattern"][head[1]], seen[f"blocks.{head[0]}.attn.v"][:, head[1]]
    if np.allclose(pattern_of(*inputs[:2]), pattern, atol=1e-4) and np.allclose(inputs[2], v, atol=1e-3):
        data["opened"] = opened(head, *inputs)  # unless the hook changes what comes between
    return data | {"pieces": pieces(ids_in(data), encoder)}


def about_model(model: Model, k: int) -> dict:
    """What stays the same whatever the text."""
    sizes = {name: model[1][name] for name in ("n_layer", "n_head", "n_vocab", "n_ctx")}
    return {"model": model_name(model), **sizes, "k": k, "temperatures": TEMPERATURES}


def about_text(ids: Sequence[int], model: Model) -> dict:
    """The tokens."""
    ids = np.asarray(ids).tolist()
    return {"quote": quote(ids, model[0]), "ids": ids, "tokens": pieces_of(ids, model[0])}


def surprisal(log_probs: np.ndarray) -> list[float]:
    """How surprising each token is, in bits."""
    return rounded(-log_probs / math.log(2), 3)


def about_saliency(ids: Sequence[int], model: Model, token: int, answer: int, hook) -> dict:
    """What each token up to the chosen one does for an answer after it. The hook fits a pass up to there."""
    found = saliency(ids, model, answer, position=token, hook=hook)
    return {"token": token, "answer": found.answer, "values": rounded(found.values, 4)}


def pieces(ids: Iterable[int], encoder) -> dict[int, str]:
    """The piece of each id."""
    ids = sorted(set(ids))
    return dict(zip(ids, pieces_of(ids, encoder), strict=True))


def ids_in(data: dict) -> set[int]:
    """The ids that a page shows beside those of its text."""
    runs = [each for runs in data.get("next", {}).values() for each in runs.values()]
    runs += data.get("without", {}).get("runs", [])
    shown = {i for each in runs for i in each["logits"]}
    for layer in data.get("lens", {}).get("ids", []):
        shown.update(*layer)
    shown.update(data["patching"][name] for name in ("answer", "wrong") if name in data.get("patching", {}))
    return shown.union(data.get("ids", ()))


def log_prob(logits: np.ndarray, i: int) -> float:
    """The natural logarithm of a token's probability, from the logits [n_vocab]."""
    return float(log_prob_of(np.array([i]), logits[None])[0])


def run(logits: np.ndarray, ids: Iterable[int]) -> dict:
    """What the page needs to know of the logits [n_vocab] of a run, to show some ids at any temperature.

    A probability at temperature T is exp(logit / T - log_sum), where log_sum is the logarithm of the sum of
    exp(logit / T) over the whole vocabulary. That sum is here for each stop of the slider: so the page is exact without
    the other logits.
    """
    logits, ids = logits - logits.max(), list(ids)
    # float32 is enough: what counts in the sum is near the largest, whose exponent is 0
    log_sums = [np.log(np.exp(logits / np.float32(t)).sum(dtype=np.float64)) for t in TEMPERATURES]
    return {"logits": dict(zip(ids, rounded(logits[ids], 6), strict=True)), "log_sums": rounded(log_sums, 6)}


def triangles(pattern: np.ndarray) -> list[list[int]]:
    """A layer's pattern [n_head, n_query, n_key] as a list for each head: row after row, each up to the token itself,
    in thousandths. What a token cannot see is left out."""
    rows, columns = np.tril_indices(pattern.shape[-1])
    return np.rint(1000 * pattern[:, rows, columns]).astype(int).tolist()


def head_inputs(x: np.ndarray, block: dict, n_head: int) -> np.ndarray:
    """The heads' queries, keys and values, [3, n_head, n_seq, d_head], from the stream x [n_seq, n_embd] before their
    layer."""
    qkv = linear(layer_norm(x, **block["ln_1"]), **block["attn"]["c_attn"])  # [n_seq, 3 * n_embd]
    return qkv.reshape(len(x), 3, n_head, -1).transpose(1, 2, 0, 3)


def pattern_of(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The attention patterns [..., n_seq, n_seq] of heads from their queries and keys [..., n_seq, d_head]."""
    n_seq, d_head = q.shape[-2:]
    return softmax(q @ k.swapaxes(-1, -2) / math.sqrt(d_head) + causal_mask(n_seq, n_seq))


def opened(head: tuple[int, int], q: np.ndarray, k: np.ndarray, v: np.ndarray) -> dict:
    """What each attention weight of a head is made of."""
    return {"head": list(head), "q": rounded(q, 4), "k": rounded(k, 4), "v": rounded(v, 4)}


def part_taken_out(part: int, n_head: int) -> Intervention:
    """The hook that takes a part out."""
    layer, of_layer = divmod(part, n_head + 1)
    return zero(layer, of_layer) if of_layer < n_head else zero(layer, what="mlp_out")


def rounded(values, digits):
    return np.round(np.asarray(values, dtype=np.float64), digits).tolist()


def _check_length(n, hparams):
    """ValueError if the heads have more than MOST_WEIGHTS weights, n * (n + 1) / 2 each."""
    n_heads = hparams["n_layer"] * hparams["n_head"]
    most = (math.isqrt(8 * MOST_WEIGHTS // n_heads + 1) - 1) // 2
    if n > most and most < hparams["n_ctx"]:  # else the context is the limit, which gpt2 checks
        raise ValueError(f"the text has {n:,} tokens, but a page holds at most {most} tokens for a model of {n_heads} "
                         "heads, or it would be too large for a browser: shorten the text")


def _without_each_part(ids, model, hook, token):
    """The logits after a token, [n_parts, n_vocab], with one part taken out after the other."""
    from tqdm import tqdm

    n_layer, n_head = (model[1][name] for name in ("n_layer", "n_head"))
    interventions = [part_taken_out(part, n_head) for part in range(n_layer * (n_head + 1))]
    progress = tqdm(interventions, "taking out each part", disable=None if sys.stderr else True,  # None: in a terminal
                    leave=False)
    return sweep(ids, model, progress, lambda logits: logits[0], n_logits=len(ids) - token, hook=hook)
