"""GPT-2 in NumPy, from token ids to text.

The file reads in the order in which data flows: activation, norm, linear layer, feed-forward network, attention,
heads, block, model, generation, command line. Shapes are given in comments: n_seq tokens, each a vector of n_embd
numbers, seen by n_head heads of d_head = n_embd / n_head numbers.

    from gpt2 import gpt2
    from utils import load_encoder_hparams_and_params
    encoder, hparams, params = load_encoder_hparams_and_params("124M", "models")
    logits = gpt2(encoder.encode("Hello"), **params, n_head=hparams["n_head"])  # [n_seq, n_vocab]

The model is that of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), as in `model.py` of
https://github.com/openai/gpt-2.
"""
import functools
import math
import numbers
import sys
import time

import numpy as np

# The queries of a long text attend in blocks of this many: a block does not meet the keys that lie after it, which is
# half of all, and its scores stay in the processor's caches. Of 32, 64, 128, 256 and the whole text this was fastest.
QUERY_BLOCK = 128

# The C library hands freed memory of more than 128 KB back to the system at once, so that each new intermediate array
# would be paged in anew, which takes longer than computing it. Freeing one large block makes it keep memory for reuse
# (the dynamic M_MMAP_THRESHOLD of mallopt(3), at most 32 MB). The block is never touched and costs nothing.
np.empty(31 * 2**20, dtype=np.uint8)


# --- the layers ---------------------------------------------------------------------------------


