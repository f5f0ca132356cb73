"""Look inside GPT-2: the questions people ask of a language model, in a notebook and from the terminal.

Each question is a function. It takes a text (or token ids) and `model`, what `load_encoder_hparams_and_params` gives,
and returns a small named tuple of NumPy arrays; its partner `plot_...` draws that, its partner `show_...` is the
command of that name, which prints it.

    from lens import next_tokens, plot_next_tokens
    from utils import load_encoder_hparams_and_params
    model = load_encoder_hparams_and_params("shakespeare", "models")  # (encoder, hparams, params)
    plot_next_tokens(next_tokens("ROMEO:\\nO, she doth teach the torches to burn", model))

    python lens.py next_tokens "The cat sat on the" --k 5 --out next.png

Functions that run the model take a `hook` too, `gpt2.gpt2`'s: what it replaces (a head without output, an activation
from another text) is what they then answer for.

In named tuples, tables and plots a token is a *piece*: its text with what is invisible made visible. A space is "·", a
newline "↵", a tab "⇥"; a byte that is not a whole character by itself is "<0xEC>", a control character "<U+0007>".
"""
import math
import numbers
import re
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt2 import gpt2, layer_norm, softmax
from runtime.checks import check_ids
from runtime.terminal import notice, read_stdin, run_command_line
from utils import load_encoder_hparams_and_params

VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥"}
MASKED = "0.8"  # the grey of what a query must not see


# --- tokens -------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """A text's tokens: ids int [n_seq], and the piece (str) of each."""

    ids: np.ndarray
    pieces: list


def tokens(text, model):
    """The pieces into which the tokenizer cuts a text, with their ids.

    Args:
        text: str, or a sequence of ids. An empty text is what the model begins from: the one token <|endoftext|>.
        model: (encoder, hparams, params), as `utils.load_encoder_hparams_and_params` gives it.

    Returns:
        Tokens.

    Raises:
        TypeError, ValueError: the ids are none that the model knows; the text is empty and the vocabulary has no
            <|endoftext|>.
    """
    encoder = model[0]
    ids = encoder.encode(text) if isinstance(text, str) else text
    if isinstance(text, str) and not ids:
        ids = [_end_of_text(encoder)]
    ids = check_ids(ids, encoder.n_vocab)
    return Tokens(ids, [visible(encoder.token_bytes(i)) for i in ids])


def visible(data):
    """A token's bytes as a piece, a str without anything invisible: b" caf\\xc3" -> "·caf<0xC3>"."""
    piece = ""
    for character in data.decode("utf-8", errors="surrogateescape"):
        if "\udc80" <= character <= "\udcff":  # a byte that is part of a character only
            piece += f"<0x{ord(character) - 0xDC00:02X}>"
        elif character in VISIBLE:
            piece += VISIBLE[character]
        elif unicodedata.category(character)[0] in "CZM":  # control characters, other spaces, accents on nothing
            piece += f"<U+{ord(character):04X}>"
        else:
            piece += character
    return piece


def _end_of_text(encoder):
    if encoder.eot_token is None:
        raise ValueError("this vocabulary has no <|endoftext|> for a text to begin from")
    return encoder.eot_token


# --- what the model says of a text --------------------------------------------------------------


class NextTokens(NamedTuple):
    """The k most likely next tokens, the likeliest first: ids int [k], pieces, probabilities float64 [k]."""

    ids: np.ndarray
    pieces: list
    probabilities: np.ndarray


def next_tokens(text, model, k=10, temperature=1, hook=None):
    """The tokens that most likely follow a text.

    Args:
        text, model: as in `tokens`.
        k: how many.
        temperature: the logits are divided by it, as in sampling; 0 gives the likeliest token all the probability.
        hook: as in `gpt2.gpt2`.

    Returns:
        NextTokens.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.
    """
    encoder, hparams, params = model
    _check_whole("k", k, 1, hparams["n_vocab"], "the size of the vocabulary")
    if isinstance(temperature, bool) or not isinstance(temperature, numbers.Real):
        raise TypeError(f"temperature must be a number, 0 or more, not {temperature!r}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a number, 0 or more, not {temperature!r}")
    logits = gpt2(tokens(text, model).ids, **params, n_head=hparams["n_head"], n_logits=1, hook=hook)[-1]
    order = np.argsort(-logits, kind="stable")[:k]
    if temperature == 0:
        probabilities = np.eye(1, k)[0]
    else:
        logits = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # of a tiny temperature: -inf, whose probability is 0
            probabilities = softmax((logits - logits.max()) / temperature)[order]
    return NextTokens(order, tokens(order, model).pieces, probabilities)


