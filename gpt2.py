"""GPT-2 in NumPy, from token ids to text.

The file builds up from small to large: layers, block, model, generation, command line. Comments give shapes: n_seq
tokens, each a vector of n_embd numbers, seen by n_head heads of d_head = n_embd / n_head numbers.

    from utils import load_encoder_hparams_and_params
    encoder, hparams, params = load_encoder_hparams_and_params("shakespeare")  # or "124M"
    logits = gpt2(encoder.encode("Hello"), **params, n_head=hparams["n_head"])  # [n_seq, n_vocab]

The model is that of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), as in `model.py` of
https://github.com/openai/gpt-2: the decoder of the first transformer (Vaswani et al., linked below), but with learned
positions, GELU, and layer norms before attention and the feed-forward network, not after, and one more at the end.

At first reading, skip the lines that begin with @ and read matmul(x, w) as x @ w. They make the same arithmetic fast
(`backend/`), refuse wrong arguments and fill in cache, n_logits and hook if they are None (`generation/checks.py`).
`hook(name, x)` lets the caller look at x or replace it; without a hook it returns x. `cache.extend(k, v)` appends to
the keys and values of the tokens so far and returns all of them, so that a new token costs one row, not the whole text.
"""
if __name__ == "__main__":
    from cli.startup import guard_imports

    guard_imports()  # Ctrl-C or a missing package ends the program without a traceback

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from backend.attention import cached_mask, head_by_head
from backend.chunks import in_chunks, wanted_rows_only
from backend.passes import on_the_cores
from backend.products import matmul, units_shared_out
from generation.checks import check_generation, checked_pass
from generation.hooks import Hook, no_hook, with_results, within
from generation.kv_cache import KVCache, no_cache, text_by_text
from generation.prompt_lookup import next_ids_with_lookup
from generation.sampling import Sampling

# --- the layers ---------------------------------------------------------------------------------


def gelu(x):
    """Gaussian error linear unit, in GPT-2's tanh form (Hendrycks & Gimpel, https://arxiv.org/abs/1606.08415)."""
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) * x


def softmax(x):
    """Numbers of any size to probabilities, along the last axis: exp(x) over its sum."""
    exp_x = np.exp(x - np.max(x, axis=-1, keepdims=True))  # exp of at most 0 cannot overflow
    return exp_x / np.sum(exp_x, axis=-1, keepdims=True)


def layer_norm(x, g, b, eps=1e-5, *, hook=no_hook):
    """Each row to mean 0 and variance 1, then gain g and bias b (Ba et al., https://arxiv.org/abs/1607.06450)."""
    x = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(x * x, axis=-1, keepdims=True)
    scale = hook("scale", np.sqrt(variance + eps))  # [n_seq, 1]
    return hook("normalized", x / scale) * g + b


def linear(x, w, b):
    """x @ w + b: [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]"""
    return matmul(x, w) + b


@units_shared_out  # some of the hidden units on each core
def ffn(x, c_fc, c_proj, *, hook=no_hook):
    """Feed-forward network, the same for each position: up to n_inner (4 * n_embd), and back. [n_seq, n_embd]"""
    pre = hook("mlp.pre", linear(x, **c_fc))  # [n_seq, n_embd] -> [n_seq, n_inner]
    post = hook("mlp.post", gelu(pre))
    return linear(post, **c_proj)  # [n_seq, n_inner] -> [n_seq, n_embd]


@head_by_head  # a long text: one head at a time
def attention(q, k, v, mask=0, *, hook=no_hook):
    """Each query takes the average of the values, weighted by how well its key fits the query.

    Scaled dot-product attention (Vaswani et al., https://arxiv.org/abs/1706.03762): q [..., n_query, d_head], k and v
    [..., n_key, d_head] -> [..., n_query, d_head], for one head or all at once. mask [n_query, n_key] is added to the
    scores: -inf where a query must not look.
    """
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + mask  # [..., n_query, n_key]
    pattern = hook("attn.pattern", softmax(hook("attn.attn_scores", scores)))
    return pattern @ v  # [..., n_query, n_key] @ [..., n_key, d_head] -> [..., n_query, d_head]


@cached_mask  # the masks of all layers, and of texts of all lengths, share their memory
def causal_mask(n_query, n_key):
    """[n_query, n_key]: -inf where a key comes after its query, else 0. The queries are the last n_query positions."""
    return np.triu(np.full((n_query, n_key), -np.inf, dtype=np.float32), k=1 + n_key - n_query)


@text_by_text  # several texts side by side: each attends only to itself
def causal_attention(q, k, v, cache, *, hook=no_hook):
    """Attention within one text: each query looks at its own and the earlier positions. [n_head, n_seq, d_head]"""
    k, v = cache.extend(k, v)  # with those of the tokens before: [n_head, n_key, d_head]
    return attention(q, k, v, causal_mask(q.shape[1], k.shape[1]), hook=hook)


