"""Which tokens have similar embeddings?"""
import re
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.checks import check_ids, check_whole
from inside.command import print_answer
from inside.model import check_model, model_name
from inside.pictures import bars
from inside.result import table_of, titled, with_title
from inside.tokens import pieces_of, tokens
from utils import Model


@titled
class Neighbours(NamedTuple):
    """The k nearest tokens, the nearest first: ids int [k], pieces, similarities float32 [k] (cosines); and
    `expression`, what was looked for, as pieces."""

    ids: np.ndarray
    pieces: list[str]
    similarities: np.ndarray
    expression: str


def neighbours(expression: str, model: Model, k: int = 10) -> Neighbours:
    """The tokens whose embeddings are nearest to a token's, or to a sum and difference, as in king - he + she.

    `king - man + woman` adds and subtracts embeddings of length 1, and the terms themselves are left out of the
    answer (Mikolov et al., "Linguistic Regularities in Continuous Space Word Representations", 2013). Most words are
    in the vocabulary with the space before them, so a term means that token, ·king, or the one without the space,
    king, where there is no such token. A term in quotes is taken as it stands: ' king' or 'king' or '-'.

    Args:
        expression: the token, or terms with + or - and spaces between them; #464 is the token of that id.
        model: as in `tokens`.
        k: how many tokens.

    Returns:
        Neighbours.

    Raises:
        TypeError, ValueError: k is not such a number; the expression cannot be read; a term is not one token (the
            message gives its pieces); the terms cancel each other out.

    >>> neighbours("king - he + she", model, k=3).pieces
    ['·queen', '·her', '·prince']
    """
    encoder, hparams, params = check_model(model)
    if encoder is None:
        raise TypeError("this model has no tokenizer (encoder is None), which finds the tokens of an expression")
    if not isinstance(expression, str):
        raise TypeError(f"the expression must be a str such as 'king - man + woman', not {expression!r}")
    signs, ids = _terms(expression, model)
    check_whole("k", k, 1, hparams["n_vocab"] - len(set(ids)), "the vocabulary without the terms")
    wte = params["wte"]
    lengths = np.maximum(np.sqrt(np.einsum("ij,ij->i", wte, wte)), 1e-12)  # an unused token may have length 0
    direction = np.float32(signs) @ (wte[ids] / lengths[ids, None])  # [n_term] @ [n_term, n_embd] -> [n_embd]
    length = np.linalg.norm(direction)
    if length < 1e-6:
        raise ValueError(f"the terms of {expression!r} cancel each other out: nothing is near to nothing")
    similarities = wte @ (direction / length) / lengths  # [n_vocab]
    similarities[ids] = -np.inf
    order = np.argsort(-similarities, kind="stable")[:k]
    first, *pieces = pieces_of(ids, encoder)
    terms = "".join(f" {'+' if sign > 0 else '-'} {piece}" for sign, piece in zip(signs[1:], pieces, strict=True))
    terms = ("- " if signs[0] < 0 else "") + first + terms
    return with_title(Neighbours(order, pieces_of(order, encoder), similarities[order], terms),
                      f"{model_name(model)}: nearest to {terms}")


def _terms(expression, model):
    """An expression's signs (1 or -1) and token ids, two lists."""
    signs, ids, sign = [], [], 1
    words = re.findall(r""""[^"]+"(?!\S)|'[^']+'(?!\S)|\S+""", expression)
    if len(words) > 1 and words[0] in ("+", "-"):  # - king + queen
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
    spaces = "" if quoted or not re.search("[+-]", word) else "; a + or - between two terms needs spaces around it"
    raise ValueError(f"{word} is not one token of this vocabulary: its pieces are {pieces}; only single tokens have an "
                     f"embedding{spaces}")


@table_of(Neighbours)
def table_neighbours(result) -> Table:
    """`Neighbours` as a table."""
    return Table("<>>", ["token", "id", "cosine"],
                 [[piece, str(i), f"{s:.4f}"]
                  for i, piece, s in zip(result.ids, result.pieces, result.similarities, strict=True)])


def plot_neighbours(result: Any, ax: Any = None) -> Any:
    """Draw `Neighbours` as bars, the nearest on top."""
    return bars(ax, result.pieces, result.similarities, [f"{s:.3f}" for s in result.similarities],
                "cosine similarity", "token", result.title)


def show_neighbours(terms: str | None = None, k: int = 10, *, out: str | None = None, model_size: str | None = None,
                    models_dir: str | None = None) -> None:
    """The tokens whose embeddings are nearest to a token's, or to a sum and difference, as in king - he + she.

    Args:
        terms: a token, or several with + or - and spaces between them, as "king - he + she"; without any, stdin is
            read, or you are asked. A term in quotes is taken as it stands, otherwise with a space before it where there
            is such a token; #464 is the token of that id.
        k: how many tokens.
    """
    print_answer(neighbours, plot_neighbours, terms, out, model_size, models_dir, k)
