"""How likely is a text?"""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cli import text_in
from cli.arguments import CommandLineError
from cli.tables import Table
from cli.terminal import argument_errors, notice
from generation.hooks import Hook
from inside.command import check_out, show
from inside.model import check_model, model_name
from inside.pictures import colour_bar, name_all, new_axes, token_axis
from inside.result import table_of, titled, with_title
from inside.texts import is_many
from inside.tokens import pieces_of, quote, tokens
from many_texts.surprisal import Scores, check_options, encode_after, score_texts, units
from utils import Model, load_encoder_hparams_and_params


@titled
class Score(Scores):
    """How likely a text is: ids int [n_seq], pieces, log_probs float64 [n_seq] (natural logarithms of each token's
    probability after those before it, NaN where a token is not scored), their total, n_bytes in UTF-8, bits_per_byte
    and perplexity. Where asked for: words, a list of `many_texts.surprisal.Word` (word, surprisal in bits, n_tokens,
    entropy), else empty; entropies float64 [n_seq] in bits, of what each token was chosen from, else NaN."""


def score(text: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]], model: Model, stride: int | None = None,
          hook: Hook | None = None, *, words: bool = False, correction: str = "whitespace",
          split_punctuation: bool = False, entropy: bool = False, context=None, bos: bool = True):
    """How likely the model finds a text: the log-probability of each token, the total, bits per byte, perplexity.

    <|endoftext|> is put before the text, so that its first token is scored too. A text longer than the context is read
    in windows of n_ctx tokens, each starting `stride` tokens after the one before; a window scores the tokens that are
    new in it and has the others as context. A small stride gives each token more context, and takes longer.

    bits_per_byte is the total in bits over the UTF-8 bytes of the text, which compares models of different
    vocabularies (as in Gao et al., https://arxiv.org/abs/2101.00027); perplexity is exp(-total / n_seq).

    The surprisal of a word is not the sum over its tokens: `many_texts.surprisal` says why, and what is right.

    Args:
        text, model: as in `tokens`; the text must not be empty. A list of texts is scored faster than each by itself:
            short ones share a pass.
        stride: how many tokens lie between the starts of two windows, 1 to n_ctx; half of n_ctx if not given. With
            n_ctx the windows lie side by side, and each starts without context.
        hook: as in `gpt2.gpt2`, called in each window; <|endoftext|> before a text is a position, too.
        words: give the words too, as white space delimits them; the white space before a word belongs to it.
        correction: what begins a word, for its probability: "whitespace"; "space", the space alone, as published;
            "none", for the sum over its tokens.
        split_punctuation: tokens of punctuation are words of their own.
        entropy: give the entropies too.
        context: a text that is read before this one and not scored, with a space between the two where neither has
            white space there; or ids, if the text is ids. With a list of texts, one for all or a list, one for each.
        bos: False leaves out <|endoftext|>; then the first token is not scored.

    Returns:
        Score, or a list of them for a list of texts.

    Raises:
        TypeError, ValueError: an argument is not as described.

    >>> round(score("To be, or not to be", model).bits_per_byte, 1)
    2.1
    >>> [(word.word, round(word.surprisal, 1)) for word in score("O Romeo, Romeo!", model, words=True).words]
    [('O', 7.3), ('Romeo,', 8.0), ('Romeo!', 7.4)]
    """
    encoder, hparams, params = check_model(model)
    if encoder is None:
        raise TypeError("this model has no tokenizer (encoder is None), so it has no <|endoftext|> to score from")
    many = is_many(text)
    texts: list[Any] = list(text) if many else [text]
    one_context = not many or context is None or not is_many(context)
    contexts: list[Any] = [context] * len(texts) if one_context else list(context)
    if len(contexts) != len(texts):
        raise ValueError(f"there must be a context for each of the {len(texts)} texts, not {len(contexts)}")
    ids, n_context = zip(*[_ids_after(*pair, model) for pair in zip(contexts, texts)])
    scores = score_texts(ids, encoder, params, hparams["n_head"], n_context=n_context, stride=stride, bos=bos,
                         words=words, correction=correction, split_punctuation=split_punctuation, entropy=entropy,
                         hook=hook)
    results = [_result(one, model) for one in scores]
    return results if many else results[0]


def _ids_after(context, text, model):
    """(ids, n_context) of a text and its context, each text or ids."""
    if len(text) == 0:
        raise ValueError("there is nothing to score: the text is empty")
    if context is None or len(context) == 0:
        return tokens(text, model).ids, 0
    if isinstance(text, str) and isinstance(context, str):
        return encode_after(context, text, model[0])
    if isinstance(text, str) or isinstance(context, str):
        raise TypeError("the context and the text must both be text, or both be token ids")
    return np.concatenate([tokens(context, model).ids, tokens(text, model).ids]), len(context)


def _result(scores, model):
    encoder = model[0]
    result = Score(*scores._replace(pieces=pieces_of(scores.ids, encoder)))
    return with_title(result, f"{model_name(model)}: {result.bits_per_byte:.3f} bits per byte, perplexity "
                              f"{result.perplexity:,.1f} in {quote(result.ids, encoder)}")