@with_results  # attn.result, what each head adds, for a hook that asks for it
def mha(x, c_attn, c_proj, n_head, *, cache=no_cache, hook=no_hook):
    """Causal multi-head attention: each head looks at this and the earlier positions. [n_seq, n_embd] -> the same"""
    qkv = linear(x, **c_attn)  # [n_seq, n_embd] -> [n_seq, 3 * n_embd]
    qkv = qkv.reshape(len(x), 3, n_head, -1)  # -> [n_seq, 3, n_head, d_head]: q, k and v, each head by head
    q = hook("attn.q", qkv[:, 0]).swapaxes(0, 1)  # [n_seq, n_head, d_head] -> [n_head, n_seq, d_head]
    k = hook("attn.k", qkv[:, 1]).swapaxes(0, 1)
    v = hook("attn.v", qkv[:, 2]).swapaxes(0, 1)
    z = causal_attention(q, k, v, cache, hook=hook)  # [n_head, n_seq, d_head]
    z = hook("attn.z", z.swapaxes(0, 1))  # [n_head, n_seq, d_head] -> [n_seq, n_head, d_head]
    return linear(z.reshape(len(x), -1), **c_proj)  # the heads side by side, then mixed


@wanted_rows_only  # in the last layer: only the rows whose logits are wanted
def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, *, cache=no_cache, hook=no_hook):
    """One layer: attention, then the feed-forward network, each added to the residual stream x [n_seq, n_embd]."""
    x = hook("resid_pre", x)
    normalized = layer_norm(x, **ln_1, hook=within("ln1.", hook))
    x = x + hook("attn_out", mha(normalized, **attn, n_head=n_head, cache=cache, hook=hook))
    x = hook("resid_mid", x)
    normalized = layer_norm(x, **ln_2, hook=within("ln2.", hook))
    x = x + hook("mlp_out", ffn(normalized, **mlp, hook=hook))
    return hook("resid_post", x)


# --- the model ----------------------------------------------------------------------------------


@in_chunks  # a long prompt: several chunks at a time, on several cores
def layers(x, caches, n_logits, blocks, n_head, hook=no_hook):
    """One layer after the other: [n_seq, n_embd] -> the last n_logits rows, [n_logits, n_embd]"""
    for i, (block, cache) in enumerate(zip(blocks, caches)):
        x = transformer_block(x, **block, n_head=n_head, cache=cache, hook=within(f"blocks.{i}.", hook))
    return x[len(x) - n_logits :]  # a chunk may have none of them


@checked_pass  # the arguments fit each other; a cache if there is none; an exception leaves the cache as it was
@on_the_cores  # each pass uses them in the way that is fastest now
def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, *, cache=None, n_logits=None, hook=None):
    """GPT-2's forward pass: the logits of the token that follows, at each position.

    Args:
        inputs: token ids, a sequence of n_seq int.
        wte, wpe: embeddings of tokens [n_vocab, n_embd] and of positions [n_ctx, n_embd].
        blocks: list of n_layer dicts, the parameters of `transformer_block`.
        ln_f: dict, the parameters of the last `layer_norm`.
        n_head: number of attention heads.
        cache: `KVCache` with the tokens before `inputs`; `inputs` are added to it. An exception leaves it as it was.
        n_logits: return only the last n_logits rows (generation needs one); None returns all.
        hook: callable hook(name, array), called with each intermediate value as it is computed (docs/looking-inside.md
            lists names and shapes). An array that it returns replaces the value; None leaves it.

    Returns:
        float32 [n_seq, n_vocab], or [n_logits, n_vocab].

    Raises:
        TypeError: an id is not an integer, or the cache is not a `KVCache`.
        ValueError: no ids, an id outside the vocabulary, more positions than the context or the cache has, sizes that
            do not fit the model, or a cache that another pass is using.
    """
    positions = cache.length + np.arange(len(inputs))  # after those in the cache
    x = hook("embed", wte[inputs]) + hook("pos_embed", wpe[positions])  # [n_seq, n_embd]
    x = layers(x, cache.layers, n_logits, blocks, n_head, hook)  # [n_seq, n_embd] -> [n_logits, n_embd]
    x = layer_norm(x, **ln_f, hook=within("ln_final.", hook))
    return hook("logits", matmul(x, wte.T))  # by the embedding again: [n_logits, n_embd] -> [n_logits, n_vocab]


# --- generation ---------------------------------------------------------------------------------