class Score(NamedTuple):
    """How likely a text is: ids int [n_seq], pieces, log_probs float64 [n_seq] (natural logarithms of each token's
    probability after those before it), their total, n_bytes in UTF-8, bits_per_byte and perplexity."""

    ids: np.ndarray
    pieces: list
    log_probs: np.ndarray
    total: float
    n_bytes: int
    bits_per_byte: float
    perplexity: float


def score(text, model, stride=None, hook=None):
    """How likely the model finds a text.

    <|endoftext|> is put before it, so that its first token is scored too. A text longer than the context is read
    in windows of n_ctx tokens, each begun `stride` tokens after the one before; a window scores the tokens that are
    new in it and has the others as context. A small stride gives each token more context, and takes longer.

    bits_per_byte is the total in bits over the UTF-8 bytes of the text, which compares models of different
    vocabularies (as in Gao et al., https://arxiv.org/abs/2101.00027); perplexity is exp(-total / n_seq).

    Args:
        text, model: as in `tokens`; it must not be empty.
        stride: 1 to n_ctx; n_ctx sets windows side by side, each with no context at its start. None is half of n_ctx.
        hook: as in `gpt2.gpt2`, called in each window.

    Returns:
        Score.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    encoder, hparams, params = model
    n_ctx = hparams["n_ctx"]
    stride = max(1, n_ctx // 2) if stride is None else stride
    _check_whole("stride", stride, 1, n_ctx, "the context, n_ctx")
    if len(text) == 0:
        raise ValueError("there is nothing to score: the text is empty")
    ids, pieces = tokens(text, model)
    inputs = np.concatenate([[_end_of_text(encoder)], ids[:-1]])  # what each token is predicted from the end of
    log_probs = np.empty(len(ids))
    start = done = 0
    while done < len(ids):
        end = min(start + n_ctx, len(ids))
        logits = gpt2(inputs[start:end], **params, n_head=hparams["n_head"], n_logits=end - done, hook=hook)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        right = shifted[np.arange(end - done), ids[done:end]]
        log_probs[done:end] = right - np.log(np.exp(shifted, out=shifted).sum(axis=-1, dtype=np.float64))
        start, done = start + stride, end
    total = float(log_probs.sum())
    n_bytes = sum(len(encoder.token_bytes(i)) for i in ids)
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(-total / len(ids)))
    return Score(ids, pieces, log_probs, total, n_bytes, -total / math.log(2) / n_bytes, perplexity)


class Attention(NamedTuple):
    """Where a layer's heads look: pieces of the text, pattern float32 [n_head, n_query, n_key] of which each row is
    a distribution over this and earlier tokens, the layer, and the heads' numbers (list of int)."""

    pieces: list
    pattern: np.ndarray
    layer: int
    heads: list


def attention(text, model, layer=0, head=None, hook=None):
    """The attention pattern of one head, or of all heads of a layer (Vaswani et al., https://arxiv.org/abs/1706.03762).

    Args:
        text, model: as in `tokens`.
        layer: 0 to n_layer - 1.
        head: 0 to n_head - 1, or None for all.
        hook: as in `gpt2.gpt2`.

    Returns:
        Attention; with one head, pattern is [1, n_query, n_key].

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.
    """
    hparams = model[1]
    _check_whole("layer", layer, 0, hparams["n_layer"] - 1, "the last layer")
    if head is not None:
        _check_whole("head", head, 0, hparams["n_head"] - 1, "the last head")
    heads = list(range(hparams["n_head"])) if head is None else [head]
    name = f"blocks.{layer}.attn.pattern"
    ids, pieces = tokens(text, model)
    return Attention(pieces, _record(ids, model, [name], hook)[name][heads], layer, heads)


class LogitLens(NamedTuple):
    """What each layer would predict: pieces of the text; of the k likeliest next tokens after each layer and at each
    position ids int [n_layer, n_seq, k], predictions (their pieces, an array of str) and probabilities float32, both
    of the same shape."""

    pieces: list
    ids: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray


