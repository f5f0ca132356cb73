"""Which way does each value move the answer? The backward pass.

Each function here is the derivative of the function of its name in gpt2.py, by the chain rule: from d, the derivative
of the metric with respect to that function's output, it makes the one with respect to its input. They come in the same
order. Where gpt2.py calls `hook(name, x)`, here stands `tape(name, d)`, which keeps the derivative with respect to x.
"""
import math
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from backend.passes import run_on_cores
from generation.hooks import ON_REQUEST, Hook
from inside.answers import Answer, answer_of
from inside.interventions import compose, record
from inside.model import check_model
from inside.tokens import tokens
from utils import Model


class Tape:
    """What a forward pass left behind, on which the backward pass puts down the gradients.

    Attributes:
        values: `record`, every value as the pass went on with it, after the hook.
        computed: `record`, every value as it was computed, before the hook saw it; the same one without a hook.
        gradients: `record`, empty at first.
        parts: what the hook replaced, as in `Intervention`.
        place: str, the part of the model that names are in, for instance "blocks.3.".
    """

    def __init__(self, values: record, computed: record, gradients: record, parts: Iterable, place: str = ""):
        self.values, self.computed, self.gradients, self.parts, self.place = values, computed, gradients, parts, place

    def within(self, place: str) -> "Tape":
        return Tape(self.values, self.computed, self.gradients, self.parts, self.place + place)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[self.place + name]

    def __contains__(self, name: str) -> bool:
        return self.place + name in self.values

    def before_the_hook(self, name: str) -> np.ndarray:
        return self.computed[self.place + name]

    def __call__(self, name: str, d: np.ndarray) -> np.ndarray:
        """Keep d as the gradient of a value; returns the gradient of what the value was computed from.

        The two differ where the hook put something else in: it does not depend on what it replaced.
        """
        self.gradients(self.place + name, d)
        if self.computed is self.values:
            return d
        is_left = self[name] == self.before_the_hook(name)
        for replaced, part in self.parts:
            if replaced == self.place + name:
                is_left[part(is_left)] = False  # what was put in may be equal to it
        return np.where(is_left, d, 0)


# --- the layers ---------------------------------------------------------------------------------


def gelu_backward(d, x):
    """gelu(x) = 0.5 * (1 + t) * x with t = tanh(c * (x + 0.044715 * x**3)), and tanh' = 1 - tanh**2."""
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x * x * x))
    return d * 0.5 * (1 + t + x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x))


def softmax_backward(d, p):
    """p = softmax(x): the derivative of p[i] with respect to x[j] is p[i] * ((i == j) - p[j])."""
    return p * (d - np.sum(d * p, axis=-1, keepdims=True))


def layer_norm_backward(d, g, b, *, tape):
    """normalized * g + b, where normalized = x / scale, scale = sqrt(mean(x * x) + eps), x without its mean."""
    scale = tape["scale"]  # [n_seq, 1]
    x = tape.before_the_hook("normalized") * scale
    d = tape("normalized", d * g)
    d_scale = tape("scale", -np.sum(d * x, axis=-1, keepdims=True) / scale**2)
    d = d / scale + d_scale * x / (tape.before_the_hook("scale") * x.shape[-1])
    return d - np.mean(d, axis=-1, keepdims=True)


def linear_backward(d, w, b):
    """x @ w + b: [n_seq, n_out] @ [n_out, n_in] -> [n_seq, n_in]"""
    return d @ w.T


def ffn_backward(d, c_fc, c_proj, *, tape):
    """linear(gelu(linear(x))): [n_seq, n_embd] -> [n_seq, n_inner] -> [n_seq, n_embd]"""
    d = tape("mlp.post", linear_backward(d, **c_proj))
    d = tape("mlp.pre", gelu_backward(d, tape["mlp.pre"]))
    return linear_backward(d, **c_fc)


def attention_backward(d, q, k, v, *, tape):
    """pattern @ v, where pattern = softmax(scores), scores = q @ k.T / sqrt(d_head). [n_head, n_seq, d_head], three"""
    pattern, d_head = tape["attn.pattern"], q.shape[-1]
    d_v = pattern.swapaxes(-1, -2) @ d  # [n_head, n_key, n_query] @ [n_head, n_query, d_head]
    d_pattern = tape("attn.pattern", d @ v.swapaxes(-1, -2))  # [n_head, n_query, n_key]
    d_scores = tape("attn.attn_scores", softmax_backward(d_pattern, tape.before_the_hook("attn.pattern")))
    d_q = d_scores @ k / math.sqrt(d_head)
    d_k = d_scores.swapaxes(-1, -2) @ q / math.sqrt(d_head)
    return d_q, d_k, d_v


