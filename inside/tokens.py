"""Which tokens is a text cut into?"""
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.checks import check_ids
from inside.command import print_answer
from inside.model import check_model, model_name
from inside.pictures import families, legible, name_all, new_axes
from inside.result import table_of, titled, with_title
from utils import Model

VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥"}


@titled
class Tokens(NamedTuple):
    """A text's tokens: ids int [n_seq], and the piece (str) of each."""

    ids: np.ndarray
    pieces: list[str]


def tokens(text: str | Sequence[int], model: Model) -> Tokens:
    """The tokens of a text: their ids and pieces.

    Args:
        text: str, or a sequence of ids. An empty text becomes the one token <|endoftext|>, from which the model
            starts a new text.
        model: (encoder, hparams, params), as `utils.load_encoder_hparams_and_params` returns it.

    Returns:
        Tokens.

    Raises:
        TypeError, ValueError: an id is not in the vocabulary; the text is empty and the vocabulary has no
            <|endoftext|>.

    >>> tokens("O Romeo", model).pieces
    ['O', '·Rome', 'o']
    """
    encoder, hparams, _ = check_model(model)
    if isinstance(text, str):
        if encoder is None:
            raise TypeError(f"this model has no tokenizer (encoder is None): give token ids, not the text {text!r}")
        ids = check_ids(encoder.encode(text) or encoder.new_text(), hparams["n_vocab"])
    else:
        ids = check_ids(text, hparams["n_vocab"])
    counted = "1 token and its id" if len(ids) == 1 else f"{len(ids)} tokens and their ids"
    return with_title(Tokens(ids, pieces_of(ids, encoder)), f"{model_name(model)}: {counted}")


def pieces_of(ids, encoder) -> list[str]:
    """The piece of each id; #17 where there is no tokenizer, or the id stands for no text."""
    return [encoder is not None and visible(encoder.token_bytes(i)) or f"#{i}" for i in ids]


def visible(data: bytes) -> str:
    """A token's bytes as a piece, a str in which nothing is invisible: b" caf\\xc3" -> "·caf<0xC3>"."""
    piece = ""
    for character in data.decode("utf-8", errors="surrogateescape"):
        if "\udc80" <= character <= "\udcff":  # a byte that is only part of a character
            piece += f"<0x{ord(character) - 0xDC00:02X}>"
        elif character in VISIBLE:
            piece += VISIBLE[character]
        elif unicodedata.category(character)[0] in "CZM":  # control characters, other spaces, accents on nothing
            piece += f"<U+{ord(character):04X}>"
        else:
            piece += character
    return piece


def one_token(token: str | int, model: Model, name: str = "token") -> int:
    """The id of a token that is given as its text or its id.

    Args:
        token: str that is exactly one token, as " king"; or its id, as an int or as text, "#464".
        model: as in `tokens`.
        name: what the error calls it.

    Raises:
        TypeError, ValueError: the text is not exactly one token (the message gives its pieces), or the id is not in
            the vocabulary.
    """
    encoder, hparams, _ = check_model(model)
    if not isinstance(token, str):
        return int(check_ids([token], hparams["n_vocab"])[0])
    if not token:
        raise ValueError(f"{name} is empty: it must be one token, for instance ' king'")
    ids = [] if encoder is None else encoder.encode(token)
    if len(ids) == 1:
        return int(ids[0])
    if re.fullmatch(r"#\d+", token):
        return int(check_ids([int(token[1:])], hparams["n_vocab"])[0])
    if encoder is None:
        raise TypeError(f"this model has no tokenizer (encoder is None): give the id of {name}, not {token!r}")
    with_space = encoder.encode(" " + token)
    hint = f"; ' {token}', with a space before it, is one" if len(with_space) == 1 else ""
    pieces = " ".join(pieces_of(ids, encoder))
    raise ValueError(f"{name} must be one token, but {token!r} is {len(ids)}: {pieces}{hint}")


def quote(ids, encoder) -> str:
    """The text of some ids as a title quotes it: in one line, without its middle if it has more than 24 tokens."""

    def text(ids):
        joined = " ".join(pieces_of(ids, encoder)) if encoder is None else visible(encoder.decode(ids).encode())
        return joined.replace("·", " ").strip()

    shortened = text(ids) if len(ids) <= 24 else f"{text(ids[:12])} … {text(ids[-12:])}"
    return f"“{shortened}”"


@table_of(Tokens)
def table_tokens(result) -> Table:
    """`Tokens` as a table."""
    return Table("><>", ["", "token", "id"],
                 [[str(n), piece, str(i)] for n, (i, piece) in enumerate(zip(result.ids, result.pieces, strict=True))])


def plot_tokens(result: Any, ax: Any = None) -> Any:
    """Draw `Tokens`: each piece in a box as wide as its text, its id below it."""
    labels = legible(result.pieces)
    widths = [max(len(label), len(str(i))) + 1 for label, i in zip(labels, result.ids, strict=True)]
    n_columns = 80 if sum(widths) < 80 * 36 else 160  # characters in a row
    n_rows = _rows(widths, n_columns)[-1][1] + 1
    ax, width, height = new_axes(ax, 0.105 * min(n_columns, max(30, sum(widths))), 0.5 * n_rows, margins=(0.4, 0.8))
    from matplotlib.patches import Rectangle

    for size in (9, 8, 7, 6, 5):  # the largest font with which all tokens fit into the Axes
        n_columns, most = max(8, int(width / (size * 0.0117))), max(1, int(height / (size * 0.048)))
        places = _rows(widths, n_columns)
        if places[-1][1] < most:
            break
    shown = [(place, token) for place, token in zip(places, zip(widths, labels, result.ids, strict=True), strict=True)
             if place[1] < most]
    n_rows = shown[-1][0][1] + 1
    for n, ((x, y), (box, label, i)) in enumerate(shown):
        ax.add_patch(Rectangle((x + 0.1, y + 0.06), box - 0.2, 0.88, facecolor=f"C{n % 10}", alpha=0.3))
        for text, dy, smaller in ((label, 0.36, 0), (str(i), 0.72, 2)):
            ax.text(x + box / 2, y + dy, text, ha="center", va="center", size=size - smaller, in_layout=False,
                    family=families(text, "monospace"), parse_math=False)
    ax.set(xlim=(0, max(n_columns, *widths)), ylim=(n_rows, 0), xticks=[], yticks=[])
    left_out = len(labels) - len(shown)
    name_all(ax, result.title + (f" (the last {left_out} are not shown)" if left_out else ""), width)
    ax.spines[:].set_visible(False)
    return ax


def _rows(widths, n_columns):
    """The place (column, row) of each box of so many characters, in rows of n_columns."""
    places, x, y = [], 0, 0
    for width in widths:
        if x and x + width > n_columns:
            x, y = 0, y + 1
        places.append((x, y))
        x += width
    return places


def show_tokens(text: str | None = None, *, out: str | None = None, model_size: str | None = None,
                models_dir: str | None = None) -> None:
    """The tokens of a text: their ids and pieces."""
    print_answer(tokens, plot_tokens, text, out, model_size, models_dir)