def logit_lens(text, model, k=1, hook=None):
    """What each layer would predict at each position, were it the last (nostalgebraist, "interpreting GPT: the logit
    lens", 2020, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru).

    The residual stream after a layer is read as the model reads that after its last one (`unembed`). So the last
    layer's predictions are the model's own.

    Args:
        text, model: as in `tokens`.
        k: how many predictions for each layer and position.
        hook: as in `gpt2.gpt2`.

    Returns:
        LogitLens.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.
    """
    _, hparams, params = model
    _check_whole("k", k, 1, hparams["n_vocab"], "the size of the vocabulary")
    ids, pieces = tokens(text, model)
    names = [f"blocks.{i}.resid_post" for i in range(hparams["n_layer"])]
    seen = _record(ids, model, names, hook)
    shape = (len(names), len(ids), k)
    best, probabilities = np.empty(shape, np.intp), np.empty(shape, np.float32)
    for i, name in enumerate(names):  # layer by layer: all logits at once would not fit into memory
        p = softmax(unembed(seen[name], params))
        best[i] = np.argsort(-p, axis=-1, kind="stable")[:, :k]
        probabilities[i] = np.take_along_axis(p, best[i], axis=-1)
    return LogitLens(pieces, best, np.array(tokens(best.ravel(), model).pieces).reshape(shape), probabilities)


def unembed(x, params):
    """The residual stream x [n_seq, n_embd] of any layer as logits [n_seq, n_vocab]: the last norm, then wte."""
    return layer_norm(x, **params["ln_f"]) @ params["wte"].T


def _record(ids, model, names, hook):
    """A pass over `ids`: dict of the named intermediates, as they are after the user's `hook`."""
    _, hparams, params = model
    seen = {}

    def record(name, x):
        replacement = None if hook is None else hook(name, x)
        if name in names:
            seen[name] = x if replacement is None else replacement
        return replacement

    gpt2(ids, **params, n_head=hparams["n_head"], n_logits=1, hook=record)
    return seen


def _check_whole(name, value, low, high, what):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number from {low} to {high} ({what}), not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high} ({what}), not {value!r}")


# --- what the model is made of ------------------------------------------------------------------


class Neighbours(NamedTuple):
    """The k nearest tokens, the nearest first: ids int [k], pieces, similarities float32 [k] (cosines); and
    `expression`, what was looked for, as pieces."""

    ids: np.ndarray
    pieces: list
    similarities: np.ndarray
    expression: str


def neighbours(expression, model, k=10):
    """The tokens whose embeddings point the same way as a token's, or as a sum and difference of some.

    `king - man + woman` adds and subtracts embeddings of length 1, and the terms themselves are left out of the
    answer (Mikolov et al., "Linguistic Regularities in Continuous Space Word Representations", 2013). Most words are
    in the vocabulary with the space before them, so a term means that token, ·king, and where there is none the one
    without, king. A term in quotes is taken as it stands, ' king' or 'king' or '-'; #464 is the token of that id.

    Args:
        expression: str, terms with + or - between; white space parts them from each other.
        model: as in `tokens`.
        k: how many.

    Returns:
        Neighbours.

    Raises:
        TypeError, ValueError: k is no such number; the expression cannot be read; a term is not one token (the message
            gives its pieces); the terms cancel each other out.
    """
    encoder, hparams, params = model
    if not isinstance(expression, str):
        raise TypeError(f"the expression must be a str such as 'king - man + woman', not {expression!r}")
    signs, ids = _terms(expression, model)
    _check_whole("k", k, 1, hparams["n_vocab"] - len(set(ids)), "the vocabulary without the terms")
    wte = params["wte"]
    lengths = np.maximum(np.sqrt(np.einsum("ij,ij->i", wte, wte)), 1e-12)  # a token never seen may have no length
    direction = np.float32(signs) @ (wte[ids] / lengths[ids, None])  # [n_term] @ [n_term, n_embd] -> [n_embd]
    length = np.linalg.norm(direction)
    if length < 1e-6:
        raise ValueError(f"the terms of {expression!r} cancel each other out: nothing is near to nothing")
    similarities = wte @ (direction / length) / lengths  # [n_vocab]
    similarities[ids] = -np.inf
    order = np.argsort(-similarities, kind="stable")[:k]
    *pieces, first = tokens([*ids[1:], ids[0]], model).pieces
    terms = "".join(f" {'+' if sign > 0 else '-'} {piece}" for sign, piece in zip(signs[1:], pieces, strict=True))
    return Neighbours(order, tokens(order, model).pieces, similarities[order],
                      ("- " if signs[0] < 0 else "") + first + terms)


