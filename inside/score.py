"""How likely is a text?"""
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cli import text_in
from cli.arguments import CommandLineError
from cli.tables import Table, print_tables
from cli.terminal import argument_errors, notice
from generation.checks import check_whole
from gpt2 import gpt2
from inside.command import check_out, save_picture
from inside.model import check_model, model_name
from inside.pictures import colour_bar, name_all, new_axes, token_axis
from inside.result import titled, with_title
from inside.tokens import quote, tokens
from many_texts.batches import log_prob_of, log_probs, windows
from utils import load_encoder_hparams_and_params


@titled
class Score(NamedTuple):
    """How likely a text is: ids int [n_seq], pieces, log_probs float64 [n_seq] (natural logarithms of each token's
    probability after those before it), their total, n_bytes in UTF-8, bits_per_byte and perplexity."""

    ids: np.ndarray
    pieces: list[str]
    log_probs: np.ndarray
    total: float
    n_bytes: int
    bits_per_byte: float
    perplexity: float


def score(text: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]], model, stride: int | None = None,
          hook=None):
    """How likely the model finds a text: the log-probability of each token, the total, bits per byte, perplexity.

    <|endoftext|> is put before the text, so that its first token is scored too. A text longer than the context is read
    in windows of n_ctx tokens, each starting `stride` tokens after the one before; a window scores the tokens that are
    new in it and has the others as context. A small stride gives each token more context, and takes longer.

    bits_per_byte is the total in bits over the UTF-8 bytes of the text, which compares models of different
    vocabularies (as in Gao et al., https://arxiv.org/abs/2101.00027); perplexity is exp(-total / n_seq).

    Args:
        text, model: as in `tokens`; the text must not be empty. A list of texts is scored faster than each by itself:
            short ones share a pass.
        stride: how many tokens lie between the starts of two windows, 1 to n_ctx; half of n_ctx if not given. With
            n_ctx the windows lie side by side, and each starts without context.
        hook: as in `gpt2.gpt2`, called in each window.

    Returns:
        Score, or a list of them for a list of texts.

    Raises:
        TypeError, ValueError: an argument is not as described.

    >>> round(score("To be, or not to be", model).bits_per_byte, 1)
    2.1
    """
    encoder, hparams, params = check_model(model)
    if stride is not None:
        check_whole("stride", stride, 1, hparams["n_ctx"], "the context, n_ctx")
    if encoder is None:
        raise TypeError("this model has no tokenizer (encoder is None), so it has no <|endoftext|> to score from")
    many = not isinstance(text, str) and len(text) > 0 and not isinstance(text[0], numbers.Integral)
    texts: list[Any] = list(text) if many else [text]
    if any(len(one) == 0 for one in texts):
        raise ValueError("there is nothing to score: the text is empty")
    found = [tokens(one, model) for one in texts]
    ids = [one.ids for one in found]
    if many and hook is None:
        each = log_probs(ids, params, hparams["n_head"], encoder.new_text()[0], stride)
    else:
        each = [_log_probs(one, model, stride, hook) for one in ids]
    results = [_result(one, log_p, model) for one, log_p in zip(found, each)]
    return results if many else results[0]


def _log_probs(ids, model, stride, hook):
    """As `log_probs`, of one text, which a hook may look at and change."""
    encoder, hparams, params = model
    inputs = np.concatenate([encoder.new_text(), ids[:-1]])  # each token is predicted from the one before it
    result = np.empty(len(ids))
    for start, done, end in windows(len(ids), hparams["n_ctx"], stride):
        logits = gpt2(inputs[start:end], **params, n_head=hparams["n_head"], n_logits=end - done, hook=hook)
        result[done:end] = log_prob_of(ids[done:end], logits)
    return result


def _result(found, log_p, model):
    encoder, total = model[0], float(log_p.sum())
    n_bytes = sum(len(encoder.token_bytes(i)) for i in found.ids)
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(-total / len(found.ids)))
    result = Score(found.ids, found.pieces, log_p, total, n_bytes, -total / math.log(2) / n_bytes, perplexity)
    return with_title(result, f"{model_name(model)}: {result.bits_per_byte:.3f} bits per byte, perplexity "
                              f"{perplexity:,.1f} in {quote(found.ids, encoder)}")


def table_score(result, *, each: bool | None = None) -> list[Table]:
    """`Score` as tables: the tokens, then the totals.

    Args:
        each: True or False, whether to list each token; without it, a text of up to 256 tokens is listed.
    """
    if each is not None and not isinstance(each, bool):
        raise TypeError(f"each must be True or False, not {each!r}")
    n, listed = len(result.ids), []
    if each is None and n > 256:
        notice(f"the text has {n:,} tokens, which are not listed; --each True lists them")
    elif each is not False:
        listed = [Table("<>>>", ["token", "id", "log-probability", "probability"],
                        [[piece, str(i), f"{p:.4f}", f"{math.exp(p):.2%}"]
                         for i, piece, p in zip(result.ids, result.pieces, result.log_probs, strict=True)])]
    return [*listed, Table("<>", None, [["tokens", f"{len(result.ids):,}"], ["bytes", f"{result.n_bytes:,}"],
                                        ["total log-probability", f"{result.total:.3f}"],
                                        ["total in bits", f"{-result.total / math.log(2):.3f}"],
                                        ["bits per byte", f"{result.bits_per_byte:.4f}"],
                                        ["perplexity", f"{result.perplexity:,.3f}"]])]


def plot_score(result, ax=None):
    """Draw `Score`: the surprisal of each token in bits, high where the model did not expect it."""
    bits = -result.log_probs / math.log(2)
    ax, width, height = new_axes(ax, min(16, max(4, 0.2 * len(bits))), 2.2, margins=(1.4, 1.4))
    from matplotlib import cm, colors

    norm = colors.Normalize(0, max(1, bits.max()))
    ax.bar(range(len(bits)), bits, width=0.9 if len(bits) < 200 else 1, color=cm.viridis_r(norm(bits)))
    token_axis(ax.xaxis, result.pieces, width)
    ax.set_xlim(-0.6, len(bits) - 0.4)
    name_all(ax, result.title, width, "token", "surprisal in bits")
    colour_bar(cm.ScalarMappable(norm, "viridis_r"), ax, "bits", height)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def show_score(text: str | None = None, stride: int | None = None, *, file: str | None = None,
               each: bool | None = None, out: str | None = None, model_size: str | None = None,
               models_dir: str | None = None) -> None:
    """How likely the model finds a text: the log-probability of each token, the total, bits per byte, perplexity.

    Args:
        text: the text; without it and without a file, what is piped into stdin.
        stride: how many tokens lie between the starts of two windows of a text longer than the context; half of the
            context if not given.
        file: a file of UTF-8 text to score instead.
        each: whether to list each token; without it, a text of up to 256 tokens is listed.
    """
    check_out(out)
    if text is not None and file is not None:
        raise CommandLineError(f"score a text or a file, not both: got {text!r} and --file {file}")
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = text_in.read_text(text) if file is None else text_in.read_file(file)
    with argument_errors():
        result = score(text, model, stride)
    print_tables(table_score(result, each=each))
    save_picture(plot_score, result, out)