def gelu(x):
    """Gaussian error linear unit, in GPT-2's tanh form (Hendrycks & Gimpel, https://arxiv.org/abs/1606.08415)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def softmax(x):
    """Numbers of any size to probabilities, along the last axis: exp(x) over its sum."""
    exp_x = np.exp(x - np.max(x, axis=-1, keepdims=True))  # exp of at most 0 cannot overflow
    return exp_x / np.sum(exp_x, axis=-1, keepdims=True)


def layer_norm(x, g, b, eps=1e-5):
    """Each row to mean 0 and variance 1, then gain g and bias b (Ba et al., https://arxiv.org/abs/1607.06450)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * g + b


def linear(x, w, b):
    """x [n_seq, n_in] @ w [n_in, n_out] + b [n_out] -> [n_seq, n_out]

    The product is written as (w.T @ x.T).T, which is the same: w is kept column after column (`utils`), so w.T is what
    lies in memory row after row, and for few rows of x the BLAS takes that a quarter faster than w.
    """
    if x.ndim == 2 and 8 < len(x) < 16:  # the BLAS takes 16 rows at once: it is done with 16 before it is with 9
        return linear(np.concatenate([x, np.zeros_like(x, shape=(16 - len(x), x.shape[1]))]), w, b)[: len(x)]
    return (w.T @ x.T).T + b


def no_tap(name, x):
    """The tap of a pass that nobody watches: each value goes on as it is. What a tap is, `gpt2` says."""
    return x


def ffn(x, c_fc, c_proj, *, tap=no_tap):
    """Feed-forward network, the same for each position: up to four times the width, and back. [n_seq, n_embd]"""
    pre = tap("mlp.pre", linear(x, **c_fc))  # [n_seq, n_embd] -> [n_seq, 4 * n_embd]
    post = tap("mlp.post", gelu(pre))
    return linear(post, **c_proj)  # [n_seq, 4 * n_embd] -> [n_seq, n_embd]


def attention(q, k, v, mask=0, *, tap=no_tap):
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
    scores = (q / math.sqrt(q.shape[-1])) @ k.swapaxes(-1, -2) + mask  # [..., n_query, n_key]
    pattern = tap("attn.pattern", softmax(tap("attn.attn_scores", scores)))
    return pattern @ v  # [..., n_query, n_key] @ [..., n_key, d_head] -> [..., n_query, d_head]


@functools.lru_cache(maxsize=16)  # the layers of a pass share their masks
def causal_mask(n_query, n_key):
    """[n_query, n_key]: -inf where a key lies after its query, else 0. The queries are the last n_query positions."""
    mask = np.triu(np.full((n_query, n_key), -np.inf, dtype=np.float32), k=1 + n_key - n_query)
    mask.flags.writeable = False
    return mask


def mha(x, c_attn, c_proj, n_head, *, kv=None, n_past=0, tap=no_tap):
    """Causal multi-head attention: each head looks at this and the earlier positions. [n_seq, n_embd] -> the same

    `kv` [2, n_head, n_ctx, d_head] holds this layer's keys and values of the n_past positions before `x`, and is given
    those of `x`.
    """
    n_seq, n_embd = x.shape
    qkv = linear(x, **c_attn).reshape(n_seq, 3, n_head, -1)  # [n_seq, n_embd] -> [n_seq, 3, n_head, d_head]
    q, k, v = (tap(f"attn.{name}", qkv[:, i]).swapaxes(0, 1) for i, name in enumerate("qkv"))  # [n_head, n_seq, d_head]
    if kv is not None:
        kv[:, :, n_past : n_past + n_seq] = k, v
        k, v = kv[:, :, : n_past + n_seq]  # [n_head, n_past + n_seq, d_head]
    z = np.empty((n_seq, n_head, n_embd // n_head), dtype=x.dtype)
    block = QUERY_BLOCK if tap is no_tap else n_seq  # who looks inside wants to see the whole pattern
    for start in range(0, n_seq, block):
        queries = q[:, start : start + block]  # [n_head, n_query, d_head]
        n_query, n_key = queries.shape[1], n_past + min(start + block, n_seq)
        heads = attention(queries, k[:, :n_key], v[:, :n_key], causal_mask(n_query, n_key), tap=tap)
        z[start : start + block] = heads.swapaxes(0, 1)  # [n_head, n_query, d_head] -> [n_query, n_head, d_head]
    z = tap("attn.z", z)
    return linear(z.reshape(n_seq, n_embd), **c_proj)  # the heads side by side, and mixed


def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, *, kv=None, n_past=0, tap=no_tap):
    """One layer: attention, then the feed-forward network, each added to the residual stream x [n_seq, n_embd]."""
    x = tap("resid_pre", x)
    normalized = tap("ln1.normalized", layer_norm(x, **ln_1))
    x = x + tap("attn_out", mha(normalized, **attn, n_head=n_head, kv=kv, n_past=n_past, tap=tap))
    x = tap("resid_mid", x)
    normalized = tap("ln2.normalized", layer_norm(x, **ln_2))
    x = x + tap("mlp_out", ffn(normalized, **mlp, tap=tap))
    return tap("resid_post", x)


# --- the model ----------------------------------------------------------------------------------


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, *, kv_cache=None, n_past=0, n_logits=None, tap=None):
    """GPT-2's forward pass: the logits of the token that follows, at each position.

    Args:
        inputs: token ids, a sequence of n_seq int.
        wte, wpe: embeddings of tokens [n_vocab, n_embd] and of positions [n_ctx, n_embd].
        blocks: list of n_layer dicts, the parameters of `transformer_block`.
        ln_f: dict, the parameters of the last `layer_norm`.
        n_head: number of attention heads.
        kv_cache: from `new_kv_cache`, the keys and values of the n_past positions before `inputs`; those of `inputs`
            are written behind them.
        n_past: how many positions of kv_cache count. To go back, call with a smaller one.
        n_logits: give only the last so many rows (generation needs one); None gives all.
        tap: callable tap(name, array), called with each intermediate value as it is computed (README, "Looking
            inside", lists names and shapes). An array that it returns takes the place of the value; None leaves it.

    Returns:
        float32 [n_seq, n_vocab], or [n_logits, n_vocab].

    Raises:
        TypeError: an id is not an integer.
        ValueError: no ids, an id outside the vocabulary, or more positions than the context has.
    """
    inputs = check_ids(inputs, n_vocab=len(wte))
    n_seq = len(inputs)
    if n_past + n_seq > len(wpe):
        raise ValueError(f"{n_past + n_seq} positions are more than the context of {len(wpe)} (n_ctx): shorten the "
                         "text")
    if kv_cache is None:
        kv_cache = new_kv_cache(n_past + n_seq, blocks, n_head)
    watch = tapped(tap)
    positions = np.arange(n_past, n_past + n_seq)
    x = watch("embed", wte[inputs]) + watch("pos_embed", wpe[positions])  # [n_seq] -> [n_seq, n_embd]
    for i, (block, kv) in enumerate(zip(blocks, kv_cache)):
        x = transformer_block(x, **block, n_head=n_head, kv=kv, n_past=n_past, tap=tapped(tap, f"blocks.{i}."))
    x = x[-n_logits if n_logits else 0 :]  # only the rows whose logits are wanted
    x = watch("ln_final.normalized", layer_norm(x, **ln_f))
    return watch("logits", x @ wte.T)  # [n_seq, n_embd] -> [n_seq, n_vocab]


def new_kv_cache(n_ctx, blocks, n_head):
    """Room for the keys and values of n_ctx positions: float32 [n_layer, 2, n_head, n_ctx, d_head]

    A position's keys and values depend on that and earlier tokens only. Kept, they need not be computed again for each
    new token: it then costs one row, not the whole text.
    """
    n_embd = len(blocks[0]["attn"]["c_proj"]["b"]) if blocks else n_head
    return np.empty((len(blocks), 2, n_head, n_ctx, n_embd // n_head), dtype=np.float32)


def tapped(tap, place=""):
    """A user's tap (or None) as the functions above call it: `place` goes before each name, a value always returns."""
    if tap is None:
        return no_tap

    def watch(name, x):
        name = place + name
        replacement = tap(name, x)
        if replacement is None:
            return x
        if not isinstance(replacement, np.ndarray):
            raise TypeError(f"the tap returned {type(replacement).__name__} for {name}: return an array that replaces "
                            "the value, or None to leave it")
        if replacement.shape != x.shape:
            raise ValueError(f"the tap returned shape {list(replacement.shape)} for {name}, which has {list(x.shape)}")
        return replacement.astype(np.float32, copy=False)

    return watch


def check_ids(ids, n_vocab):
    """Token ids as an int array [n_seq]; TypeError or ValueError where they are none that the model knows."""
    try:
        n_seq = len(ids)
    except TypeError:
        raise TypeError(f"token ids must be a sequence of whole numbers, not {ids!r}") from None
    for i in ids:
        if isinstance(i, (bool, np.bool_)) or not isinstance(i, numbers.Integral):
            raise TypeError(f"token ids must be whole numbers, not {i!r}")
        if not 0 <= i < n_vocab:  # a negative one would count from the end
            raise ValueError(f"token id {i} is not in the vocabulary: ids are 0 to {n_vocab - 1}")
    if n_seq == 0:
        raise ValueError("there are no token ids: the model needs at least one; <|endoftext|> begins a new text")
    return np.asarray(ids, dtype=np.intp)


# --- generation ---------------------------------------------------------------------------------


def generate(inputs, params, n_head, n_tokens_to_generate, **options):
    """Continue `inputs`, one token after the other, each appended to what the next one is computed from.

    Args:
        inputs: token ids of the prompt, a sequence of int; it stays as it is.
        params: dict of the weights, as `utils.load_encoder_hparams_and_params` gives them.
        n_head: number of attention heads.
        n_tokens_to_generate: how many, at least 1; with the prompt they may fill the context, no more.
        temperature: 0 takes the most likely token each time (greedy); else logits are divided by it before sampling.
        top_k: sample among the k most likely tokens only.
        top_p: sample among the fewest tokens that together have this probability, in (0, 1] (nucleus sampling,
            Holtzman et al., https://arxiv.org/abs/1904.09751).
        seed: int for the same choice each time; None for another each time.
        stop_id: end before this token, when it comes.
        tap: as in `gpt2`, called in each pass.
        lookup: let greedy decoding go faster through text that repeats itself (see `look_up`); the ids are the same.

    Returns:
        list of int, the new ids: n_tokens_to_generate of them, or fewer where stop_id came.

    Raises:
        TypeError, ValueError: an argument is not as described; the message says which and why.
    """
    return list(generate_stream(inputs, params, n_head, n_tokens_to_generate, **options))


def generate_stream(inputs, params, n_head, n_tokens_to_generate, *, temperature=0, top_k=None, top_p=None, seed=None,
                    stop_id=None, tap=None, lookup=True):
    """As `generate`, but gives an iterator of the new ids, each as soon as it is known."""
    n_vocab, n_ctx = len(params["wte"]), len(params["wpe"])
    ids = check_ids(inputs, n_vocab).tolist()
    check_options(n_tokens_to_generate, temperature, top_k, top_p, seed, stop_id, n_vocab)
    if len(ids) + n_tokens_to_generate > n_ctx:
        raise ValueError(f"a prompt of {len(ids)} tokens and {n_tokens_to_generate} new ones make "
                         f"{len(ids) + n_tokens_to_generate}, more than the context of {n_ctx} (n_ctx): shorten the "
                         "prompt or ask for fewer")
    rng = np.random.default_rng(seed)
    lookup = lookup and temperature == 0 and tap is None

    def new_ids():
        kv_cache = new_kv_cache(len(ids) + n_tokens_to_generate, params["blocks"], n_head)
        n_past, step = 0, list(ids)  # first the whole prompt, then only what is new
        n_left, n_match, n_guess = n_tokens_to_generate, MATCHES[0], GUESSES[0]
        history = "".join(map(chr, ids))  # ids as characters: to look for them is to look for text in text
        while n_left:
            guess = look_up(history, n_match, min(n_guess, n_left - 1)) if lookup and n_past else []
            logits = gpt2(step + guess, **params, n_head=n_head, kv_cache=kv_cache, n_past=n_past,
                          n_logits=1 + len(guess), tap=tap)
            n_past += len(step)
            n_right = 0
            for row, guessed in zip(logits, [*guess, None]):
                next_id = sample(row, temperature, top_k, top_p, rng)
                if next_id == stop_id:
                    return
                yield next_id
                history += chr(next_id)
                n_left -= 1
                if next_id != guessed:
                    break
                n_right += 1  # the next row was computed from the right token: it counts too
            n_past += n_right
            step = [next_id]
            if guess and n_right == len(guess):
                n_match, n_guess = max(n_match // 2, MATCHES[0]), min(2 * n_guess + 1, GUESSES[1])
            elif guess:
                n_guess = GUESSES[0]
                if n_right < 3:  # it cost more than it gave
                    n_match = min(2 * n_match, MATCHES[1])

    return new_ids()


# Looking up: the shortest and longest match, and the fewest and most tokens guessed from it. A pass over 1 + 7 rows
# takes about as long as three over one row, one over 1 + 63 rows as long as nine.
MATCHES, GUESSES = (4, 64), (7, 63)


def look_up(history, n_match, n_guess):
    """Guess the next tokens from text that was there before: prompt lookup decoding, which needs no second model.

    Where the last n_match tokens stood before, what followed them may follow again (Saxena, 2023,
    https://github.com/apoorvumang/prompt-lookup-decoding). One pass checks the whole guess, since each row of logits
    tells the token after it, and the part that greedy decoding would have chosen anyway is kept. It is speculative
    decoding (Leviathan et al., https://arxiv.org/abs/2211.17192) with the text itself as the small model.

    Args:
        history: str with a character for each token so far.
        n_match, n_guess: how many tokens must match, and how many to guess.

    Returns:
        list of int, n_guess ids, or none where nothing repeats.
    """
    place = history.rfind(history[-n_match:], 0, len(history) - 1)
    if place < 0 or len(history) <= n_match:
        return []
    period = history[place + n_match :]  # what followed; where it reaches the end, the text is going round in it
    return [ord(character) for character in (period * (n_guess // len(period) + 1))[:n_guess]]


def sample(logits, temperature, top_k, top_p, rng):
    """Choose the next token from its logits [n_vocab]: an int. The options are those of `generate`."""
    if temperature == 0:
        return int(np.argmax(logits))
    candidates = np.arange(len(logits))
    if top_k is not None and top_k < len(logits):
        candidates = np.argpartition(-logits, top_k - 1)[:top_k]
    # Infinite logits become the largest finite ones: their differences would not be numbers.
    logits = np.nan_to_num(logits[candidates].astype(np.float64), nan=-np.inf)
    with np.errstate(over="ignore"):
        probabilities = softmax((logits - logits.max()) / temperature)
    if top_p is not None and top_p < 1:
        order = np.argsort(-probabilities, kind="stable")
        order = order[: 1 + np.searchsorted(np.cumsum(probabilities[order]), top_p)]
        candidates, probabilities = candidates[order], probabilities[order] / probabilities[order].sum()
    return int(rng.choice(candidates, p=probabilities))


def check_options(n_tokens_to_generate, temperature, top_k, top_p, seed, stop_id=None, n_vocab=None):
    """TypeError or ValueError, saying which and why, where an option of `generate` is not what it must be."""

    def check(name, value, kind, valid, wanted):
        right_type = isinstance(value, kind) and not isinstance(value, (bool, np.bool_))
        if not right_type or not valid(value):
            raise (ValueError if right_type else TypeError)(f"{name} must be {wanted}, not {value!r}")

    check("n_tokens_to_generate", n_tokens_to_generate, numbers.Integral, lambda n: n >= 1,
          "a whole number, at least 1")
    check("temperature", temperature, numbers.Real, lambda t: 0 <= t < math.inf,
          "a number, 0 (greedy) or more")
    if top_k is not None:
        check("top_k", top_k, numbers.Integral, lambda k: 1 <= k <= (n_vocab or k),
              "a whole number, at least 1" + (f" and at most the vocabulary's {n_vocab}" if n_vocab else ""))
    if top_p is not None:
        check("top_p", top_p, numbers.Real, lambda p: 0 < p <= 1, "a number above 0 and at most 1")
    if seed is not None:
        check("seed", seed, numbers.Integral, lambda s: s >= 0, "a whole number, 0 or more")
    if stop_id is not None:
        check("stop_id", stop_id, numbers.Integral, lambda i: 0 <= i < n_vocab, f"a token id below {n_vocab}")


# --- the command line ---------------------------------------------------------------------------


def main(prompt: str = None, n_tokens_to_generate=40, model_size: str = None, models_dir: str = "models",
         temperature=0, top_k=None, top_p=None, seed=None):
    """Continue a text with GPT-2. The continuation goes to stdout as it is made, all else to stderr.

    Args:
        prompt: the text to continue; without it, what is piped into stdin; if empty, a new text is begun.
        n_tokens_to_generate: how many tokens at most; fewer if the model ends the text.
        model_size: 124M (the default), 355M, 774M, 1558M, or any model's folder in models_dir, as shakespeare.
        models_dir: the folder of models; official ones are downloaded into it.
        temperature: 0 takes the most likely token each time; about 0.7 to 1 varies the text.
        top_k: choose among the k most likely tokens only (needs a temperature).
        top_p: choose among the fewest tokens that together have this probability (needs a temperature).
        seed: a whole number; the same one gives the same text.
    """
    from runtime.terminal import notice, read_stdin
    from utils import load_encoder_hparams_and_params

    check_options(n_tokens_to_generate, temperature, top_k, top_p, seed)  # before anything is downloaded
    if prompt is None:
        prompt = "" if sys.stdin is None or sys.stdin.isatty() else read_stdin()
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    ids = encoder.encode(prompt)
    if not ids:
        if encoder.eot_token is None:
            raise ValueError("the prompt is empty and this vocabulary has no <|endoftext|> to begin from")
        ids = [encoder.eot_token]
    new_ids = generate_stream(ids, params, hparams["n_head"], n_tokens_to_generate, temperature=temperature,
                              top_k=top_k, top_p=top_p, seed=seed, stop_id=encoder.eot_token)
    times, text = [time.perf_counter()], ""

    def timed(new_ids):
        for i in new_ids:
            times.append(time.perf_counter())
            yield i

    for piece in encoder.decode_stream(timed(new_ids)):
        print(piece, end="", flush=True)
        text += piece
    if sys.stdout.isatty():
        notice("")  # the notice begins a line of its own
    seconds = times[-1] - times[0]
    notice(f"{len(times) - 1} tokens in {seconds:.2f} s ({(len(times) - 1) / max(seconds, 1e-9):.1f} tokens/s), the "
           f"first after {times[min(1, len(times) - 1)] - times[0]:.2f} s")
    return text


if __name__ == "__main__":
    from runtime.terminal import run_command_line

    run_command_line(main)
