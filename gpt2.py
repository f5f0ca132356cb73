"""GPT-2 in NumPy, from token ids to text.

The file builds up from small to large: activation, norm, linear layer, feed-forward network, attention, heads, block,
model, generation, command line. Comments give shapes: n_seq tokens, each a vector of n_embd numbers, seen by n_head
heads of d_head = n_embd / n_head numbers.

    from gpt2 import gpt2
    from utils import load_encoder_hparams_and_params
    encoder, hparams, params = load_encoder_hparams_and_params("shakespeare")  # or "124M"
    logits = gpt2(encoder.encode("Hello"), **params, n_head=hparams["n_head"])  # [n_seq, n_vocab]

The model is that of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), as in `model.py` of
https://github.com/openai/gpt-2.

Two things run through the layers that you can skip at first reading. `hook(name, x)` lets the caller look at x or
replace it; without a hook it returns x unchanged. `cache.extend(k, v)` remembers the keys and values of the tokens so
far, so that a new token costs one row, not the whole text. And five calls are there only to make the same arithmetic
fast: read matmul(x, w) as x @ w, head_by_head(attention, ...) as attention(...), text_by_text(f, ...) as f(...),
in_chunks(f, x, ...) as f(x, ...), and all_cores() as nothing. `backend/` explains them.
"""
if __name__ == "__main__":
    from cli.startup import guard_imports

    guard_imports()  # Ctrl-C or a missing package ends the program without a traceback

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from backend.products import head_by_head, keep_freed_memory, matmul
from backend.threads import all_cores, in_chunks
from generation import hooks
from generation.checks import check_command, check_generation, check_ids, check_pass
from generation.hooks import Hook, no_hook
from generation.kv_cache import KVCache, SideBySide, no_cache, text_by_text
from generation.prompt_lookup import PromptLookup, accepted
from generation.sampling import Sampling, seed_of, with_sampling_options
from many_texts.side_by_side import Continuation, running

keep_freed_memory()


# --- the layers ---------------------------------------------------------------------------------


def gelu(x):
    """Gaussian error linear unit, in GPT-2's tanh form (Hendrycks & Gimpel, https://arxiv.org/abs/1606.08415)."""
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) * x


def softmax(x):
    """Numbers of any size to probabilities, along the last axis: exp(x) over its sum."""
    exp_x = np.exp(x - np.max(x, axis=-1, keepdims=True))  # exp of at most 0 cannot overflow
    return exp_x / np.sum(exp_x, axis=-1, keepdims=True)


def layer_norm(x, g, b, eps=1e-5):
    """Each row to mean 0 and variance 1, then gain g and bias b (Ba et al., https://arxiv.org/abs/1607.06450)."""
    x = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(variance + eps) * g + b


def linear(x, w, b):
    """x @ w + b: [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]"""
    return matmul(x, w) + b


def ffn(x, c_fc, c_proj, *, hook=no_hook):
    """Feed-forward network, the same for each position: up to four times the width, and back. [n_seq, n_embd]"""
    pre = hook("mlp.pre", linear(x, **c_fc))  # [n_seq, n_embd] -> [n_seq, 4 * n_embd]
    post = hook("mlp.post", gelu(pre))
    return linear(post, **c_proj)  # [n_seq, 4 * n_embd] -> [n_seq, n_embd]


def attention(q, k, v, mask=0, *, hook=no_hook):
    """Each query takes the average of the values, weighted by how well its key fits the query.

    Scaled dot-product attention (Vaswani et al., https://arxiv.org/abs/1706.03762), for one head or, with a leading
    axis, for all heads at once.

    Args:
        q: queries [..., n_query, d_head].
        k, v: keys and values [..., n_key, d_head].
        mask: [n_query, n_key], added to the scores: -inf where a query must not look.

    Returns:
        [..., n_query, d_head]
    """
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + mask  # [..., n_query, n_key]
    pattern = hook("attn.pattern", softmax(hook("attn.attn_scores", scores)))
    return pattern @ v  # [..., n_query, n_key] @ [..., n_key, d_head] -> [..., n_query, d_head]