def mha_backward(d, c_attn, c_proj, n_head, *, tape):
    """Through c_proj, the attention of each head, and c_attn. [n_seq, n_embd] -> the same"""
    n_seq, n_embd = d.shape
    if ON_REQUEST in tape:  # attn.result, the sum of whose heads is the output: [n_seq, n_embd] -> one for each head
        d = tape(ON_REQUEST, np.repeat(d[:, None], n_head, axis=1))
        d = np.einsum("qhe,hde->qhd", d, c_proj["w"].reshape(n_head, -1, n_embd))  # -> [n_seq, n_head, d_head]
    else:
        d = linear_backward(d, **c_proj).reshape(n_seq, n_head, n_embd // n_head)  # -> [n_seq, n_head, d_head]
    d = tape("attn.z", d).swapaxes(0, 1)  # [n_seq, n_head, d_head] -> [n_head, n_seq, d_head]
    q, k, v = (tape[f"attn.{name}"].swapaxes(0, 1) for name in "qkv")
    d_q, d_k, d_v = (d.swapaxes(0, 1) for d in attention_backward(d, q, k, v, tape=tape))  # [n_seq, n_head, d_head]
    d_qkv = np.stack([tape("attn.q", d_q), tape("attn.k", d_k), tape("attn.v", d_v)], axis=1)
    return linear_backward(d_qkv.reshape(n_seq, 3 * n_embd), **c_attn)  # [n_seq, 3, n_head, d_head] -> [n_seq, n_embd]


def transformer_block_backward(d, mlp, attn, ln_1, ln_2, n_head, *, tape):
    """The stream is a sum: d goes on to each of its terms, to the stream before and through what was added."""
    d = tape("resid_post", d)
    d_normalized = ffn_backward(tape("mlp_out", d), **mlp, tape=tape)
    d = tape("resid_mid", d + layer_norm_backward(d_normalized, **ln_2, tape=tape.within("ln2.")))
    d_normalized = mha_backward(tape("attn_out", d), **attn, n_head=n_head, tape=tape)
    return tape("resid_pre", d + layer_norm_backward(d_normalized, **ln_1, tape=tape.within("ln1.")))


def gpt2_backward(d_logits, wte, wpe, blocks, ln_f, n_head, *, tape):
    """From the gradient of the last position's logits [1, n_vocab] to the gradients of all values, on the tape."""
    d = tape("logits", d_logits) @ wte  # [1, n_vocab] @ [n_vocab, n_embd] -> [1, n_embd]
    d = layer_norm_backward(d, **ln_f, tape=tape.within("ln_final."))
    n_others = len(tape["embed"]) - 1
    d = np.pad(d, [(n_others, 0), (0, 0)])  # the other positions' logits do not count: [1, n_embd] -> [n_seq, n_embd]
    for i, block in reversed(list(enumerate(blocks))):
        d = transformer_block_backward(d, **block, n_head=n_head, tape=tape.within(f"blocks.{i}."))
    tape("embed", d)
    tape("pos_embed", d)


# --- the question -------------------------------------------------------------------------------


def gradients(text: str | Sequence[int], model: Model, answer: str | int, wrong: str | int | None = None,
              hook: Hook | None = None) -> record:
    """The derivative of an answer's logit, at the end of a text, with respect to every value that a hook sees.

    It says how the logit changes when a value changes a little: d logit / d value for each number of each value.

    Args:
        text, model: as in `tokens`.
        answer: the token whose logit is differentiated: its text, " C", or its id, 417 or "#417".
        wrong: another token: then it is the answer's logit minus this one's.
        hook: as in `gpt2.gpt2`. The derivatives are those at the values that it leaves; what it puts in is taken as
            constant, so nothing flows back to what it replaced.

    Returns:
        dict {name: float32 array}, like `record`'s. logits and ln_final are those of the last position; attn.result is
        there if the hook asks for it (each head's gradient is that of attn_out).

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> d = gradients("First Citizen. Second Citizen. First", model, answer=" C", wrong=" S")
    >>> d["blocks.1.attn.z"].shape  # [n_seq, n_head, d_head]
    (12, 6, 32)
    """
    return forward_and_backward(tokens(text, model).ids, model, answer_of(model, answer, wrong), hook)[1]


def forward_and_backward(ids, model: Model, answer: Answer, hook: Hook | None = None) -> tuple[record, record]:
    """(values, gradients): every value of a pass over `ids`, as `record` keeps it, and the gradient of the answer."""
    model = check_model(model)
    names = ["*", *(name for name in getattr(hook, "names", None) or () if ON_REQUEST in name)]
    computed, values = record(names), record(names)
    hooks = (values,) if hook is None else (computed, hook, values)
    model.logits(ids, n_logits=1, hook=compose(*hooks))
    tape = Tape(values, values if hook is None else computed, record(), getattr(hook, "parts", ()))
    d_logits, n_embd = answer.gradient(model.hparams["n_vocab"]), model.hparams["n_embd"]
    backward = partial(gpt2_backward, d_logits, **model.params, n_head=model.n_head, tape=tape)
    run_on_cores(backward, len(ids), model.n_layer, n_embd, has_hook=True)
    return values, tape.gradients