def _terms(expression, model):
    """An expression's signs (1 or -1) and token ids, two lists."""
    signs, ids, sign = [], [], 1
    words = re.findall(r""""[^"]+"(?!\S)|'[^']+'(?!\S)|\S+""", expression)
    if len(words) > 1 and words[0] in "+-":  # - king + queen
        sign, words = 1 if words[0] == "+" else -1, words[1:]
    for i, word in enumerate(words):
        if i % 2 == 0:
            signs.append(sign)
            ids.append(_term(word, model))
        elif word in ("+", "-"):
            sign = 1 if word == "+" else -1
        else:
            raise ValueError(f"{expression!r}: between {words[i - 1]!r} and {word!r} a + or - is missing; a text of "
                             "several words goes in quotes within the expression")
    if len(words) % 2 == 0:
        raise ValueError(f"{expression!r} " + ("ends with an operator: a term is missing" if words else "has no term"))
    return signs, ids


def _term(word, model):
    """The one token that a term means."""
    encoder = model[0]
    if re.fullmatch(r"#\d+", word):
        return int(check_ids([int(word[1:])], encoder.n_vocab)[0])
    quoted = len(word) > 2 and word[0] == word[-1] and word[0] in "\"'"
    spellings = [word[1:-1]] if quoted else [" " + word, word]
    for spelling in spellings:
        ids = encoder.encode(spelling)
        if len(ids) == 1:
            return ids[0]
    pieces = " and ".join(" ".join(tokens(spelling, model).pieces) for spelling in spellings)
    raise ValueError(f"{word} is not one token of this vocabulary: its pieces are {pieces}; only single tokens have an "
                     "embedding")


class Parameters(NamedTuple):
    """The model's parts in order: names, shapes (str), counts int [n_part] over all layers; their sum, the total."""

    names: list
    shapes: list
    counts: np.ndarray
    total: int