def causal_mask(n_query, n_key):
    """[n_query, n_key]: -inf where a key lies after its query, else 0. The queries are the last n_query positions."""
    # cut out of a larger one, of a power of two, which stays the same while the text grows
    return above_diagonal(2 ** math.ceil(math.log2(n_key)))[n_key - n_query : n_key, :n_key]


@functools.lru_cache(maxsize=8)  # all layers, and texts of all lengths, share a few masks
def above_diagonal(n):
    """[n, n]: -inf above the diagonal, else 0."""
    mask = np.triu(np.full((n, n), -np.inf, dtype=np.float32), k=1)
    mask.flags.writeable = False
    return mask


def causal_attention(q, k, v, cache, *, hook=no_hook):
    """Attention within one text: each query looks at its own and the earlier positions. [n_head, n_seq, d_head]"""
    k, v = cache.extend(k, v)  # with those of the tokens before: [n_head, n_key, d_head]
    return head_by_head(attention, q, k, v, causal_mask(q.shape[1], k.shape[1]), hook=hook)


def mha(x, c_attn, c_proj, n_head, *, cache=no_cache, hook=no_hook):
    """Causal multi-head attention: each head looks at this and the earlier positions. [n_seq, n_embd] -> the same"""
    n_seq, n_embd = x.shape
    qkv = linear(x, **c_attn)  # [n_seq, n_embd] -> [n_seq, 3 * n_embd]
    qkv = qkv.reshape(n_seq, 3, n_head, n_embd // n_head)  # -> [n_seq, 3, n_head, d_head]
    q = hook("attn.q", qkv[:, 0]).swapaxes(0, 1)  # [n_seq, n_head, d_head] -> [n_head, n_seq, d_head]
    k = hook("attn.k", qkv[:, 1]).swapaxes(0, 1)
    v = hook("attn.v", qkv[:, 2]).swapaxes(0, 1)
    z = text_by_text(causal_attention, q, k, v, cache, hook=hook)  # [n_head, n_seq, d_head]
    z = hook("attn.z", z.swapaxes(0, 1))  # [n_head, n_seq, d_head] -> [n_seq, n_head, d_head]
    return linear(z.reshape(n_seq, n_embd), **c_proj)  # the heads side by side, and mixed


def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, *, cache=no_cache, hook=no_hook):
    """One layer: attention, then the feed-forward network, each added to the residual stream x [n_seq, n_embd]."""
    x = hook("resid_pre", x)
    normalized = hook("ln1.normalized", layer_norm(x, **ln_1))
    x = x + hook("attn_out", mha(normalized, **attn, n_head=n_head, cache=cache, hook=hook))
    x = hook("resid_mid", x)
    normalized = hook("ln2.normalized", layer_norm(x, **ln_2))
    x = x + hook("mlp_out", ffn(normalized, **mlp, hook=hook))
    return hook("resid_post", x)


# --- the model ----------------------------------------------------------------------------------