@table_of(Score)
def table_score(result, *, each: bool | None = None, base: str | None = None) -> list[Table]:
    """`Score` as tables: the tokens, the words if there are any, then the totals.

    Args:
        each: True or False, whether to list each token; without it, a text of up to 256 tokens is listed.
        base: "2" or "e", that of all logarithms; without it log-probabilities are natural ones, all else is in bits.
    """
    if each is not None and not isinstance(each, bool):
        raise TypeError(f"each must be True or False, not {each!r}")
    log_unit, bit = units(base)
    n, listed = len(result.ids), []

    def cells(values, form):
        return ["-" if math.isnan(value) else format(value, form) for value in values]  # "-": not scored

    name, unit = ("log2-probability" if base == "2" else "log-probability"), ("nats" if base == "e" else "bits")
    if each is None and n > 256:
        notice(f"the text has {n:,} tokens, which are not listed; --each True lists them")
    elif each is not False:
        columns = {"token": result.pieces, "id": map(str, result.ids),
                   name: cells(result.log_probs / log_unit, ".4f"),
                   "probability": cells(np.exp(result.log_probs), ".2%")}
        if not np.isnan(result.entropies).all():
            columns[f"entropy in {unit}"] = cells(result.entropies * bit, ".4f")
        listed.append(Table("<" + ">" * (len(columns) - 1), list(columns), [*map(list, zip(*columns.values()))]))
    if result.words:
        surprisals = cells([word.surprisal * bit for word in result.words], ".4f")
        rows = [[word.word, cell, str(word.n_tokens)] for word, cell in zip(result.words, surprisals)]
        listed.append(Table("<>>", ["word", f"surprisal in {unit}", "tokens"], rows))
    totals = [["tokens", f"{n:,}"], ["bytes", f"{result.n_bytes:,}"],
              [f"total {name}", f"{result.total / log_unit:,.3f}"],
              ["total in bits", f"{-result.total / math.log(2):,.3f}"],
              ["bits per byte", f"{result.bits_per_byte:.4f}"], ["perplexity", f"{result.perplexity:,.3f}"]]
    return [*listed, Table("<>", None, totals)]


def plot_score(result: Any, ax: Any = None) -> Any:
    """Draw `Score`: the surprisal of each token in bits, or of each word if there are any, high where the model did not
    expect it."""
    what, pieces, bits = "token", result.pieces, -result.log_probs / math.log(2)
    if result.words:
        what, pieces, bits = "word", *zip(*((word.word, word.surprisal) for word in result.words))
    bits = np.nan_to_num(bits, posinf=np.inf)  # no bar for what is not scored
    ax, width, height = new_axes(ax, min(16, max(4, 0.2 * len(bits))), 2.2, margins=(1.4, 1.4))
    from matplotlib import cm, colors

    norm = colors.Normalize(0, max(1, bits.max()))
    ax.bar(range(len(bits)), bits, width=0.9 if len(bits) < 200 else 1, color=cm.viridis_r(norm(bits)))
    token_axis(ax.xaxis, pieces, width)
    ax.set_xlim(-0.6, len(bits) - 0.4)
    name_all(ax, result.title, width, what, "surprisal in bits")
    colour_bar(cm.ScalarMappable(norm, "viridis_r"), ax, "bits", height)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def show_score(text: str | None = None, stride: int | None = None, *, file: str | None = None,
               each: bool | None = None, words: bool = False, correction: str = "whitespace",
               split_punctuation: bool = False, entropy: bool = False, context: str | None = None, bos: bool = True,
               base: str | None = None, out: str | None = None, model_size: str | None = None,
               models_dir: str | None = None) -> None:
    """How likely the model finds a text: the log-probability of each token, the total, bits per byte, perplexity.

    Args:
        text: the text; without one and without a file, stdin is read, or you are asked for it.
        stride: how many tokens lie between the starts of two windows of a text longer than the context; half of the
            context if not given.
        file: a file of UTF-8 text to score instead.
        each: whether to list each token; without it, a text of up to 256 tokens is listed.
        words: list each word, as white space delimits them, with its surprisal; the white space before a word belongs
            to it.
        entropy: show the entropy of what each token was chosen from.
        context: a text that is read before and not scored.
        bos: put <|endoftext|> before the text; with --bos False the first token is not scored.
        base: 2 or e, that of all logarithms; without it log-probabilities are natural ones, all else is in bits.
    """
    check_out(out)
    if text is not None and file is not None:
        raise CommandLineError(f"score a text or a file, not both: got {text!r} and --file {file}")
    with argument_errors():
        check_options(correction, base)
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = text_in.read_text(text) if file is None else text_in.read_file(file)
    show(lambda: score(text, model, stride, words=words, correction=correction, split_punctuation=split_punctuation,
                       entropy=entropy, context=context, bos=bos), plot_score, out, each=each, base=base)