def parameters(model):
    """How many parameters each part of the model has, added up over the layers.

    The token embeddings are the output layer's weights too (Press & Wolf, https://arxiv.org/abs/1608.05859): they are
    counted once.

    Args:
        model: as in `tokens`.

    Returns:
        Parameters.
    """
    params = model[2]
    parts = {}  # name -> [shapes of one layer, count, number of layers]

    def add(name, arrays):
        part = parts.setdefault(name, [", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()), 0, 0])
        part[1] += sum(array.size for array in arrays.values())
        part[2] += 1

    add("wte", {"w": params["wte"]})
    add("wpe", {"w": params["wpe"]})
    for block in params["blocks"]:
        for group in ("ln_1", "attn", "ln_2", "mlp"):
            if group.startswith("ln"):
                add(f"blocks.*.{group}", block[group])
            else:
                for name, arrays in block[group].items():
                    add(f"blocks.*.{group}.{name}", dict(sorted(arrays.items(), reverse=True)))  # w before b
    add("ln_f", params["ln_f"])
    names = [name.replace("*", f"0-{n - 1}" if n > 1 else "0") for name, (_, _, n) in parts.items()]
    counts = np.array([count for _, count, _ in parts.values()])
    return Parameters(names, [shapes for shapes, _, _ in parts.values()], counts, int(counts.sum()))


# --- pictures -----------------------------------------------------------------------------------
#
# Each function draws on `ax`, a matplotlib Axes, and returns it. Without one, pyplot makes a figure of a fitting size
# (which a notebook shows); an empty Figure is given that size and an Axes. All raise ImportError without matplotlib.


def plot_tokens(result, ax=None):
    """Draw `Tokens`: each piece in a box as wide as its text, its id below it."""
    labels = _labels(result.pieces)
    widths = [max(len(label), len(str(i))) + 1 for label, i in zip(labels, result.ids, strict=True)]
    places, x, y = [], 0, 0
    for width in widths:
        if x and x + width > 80:
            x, y = 0, y + 1
        places.append((x, y))
        x += width
    right = max(place[0] + width for place, width in zip(places, widths, strict=True))
    ax = _axes(ax, 0.5 + 0.105 * max(right, 30), 0.9 + 0.5 * (y + 1))
    from matplotlib.patches import Rectangle

    for n, ((x, y), width, label, i) in enumerate(zip(places, widths, labels, result.ids, strict=True)):
        ax.add_patch(Rectangle((x + 0.1, y + 0.06), width - 0.2, 0.88, facecolor=f"C{n % 10}", alpha=0.3))
        for text, dy, size in ((label, 0.36, 9), (str(i), 0.72, 7)):
            ax.text(x + width / 2, y + dy, text, ha="center", va="center", size=size, family="monospace",
                    parse_math=False)
    ax.set(xlim=(0, max(right, 30)), ylim=(y + 1, 0), xticks=[], yticks=[], title=f"{len(labels)} tokens and their ids")
    ax.spines[:].set_visible(False)
    return ax


def plot_next_tokens(result, ax=None):
    """Draw `NextTokens` as bars, the likeliest on top."""
    return _bars(ax, result.pieces, result.probabilities, [f"{p:.1%}" for p in result.probabilities],
                 "probability", "next token")


def plot_neighbours(result, ax=None):
    """Draw `Neighbours` as bars, the nearest on top."""
    ax = _bars(ax, result.pieces, result.similarities, [f"{s:.3f}" for s in result.similarities],
               "cosine similarity", "token")
    ax.set_title("nearest to " + "".join(_labels([result.expression], longest=80)), parse_math=False)
    return ax


def plot_parameters(result, ax=None):
    """Draw `Parameters` as bars, in the order of the model."""
    ax = _bars(ax, result.names, result.counts, [f"{n:,} ({n / result.total:.1%})" for n in result.counts],
               "parameters", "part")
    ax.set_title(f"{result.total:,} parameters")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.locator_params(axis="x", nbins=5)
    return ax


def _bars(ax, names, values, texts, x_label, y_label):
    ax = _axes(ax, 6.5, 1.1 + 0.24 * len(names))
    bars = ax.barh(range(len(names)), values, color="C0")
    ax.bar_label(bars, texts, padding=3, size=8)
    ax.set_yticks(range(len(names)), _labels(names, longest=24), size=9, parse_math=False)
    ax.set(ylim=(len(names) - 0.4, -0.6), xlabel=x_label, ylabel=y_label)
    ax.margins(x=0.3)  # room for the texts
    if min(values) >= 0:
        ax.set_xlim(left=0)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_score(result, ax=None):
    """Draw `Score`: the surprise of each token in bits, high where the model did not expect it."""
    bits = -result.log_probs / math.log(2)
    ax = _axes(ax, 1.2 + min(16, max(4, 0.2 * len(bits))), 3.4)
    from matplotlib import cm, colors

    norm = colors.Normalize(0, max(1, bits.max()))
    ax.bar(range(len(bits)), bits, width=0.9 if len(bits) < 200 else 1, color=cm.viridis_r(norm(bits)))
    _token_axis(ax.xaxis, result.pieces)
    ax.set(xlim=(-0.6, len(bits) - 0.4), xlabel="token", ylabel="surprise in bits",
           title=f"{result.bits_per_byte:.3f} bits per byte, perplexity {result.perplexity:,.1f}")
    ax.figure.colorbar(cm.ScalarMappable(norm, "viridis_r"), ax=ax, label="bits", pad=0.01)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_attention(result, ax=None):
    """Draw `Attention`: a heat map a head, a row for each query; what the causal mask hides is grey."""
    n_head, n, _ = result.pattern.shape
    n_columns = math.ceil(math.sqrt(n_head)) if n_head > 1 else 1
    n_rows = -(-n_head // n_columns)
    cell = max(2.4 if n_head > 1 else 3.5, min(0.13 if n_head > 1 else 0.19, 14 / n) * n) / n  # inches
    gap = 0.35 / cell if n_head > 1 else 0  # in tokens: room for the head's name
    ax = _axes(ax, 2.2 + n_columns * (n + gap) * cell, 1.8 + n_rows * (n + gap) * cell)
    from matplotlib import colormaps

    colours = colormaps["viridis"].with_extremes(bad=MASKED)
    hidden = np.triu(np.ones((n, n), dtype=bool), k=1)
    places = [(i % n_columns * (n + gap), i // n_columns * (n + gap)) for i in range(n_head)]
    for (x, y), head, pattern in zip(places, result.heads, result.pattern, strict=True):
        image = ax.imshow(np.ma.array(pattern, mask=hidden), cmap=colours, vmin=0, vmax=1, interpolation="nearest",
                          extent=(x - 0.5, x + n - 0.5, y + n - 0.5, y - 0.5))
        if n_head > 1:
            ax.text(x + (n - 1) / 2, y - 0.5 - 0.2 * gap, f"head {head}", ha="center", va="bottom", size=9)
    size = 7 if n_head > 1 else 8
    _token_axis(ax.xaxis, result.pieces, sorted({x for x, _ in places}), size)
    _token_axis(ax.yaxis, result.pieces, sorted({y for _, y in places}), size)
    title = f"layer {result.layer}" + (f", head {result.heads[0]}" if n_head == 1 else "")
    ax.set(xlim=(-0.5, n_columns * (n + gap) - gap - 0.5), ylim=(n_rows * (n + gap) - gap - 0.5, -0.5 - gap),
           xlabel="token looked at (key)", ylabel="token that looks (query)", title=title)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(image, ax=ax, label="attention (grey: masked, it comes later)", shrink=0.8, pad=0.02)
    return ax


def plot_logit_lens(result, ax=None):
    """Draw `LogitLens`: a row for each token, a column for each layer; in each cell the likeliest next token."""
    n_layer, n, _ = result.ids.shape
    ax = _axes(ax, 2.6 + 0.8 * n_layer, 1.3 + min(40, 0.22 * n))
    p = result.probabilities[:, :, 0].T  # [n_seq, n_layer]
    image = ax.imshow(p, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if n <= 180:
        for i, row in enumerate(result.predictions[:, :, 0].T):
            for j, label in enumerate(_labels(row, longest=9)):
                ax.text(j, i, label, ha="center", va="center", size=8, parse_math=False,
                        color="black" if p[i, j] > 0.6 else "white")
    _token_axis(ax.yaxis, result.pieces)
    ax.set_xticks(range(n_layer), range(n_layer))
    ax.set(xlabel="after layer", ylabel="token", title="what each layer would predict next")
    ax.figure.colorbar(image, ax=ax, label="probability of the prediction", pad=0.02)
    return ax


def _axes(ax, width, height):
    """The Axes to draw on; where a new one is made, the figure has this size in inches."""
    Figure = _figure_class()
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    if isinstance(ax, Figure):
        ax.set_size_inches(width, height)
        return ax.add_subplot()
    return ax


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib, which is not installed: pip install matplotlib (the numbers come "
                          "without it)") from None
    return Figure


def _token_axis(axis, pieces, starts=(0,), size=8):
    """Label an axis with tokens, once from each of the places `starts`; of more than 100 tokens only every so many."""
    step = -(-len(pieces) // 100)
    labels = _labels(pieces[::step])
    axis.set_ticks([start + i * step for start in starts for i in range(len(labels))], labels=labels * len(starts),
                   size=size, parse_math=False)
    axis.set_tick_params(length=2)
    if axis.axis_name == "x":
        axis.set_tick_params(rotation=90)


def _labels(pieces, longest=14):
    """Pieces as matplotlib can show them: what its font lacks becomes <U+C548>, what is too long is cut."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    labels = ["".join(character if font.get_char_index(ord(character)) else f"<U+{ord(character):04X}>"
                      for character in piece) for piece in pieces]
    return [label if len(label) <= longest else label[: longest - 1] + "…" for label in labels]


# --- the command line ---------------------------------------------------------------------------


def show_next_tokens(text: str = None, k=10, temperature=1, out: str = None, model_size: str = None,
                     models_dir: str = "models"):
    """The tokens that most likely follow a text, with their probabilities.

    Args:
        text: the text; without it, what is piped into stdin; if empty, a new text is begun.
        k: how many tokens.
        temperature: the logits are divided by it; 0 gives the likeliest token all the probability.
        out: a file for the picture, .png, .pdf or .svg.
        model_size: 124M (the default), 355M, 774M, 1558M, or any model's folder in models_dir, as shakespeare.
        models_dir: the folder of models; official ones are downloaded into it.
    """
    _check_out(out)
    result = next_tokens(_read(text), load_encoder_hparams_and_params(model_size, models_dir), k, temperature)
    _print_table(["token", "id", "probability", ""], "<>><",
                 [[piece, str(i), f"{p:.2%}", "█" * round(40 * p) or "▏"]
                  for i, piece, p in zip(*result, strict=True)])
    _save(plot_next_tokens, result, out)


def show_score(text: str = None, file: str = None, stride=None, each=None, out: str = None, model_size: str = None,
               models_dir: str = "models"):
    """How likely the model finds a text: the log-probability of each token, the total, bits per byte, perplexity.

    Args:
        text: the text; without it and without a file, what is piped into stdin.
        file: a file of UTF-8 text to score instead.
        stride: a text longer than the context is read in windows that begin so many tokens apart; half the context.
        each: True or False, whether to list each token; by default a text that fits the context is listed.
        out: a file for the picture, .png, .pdf or .svg.
        model_size: as in next_tokens.
        models_dir: as in next_tokens.
    """
    _check_out(out)
    if each is not None and not isinstance(each, bool):
        raise TypeError(f"each must be True or False, not {each!r}")
    if file is None:
        text = _read(text)
    elif text is not None:
        raise ValueError(f"score a text or a file, not both: got {text!r} and --file {file}")
    else:
        try:
            text = Path(file).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: byte 0x{error.object[error.start]:02X} at {error.start}; "
                             "convert it first, for instance with iconv") from None
    model = load_encoder_hparams_and_params(model_size, models_dir)
    result = score(text, model, stride)
    listed = len(result.ids) <= model[1]["n_ctx"] if each is None else each
    if listed:
        _print_table(["token", "id", "log-probability", "probability"], "<>>>",
                     [[piece, str(i), f"{p:.4f}", f"{math.exp(p):.2%}"]
                      for i, piece, p in zip(result.ids, result.pieces, result.log_probs, strict=True)])
        print()
    else:
        notice(f"the text has {len(result.ids):,} tokens, which are not listed; --each True lists them")
    _print_table(None, "<>", [["tokens", f"{len(result.ids):,}"], ["bytes", f"{result.n_bytes:,}"],
                              ["total log-probability", f"{result.total:.3f}"],
                              ["total in bits", f"{-result.total / math.log(2):.3f}"],
                              ["bits per byte", f"{result.bits_per_byte:.4f}"],
                              ["perplexity", f"{result.perplexity:,.3f}"]])
    _save(plot_score, result, out)


def show_attention(text: str = None, layer=0, head=None, k=3, out: str = None, model_size: str = None,
                   models_dir: str = "models"):
    """Where the heads of a layer look: the strongest links of each token.

    Args:
        text: the text; without it, what is piped into stdin.
        layer: which layer, from 0.
        head: which head, from 0; without it all heads, and of each the strongest link only.
        k: with one head, how many links of each token.
        out: a file for the heat map (all heads: a grid of them), .png, .pdf or .svg.
        model_size: as in next_tokens.
        models_dir: as in next_tokens.
    """
    _check_out(out)
    model = load_encoder_hparams_and_params(model_size, models_dir)
    _check_whole("k", k, 1, model[1]["n_ctx"], "the context, n_ctx")
    pieces, pattern, _, heads = result = attention(_read(text), model, layer, head)
    n = len(pieces)
    n_links = 1 if head is None else min(k, n)

    def links(i, row):
        order = np.argsort(-row[: i + 1], kind="stable")[:n_links]
        return [f"{j} {pieces[j]} {row[j]:.0%}" for j in order] + [""] * (n_links - len(order))

    header = [f"head {h}" for h in heads] if head is None else ["looks at", *[""] * (n_links - 1)]
    _print_table(["", "token", *header], "><" + "<" * len(header),
                 [[str(i), pieces[i], *(link for rows in pattern for link in links(i, rows[i]))] for i in range(n)])
    _save(plot_attention, result, out)


def show_logit_lens(text: str = None, k=1, out: str = None, model_size: str = None, models_dir: str = "models"):
    """What each layer would predict at each position, were it the last.

    Args:
        text: the text; without it, what is piped into stdin.
        k: how many predictions for each layer and position.
        out: a file for the picture, .png, .pdf or .svg.
        model_size: as in next_tokens.
        models_dir: as in next_tokens.
    """
    _check_out(out)
    result = logit_lens(_read(text), load_encoder_hparams_and_params(model_size, models_dir), k)
    n_layer, n, _ = result.ids.shape
    _print_table(["", "token", *(f"layer {i}" for i in range(n_layer))], "><" + "<" * n_layer,
                 [[str(i) if j == 0 else "", result.pieces[i] if j == 0 else "",
                   *(f"{result.predictions[m, i, j]} {result.probabilities[m, i, j]:.0%}" for m in range(n_layer))]
                  for i in range(n) for j in range(k)])
    _save(plot_logit_lens, result, out)


def show_tokens(text: str = None, out: str = None, model_size: str = None, models_dir: str = "models"):
    """The pieces into which the tokenizer cuts a text, with their ids.

    Args:
        text: the text; without it, what is piped into stdin.
        out: a file for the picture, .png, .pdf or .svg.
        model_size: as in next_tokens.
        models_dir: as in next_tokens.
    """
    _check_out(out)
    result = tokens(_read(text), load_encoder_hparams_and_params(model_size, models_dir))
    _print_table(["", "token", "id"], "><>",
                 [[str(n), piece, str(i)]
                  for n, (i, piece) in enumerate(zip(result.ids, result.pieces, strict=True))])
    _save(plot_tokens, result, out)


def show_neighbours(text: str = None, k=10, out: str = None, model_size: str = None, models_dir: str = "models"):
    """The tokens whose embeddings are nearest to a token's, or to a sum and difference, as in king - man + woman.

    Args:
        text: the token, or terms with + and - between; a term in quotes is taken as it stands, else with a space
            before it where there is such a token; #464 is the token of that id.
        k: how many tokens.
        out: a file for the picture, .png, .pdf or .svg.
        model_size: as in next_tokens.
        models_dir: as in next_tokens.
    """
    _check_out(out)
    result = neighbours(_read(text), load_encoder_hparams_and_params(model_size, models_dir), k)
    _print_table(["token", "id", "cosine"], "<>>",
                 [[piece, str(i), f"{s:.4f}"]
                  for i, piece, s in zip(result.ids, result.pieces, result.similarities, strict=True)])
    _save(plot_neighbours, result, out)


def show_parameters(out: str = None, model_size: str = None, models_dir: str = "models"):
    """The number of parameters of each part of the model; the token embeddings, tied to the output, count once.

    Args:
        out: a file for the picture, .png, .pdf or .svg.
        model_size: as in next_tokens.
        models_dir: as in next_tokens.
    """
    _check_out(out)
    result = parameters(load_encoder_hparams_and_params(model_size, models_dir))
    _print_table(["part", "shape", "parameters", "share"], "<<>>",
                 [[name, shape, f"{n:,}", f"{n / result.total:.1%}"]
                  for name, shape, n in zip(result.names, result.shapes, result.counts, strict=True)]
                 + [["total", "", f"{result.total:,}", "100.0%"]])
    _save(plot_parameters, result, out)


def _read(text):
    """The command's text, or that from stdin."""
    if text is not None:
        return text
    return "" if sys.stdin is None or sys.stdin.isatty() else read_stdin()


def _print_table(header, align, rows):
    """Print rows of str in columns, to the left ("<") or right (">"); a wide (East Asian) character counts twice."""
    rows = rows if header is None else [header, *rows]

    def size(text):
        return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)

    widths = [max((size(row[i]) for row in rows if i < len(row)), default=0) for i in range(len(align))]
    for row in rows:
        cells = ((" " * (width - size(cell)), cell, side) for cell, width, side in zip(row, widths, align, strict=True))
        print("  ".join(space + cell if side == ">" else cell + space for space, cell, side in cells).rstrip())


def _check_out(out):
    """Refuse a picture that could not be written before anything is computed for it."""
    if out is None:
        return
    if Path(out).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--out {out}: the picture's file must end in .png, .pdf or .svg")
    if not Path(out).resolve().parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {Path(out).resolve().parent} does not exist")
    _figure_class()


def _save(plot, result, out):
    """Write what `plot` draws of the result to the file `out`, if there is one. No display is needed."""
    if out is None:
        return
    figure = _figure_class()(layout="constrained")
    plot(result, figure)
    figure.savefig(out, dpi=100, bbox_inches="tight")
    notice(f"the picture is in {out}")


if __name__ == "__main__":
    run_command_line({"next_tokens": show_next_tokens, "score": show_score, "attention": show_attention,
                      "logit_lens": show_logit_lens, "tokens": show_tokens, "neighbours": show_neighbours,
                      "parameters": show_parameters})