def gpt2(inputs: Sequence[int] | np.ndarray, wte: np.ndarray, wpe: np.ndarray, blocks: list[dict], ln_f: dict,
         n_head: int, *, cache: KVCache | None = None, n_logits: int | None = None, hook: Hook | None = None
         ) -> np.ndarray:
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
        ValueError: no ids, an id outside the vocabulary, more positions than the context or the cache has, or sizes
            that do not fit the model.
    """
    inputs = check_ids(inputs, n_vocab=len(wte))
    n_past = check_pass(len(inputs), wte, wpe, blocks, n_head, cache, n_logits)
    if cache is None:
        cache = KVCache(len(blocks), n_head, len(inputs), wte.shape[1])
    here = hooks.at("", hook)
    with cache.all_or_nothing(), all_cores(len(inputs), len(blocks), wte.shape[1], hook):
        x = here("embed", wte[inputs]) + here("pos_embed", wpe[n_past : n_past + len(inputs)])  # [n_seq, n_embd]
        run_layers = functools.partial(layers, blocks=blocks, n_head=n_head, hook=hook)
        # through all layers, a long prompt in chunks on several cores: [n_seq, n_embd] -> [n_logits, n_embd]
        x = in_chunks(run_layers, x, cache, n_logits or len(x), whole=hook is not None)
        x = here("ln_final.normalized", layer_norm(x, **ln_f))
        return here("logits", matmul(x, wte.T))  # [n_logits, n_embd] -> [n_logits, n_vocab]


def layers(x, caches, n_wanted, blocks, n_head, hook):
    """One layer after the other: [n_seq, n_embd] -> the last n_wanted rows, [n_wanted, n_embd].

    For the other rows the last layer computes only keys and values: nothing uses their output.
    """
    last = len(blocks) - 1
    for i, (block, cache) in enumerate(zip(blocks, caches)):
        if i == last and hook is None:  # a hook gets to see all rows
            keys_and_values(x[: len(x) - n_wanted], block["ln_1"], block["attn"]["c_attn"], n_head, cache)
            x = x[len(x) - n_wanted :]
        x = transformer_block(x, **block, n_head=n_head, cache=cache, hook=hooks.at(f"blocks.{i}.", hook))
    return x[len(x) - n_wanted :]


def keys_and_values(x, ln_1, c_attn, n_head, cache):
    """Add the keys and values of x [n_seq, n_embd] to a layer's cache: `mha` without queries."""
    n_seq, n_embd = x.shape
    w, b = c_attn["w"][:, n_embd:], c_attn["b"][n_embd:]
    kv = linear(layer_norm(x, **ln_1), w, b).reshape(n_seq, 2, n_head, n_embd // n_head)  # [n_seq, 2, n_head, d_head]
    cache.extend(kv[:, 0].swapaxes(0, 1), kv[:, 1].swapaxes(0, 1))


def gpt2_side_by_side(texts, caches, wte, wpe, blocks, ln_f, n_head):
    """A pass over several texts at once, their rows side by side: each weight is read once for all of them.

    Args:
        texts: list of arrays of ids, the new ones of each text.
        caches: list with a `KVCache` for each text, or None where nothing came before and nothing comes after.
        wte, wpe, blocks, ln_f, n_head: as in `gpt2`.

    Returns:
        [n_rows, n_embd], one text's rows after the other's; @ wte.T makes them logits.
    """
    n_rows = [len(ids) for ids in texts]
    n_past = [cache.length for cache in caches] if caches else [0] * len(texts)
    positions = np.concatenate([np.arange(start, start + n) for start, n in zip(n_past, n_rows)])
    with all_cores(len(positions), len(blocks), wte.shape[1]):
        x = wte[np.concatenate(texts)] + wpe[positions]  # [n_rows, n_embd]
        for i, block in enumerate(blocks):
            layer_caches = [cache.layers[i] for cache in caches] if caches else [no_cache] * len(texts)
            x = transformer_block(x, **block, n_head=n_head, cache=SideBySide(layer_caches, n_rows))
        return layer_norm(x, **ln_f)


# --- generation ---------------------------------------------------------------------------------


@with_sampling_options
def generate(inputs: Sequence[int] | np.ndarray, params: dict[str, Any], n_head: int, n_tokens_to_generate: int, *,
             stop_id: int | None = None, hook: Hook | None = None, lookup: bool = True, **options) -> list[int]:
    """Continue `inputs`, one token after the other, each appended to what the next one is computed from.

    Args:
        inputs: token ids of the prompt, a sequence of int; it stays as it is.
        params: dict of the weights, as `utils.load_encoder_hparams_and_params` returns them.
        n_head: number of attention heads.
        n_tokens_to_generate: how many, at least 1; the prompt and the new tokens together must fit the context.
        stop_id: stop when the model chooses this id, which is not returned.
        hook: as in `gpt2`, called in each pass.
        lookup: let greedy decoding go faster through text that repeats itself (`generation.prompt_lookup`); the
            ids are the same.
        temperature, top_k, top_p, seed: how each token is chosen, by default greedily; see `Sampling`.

    Returns:
        list of int, the new ids: n_tokens_to_generate of them, or fewer where stop_id came.

    Raises:
        TypeError, ValueError: an argument is not as described; the message says which and why.
    """
    return list(generate_stream(inputs, params, n_head, n_tokens_to_generate, stop_id=stop_id, hook=hook, lookup=lookup,
                                **options))


@with_sampling_options
def generate_stream(inputs: Sequence[int] | np.ndarray, params: dict[str, Any], n_head: int, n_tokens_to_generate: int,
                    *, stop_id: int | None = None, hook: Hook | None = None, lookup: bool = True, **options
                    ) -> Iterator[int]:
    """As `generate`, but returns an iterator of the new ids, each as soon as it is known."""
    n_layer, (n_vocab, n_embd), n_ctx = len(params["blocks"]), params["wte"].shape, len(params["wpe"])
    ids, sampling = check_ids(inputs, n_vocab).tolist(), Sampling(**options)
    check_generation(len(ids), n_tokens_to_generate, stop_id, sampling.top_k, n_vocab, n_ctx)

    def stream():
        cache = KVCache(n_layer, n_head, len(ids) + n_tokens_to_generate, n_embd)
        guesses = PromptLookup(ids, active=lookup and sampling.temperature == 0 and hook is None)
        choose = functools.partial(sampling.choose, rng=np.random.default_rng(sampling.seed))
        step, n_left = ids, n_tokens_to_generate  # first the whole prompt, then only the last token
        while n_left:
            guess = guesses.guess(n_left - 1)  # empty, unless the text repeats itself
            logits = gpt2(step + guess, **params, n_head=n_head, cache=cache, n_logits=1 + len(guess), hook=hook)
            new_ids = accepted(guess, logits, choose)  # what was guessed right, and one more unless two are nearly tied
            cache.length -= 1 + len(guess) - len(new_ids)  # forget the rows of what was guessed wrong
            guesses.extend(new_ids)
            for i in new_ids:
                if i == stop_id:
                    return
                yield i
            n_left -= len(new_ids)
            step = new_ids[-1:] or step  # the same step again, without a guess, if nothing was accepted

    return stream()


@with_sampling_options
def generate_batch(inputs: Sequence[Sequence[int] | np.ndarray], params: dict[str, Any], n_head: int,
                   n_tokens_to_generate: int, *, stop_id: int | None = None, places: Sequence[int] | None = None,
                   max_texts: int = 64, max_bytes: int = 2**30, **options) -> list[list[int]]:
    """Continue many texts at once: the ids that `generate` gives for each, several times as fast.

    The texts are computed side by side (`gpt2_side_by_side`), as many as the limits allow. When one ends, the next one
    takes its place.

    Args:
        inputs: the prompts, each as in `generate`.
        params, n_head, n_tokens_to_generate, stop_id: as in `generate`, the same for all.
        places: the place of each prompt in a longer list that these are a part of; by default 0, 1, 2, ...
        max_texts: how many texts are computed side by side.
        max_bytes: how much memory their caches may take together; one text is always computed.
        temperature, top_k, top_p, seed: see `Sampling`. Each text has a seed of its own, made from `seed` and its
            place: that at place i is the one that `generate` gives with seed=`generation.sampling.seed_of(seed, i)`.

    Returns:
        list of lists of int, the new ids of each text.

    Raises:
        TypeError, ValueError: an argument is not as described; the message says which and why.
    """
    n_layer, (n_vocab, n_embd), n_ctx = len(params["blocks"]), params["wte"].shape, len(params["wpe"])
    sampling, texts = Sampling(**options), []
    for i, ids in zip(range(len(inputs)) if places is None else places, inputs):
        ids = check_ids(ids, n_vocab).tolist()
        check_generation(len(ids), n_tokens_to_generate, stop_id, sampling.top_k, n_vocab, n_ctx)
        texts.append(Continuation(ids, n_tokens_to_generate, seed_of(sampling.seed, i)))

    def alone(text):
        """The logits of a text's next token as `generate` computes them: without other rows beside them."""
        for step in text.steps_alone():
            logits = gpt2(step, **params, n_head=n_head, cache=text.cache, n_logits=1)
        return logits[-1]

    make_cache = lambda n: KVCache(n_layer, n_head, n, n_embd)
    for batch in running(texts, make_cache, max_texts, max_bytes):
        steps = [text.step for text in batch]
        x = gpt2_side_by_side(steps, [text.cache for text in batch], **params, n_head=n_head)  # [n_rows, n_embd]
        x = x[np.cumsum([len(step) for step in steps]) - 1]  # the last row of each text: [n_texts, n_embd]
        logits_of = matmul(x, params["wte"].T)  # [n_texts, n_embd] -> [n_texts, n_vocab]
        # row by row in memory: choosing 64 tokens takes 5 ms instead of 19
        for text, logits in zip(batch, np.ascontiguousarray(logits_of)):
            text.append(text.choose(logits, sampling, alone), stop_id)
    return [text.ids[text.n_prompt :] for text in texts]


# --- the command line ---------------------------------------------------------------------------


def main(prompt: str | None = None, n_tokens_to_generate: int = 40, model_size: str | None = None,
         models_dir: str | None = None, *, temperature: float = 0, top_k: int | None = None, top_p: float | None = None,
         seed: int | None = None, n_samples: int = 1, stop: str | None = None, echo: bool = False,
         list_models: bool = False) -> str | None:
    """Continue a text with GPT-2.

    The continuation goes to stdout as it is made, everything else to stderr.

    Args:
        prompt: the text to continue; without it, what is piped into stdin; an empty one begins a new text.
        n_tokens_to_generate: how many tokens at most; fewer if the model ends the text.
        model_size: 124M (the default), 355M, 774M, 1558M, shakespeare, or the name of any model's folder in models_dir.
        models_dir: the folder of models, into which official ones are downloaded; by default models/ beside gpt2.py.
        temperature: 0 takes the most likely token each time; about 0.7 to 1 varies the text.
        top_k: choose among the k most likely tokens only; needs a temperature.
        top_p: choose among the fewest tokens that together have this probability; needs a temperature.
        seed: a whole number that makes the same choices each time; needs a temperature.
        n_samples: how many continuations; of --seed S, those of S, S + 1, ...; needs a temperature.
        stop: end before this text; \\n is a newline, \\t a tab.
        echo: print the prompt before its continuation.
        list_models: print the names of the models at hand, and nothing else.
    """
    from cli import terminal
    from utils import available_models, load_encoder_hparams_and_params

    if list_models:
        print(*available_models(models_dir), sep="\n")
        return None
    with terminal.argument_errors():  # before anything is downloaded
        check_command(Sampling(temperature, top_k, top_p, seed), n_tokens_to_generate, n_samples, stop)
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    prompt = terminal.read_text(prompt, max_bytes=hparams["n_ctx"] * encoder.max_token_bytes)
    stopwatch, texts = terminal.Stopwatch(), []
    for i in range(n_samples):
        with terminal.argument_errors():  # if the prompt does not fit into the context
            new_ids = generate_stream(encoder.encode(prompt) or encoder.new_text(), params, hparams["n_head"],
                                      n_tokens_to_generate, stop_id=encoder.eot_token, temperature=temperature,
                                      top_k=top_k, top_p=top_p, seed=None if seed is None else seed + i)
        if n_samples > 1:
            print("=" * 40, "SAMPLE", i + 1, "=" * 40)
        pieces = terminal.until(encoder.decode_stream(stopwatch(new_ids)), stop and terminal.unescape(stop))
        texts.append(terminal.print_pieces(pieces, before=prompt if echo else ""))
        terminal.end_line(texts[-1], anyway=n_samples > 1)
    terminal.notice(stopwatch)
    return "\n".join(texts)


if __name__ == "__main__":
    from cli.terminal import run_command_line

    run_command_line(main, short={"n": "n_tokens_to_generate", "t": "temperature", "m": "model_size"})