def next_ids(ids: list[int], n_new: int, forward: Callable, cache: KVCache, choose: Callable, stop_id: int | None
             ) -> Iterator[int]:
    """The autoregressive loop: each new token is input for the next. Yields at most n_new ids, none after stop_id."""
    step = ids  # first the whole prompt; then only the last token, since the cache has the others
    for _ in range(n_new):
        logits = forward(step, cache=cache, n_logits=1)  # [1, n_vocab]
        next_id = choose(logits[-1])
        if next_id == stop_id:
            return
        yield next_id
        step = [next_id]


def generate(inputs: Sequence[int] | np.ndarray, params: dict[str, Any], n_head: int, n_tokens_to_generate: int, *,
             temperature: float = 0, top_k: int | None = None, top_p: float | None = None, seed: int | None = None,
             stop_id: int | None = None, lookup: bool = True, hook: Hook | None = None) -> list[int]:
    """Continue `inputs`, one token at a time.

    Args:
        inputs: token ids of the prompt, a sequence of int; it is not changed.
        params: dict of the weights, as `utils.load_encoder_hparams_and_params` returns them.
        n_head: number of attention heads.
        n_tokens_to_generate: how many, at least 1; the prompt and the new tokens together must fit the context.
        temperature, top_k, top_p, seed: how each token is chosen, by default greedily: `generation.sampling.Sampling`.
        stop_id: stop when the model chooses this id, which is not returned.
        lookup: guess ahead where the text repeats itself (`generation.prompt_lookup`), if greedy; the ids are the same.
        hook: as in `gpt2`, called in each pass.

    Returns:
        list of int, the new ids: n_tokens_to_generate of them, or fewer if the model chose stop_id.

    Raises:
        TypeError, ValueError: an argument is not as described; the message says which and why.
    """
    return list(generate_stream(inputs, params, n_head, n_tokens_to_generate, temperature=temperature, top_k=top_k,
                                top_p=top_p, seed=seed, stop_id=stop_id, lookup=lookup, hook=hook))


def generate_stream(inputs: Sequence[int] | np.ndarray, params: dict[str, Any], n_head: int, n_tokens_to_generate: int,
                    *, temperature: float = 0, top_k: int | None = None, top_p: float | None = None,
                    seed: int | None = None, stop_id: int | None = None, lookup: bool = True, hook: Hook | None = None
                    ) -> Iterator[int]:
    """As `generate`, but returns an iterator of the new ids, each as soon as it is known."""
    sampling = Sampling(temperature, top_k, top_p, seed)
    ids = check_generation(inputs, params, n_tokens_to_generate, stop_id, sampling)
    cache = KVCache(len(params["blocks"]), n_head, len(ids) + n_tokens_to_generate, params["wte"].shape[1])
    forward = functools.partial(gpt2, **params, n_head=n_head, hook=hook)
    choose = functools.partial(sampling.choose, rng=sampling.rng())
    loop = next_ids_with_lookup if lookup and temperature == 0 and hook is None else next_ids
    return loop(ids, n_tokens_to_generate, forward, cache, choose, stop_id)


# --- the command line (cli/help.py describes the options that batch.py shares) ------------------


def main(prompt: str | None = None, n_tokens_to_generate: int = 40, model_size: str | None = None,
         models_dir: str | None = None, *, temperature: float = 0, top_k: int | None = None, top_p: float | None = None,
         seed: int | None = None, n_samples: int = 1, stop: str | None = None, echo: bool = False, json: bool = False,
         list_models: bool = False) -> None:
    """Continue a text with GPT-2.

    The continuation goes to stdout as it is made, everything else to stderr.

    Args:
        prompt: the text to continue; "" begins a new text; without one, stdin is read, or you are asked for one after
            the other.
        seed: a whole number that makes the text the same each time; needs a temperature.
        n_samples: how many continuations; with --seed S they use seeds S, S + 1, ...; needs a temperature.
        echo: print the prompt before its continuation.
        json: print a line of JSON for each continuation, with prompt, continuation and, if one was given, seed.
        list_models: list the models on disk and exit.
    """
    from cli.continuations import check_options, print_continuations
    from utils import available_models, load_encoder_hparams_and_params

    if list_models:
        print(*available_models(models_dir), sep="\n")
        return
    check_options(temperature, top_k, top_p, seed, n_tokens_to_generate, n_samples, stop, echo, json)
    model = load_encoder_hparams_and_params(model_size, models_dir)

    def new_ids(prompt: str, seed: int | None) -> Iterator[int]:
        return generate_stream(model.encode(prompt), model.params, model.n_head, n_tokens_to_generate,
                               temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
                               stop_id=model.encoder.eot_token)

    print_continuations(new_ids, model, prompt, seed, n_samples, stop, echo, json)


if __name__ == "__main__":
    from cli.terminal import run_command_line

    run_command_line(main, short={"n": "n_tokens_to_generate", "t": "temperature", "m": "model_size"})
