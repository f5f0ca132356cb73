"""How likely are texts, and the words in them?

GPT-2's tokens carry the space *before* a word. That "car" is the whole word, and not the beginning of "carpet", is
known only from the token after it, so the sum over a word's tokens is not the probability of the word. Right is

    P(word) = P(its tokens) * P(a word begins or the text ends, after it) / P(a word begins or the text ends, before it)

(Pimentel & Meister 2024, https://arxiv.org/abs/2406.14561; Oh & Schuler 2024, https://arxiv.org/abs/2406.10851), where
both sums run over the tokens that begin a word. Over all words these probabilities add up to 1.
"""
import functools
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import regex

from encoder import Encoder
from generation.checks import check_whole
from generation.hooks import Hook
from many_texts.batches import measure, measured

CORRECTIONS = ("whitespace", "space", "none")  # what begins a word; "space" is the published variant, "none" the sum

# What a token is to a word, by its first character. INSIDE are the later bytes of a character that is cut into tokens.
KINDS = SPACE, WHITESPACE, END, PUNCTUATION, LETTER, INSIDE = range(6)

WORDS, SPACE_AROUND = regex.compile(r"\S+"), regex.compile(r"^\s+|\s+$")
CONTRACTION = regex.compile(r"'\p{L}")  # 's is a piece of its own to GPT-2, and part of its word to us


class Word(NamedTuple):
    """A word, its surprisal in bits, the number of its tokens with those of the white space before it, and the entropy
    in bits of what the first of them was chosen from (NaN unless asked for)."""

    word: str
    surprisal: float
    n_tokens: int
    entropy: float


class Scores(NamedTuple):
    """How likely a text is, as `lens.Score` says, which has the pieces."""

    ids: np.ndarray
    pieces: list[str]
    log_probs: np.ndarray
    total: float
    n_bytes: int
    bits_per_byte: float
    perplexity: float
    words: list[Word]
    entropies: np.ndarray


def score_texts(texts: Sequence[Sequence[int] | np.ndarray], encoder: Encoder, params: dict[str, Any], n_head: int, *,
                n_context: Sequence[int] | None = None, stride: int | None = None, bos: bool = True,
                words: bool = False, correction: str = "whitespace", split_punctuation: bool = False,
                entropy: bool = False, hook: Hook | None = None, report: Callable[[int], object] = lambda n: None
                ) -> list[Scores]:
    """Score texts and, where that is asked for, their words.

    Args:
        texts: the ids of each text, after those of its context.
        encoder, params, n_head: the model.
        n_context: how many ids of each text are context, which is read and not scored; by default none.
        stride, hook, report: as in `batches.measured`.
        bos: put <|endoftext|> before each text; without it the first token is not scored, since nothing predicts it.
        words: give the words, as white space delimits them. The white space before a word belongs to it.
        correction: what begins a word: "whitespace", any white space; "space", the space alone, as published, and the
            first word is then one of those that begin a text without a space; "none", the sum over the tokens.
        split_punctuation: tokens of punctuation are words of their own.
        entropy: give the entropies.

    Raises:
        TypeError, ValueError: a text has nothing to score, there is no such correction, or the stride is not from 1 to
            n_ctx.
    """
    check_options(correction)
    if stride is not None:
        check_whole("stride", stride, 1, len(params["wpe"]), "the context, n_ctx")
    n_context = n_context or [0] * len(texts)
    for ids, n in zip(texts, n_context):
        check_scored(len(ids) - n, n, bos)
    before = encoder.new_text() if bos else []
    after = [0] if words else []  # any id: what counts is the logits that predict what follows the text
    kinds = token_kinds(encoder) if words else None
    one_hot = None if kinds is None or correction == "none" else np.eye(len(KINDS), dtype=np.float32)[kinds[0]]
    results = measured([[*before, *ids, *after] for ids in texts], params, n_head,
                       functools.partial(measure, kinds=one_hot, entropy=entropy),
                       n_read=[max(1, len(before) + n) for n in n_context], stride=stride, hook=hook, report=report)
    scores = []
    for all_ids, n, rows in zip(texts, n_context, results):
        first = int(n == 0 and not bos)
        if first:  # nothing predicts the first token
            rows = np.concatenate([np.full((1, rows.shape[1]), np.nan), rows])
        ids = np.asarray(all_ids[n:])
        pieces, log_p = [encoder.token_bytes(i) for i in ids], rows[: len(ids), 0]
        total, n_bytes = float(log_p[first:].sum()), sum(map(len, pieces[first:]))
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(-total / (len(ids) - first)))
        found = [] if kinds is None else score_words(ids, pieces, kinds, rows, correction, split_punctuation,
                                                     all_ids[n - 1] if n else None)
        bits_per_byte = -total / math.log(2) / (n_bytes or math.nan)  # ids without text have no bytes
        scores.append(Scores(ids, [], log_p, total, n_bytes, bits_per_byte, perplexity, found, rows[: len(ids), 1]))
    return scores


def check_options(correction: str = "none", base: str | None = None, per: str = "text") -> None:
    """ValueError unless each option has one of its values."""
    for name, value, values in (("correction", correction, CORRECTIONS), ("base", base, ("2", "e")),
                                ("per", per, ("text", "word"))):
        if value is not None and value not in values:
            raise ValueError(f"{name} must be {' or '.join(values)}, not {value!r}")


def units(base: str | None) -> tuple[float, float]:
    """(log_unit, bit) for all logarithms in a base: natural ones are divided by log_unit, bits multiplied by bit.

    Without a base both stay as they are: log-probabilities natural logarithms, surprisals and entropies in bits.
    """
    check_options(base=base)
    return {None: (1, 1), "2": (math.log(2), 1), "e": (1, math.log(2))}[base]


def check_scored(n_seq: int, n_context: int, bos: bool) -> None:
    """ValueError unless a text of n_seq tokens has one that is scored."""
    if n_seq == 0:
        raise ValueError("there is nothing to score: the text is empty")
    if n_seq == 1 and n_context == 0 and not bos:
        raise ValueError("there is nothing to score: the text is one token, and without <|endoftext|> before it "
                         "(bos) nothing predicts the first")


def encode_after(context: str, text: str, encoder: Encoder) -> tuple[list[int], int]:
    """(ids, n_context) of a text after a context, with a space between them where neither has white space there.

    The white space at the end of the context is part of the context, unless it is in a token with the text.
    """
    if context and text and not regex.search(r"\s$", context) and not regex.match(r"\s", text):
        context += " "
    ids, whole = encoder.encode(context + text), (context + text).encode()
    n_bytes, n_context, at = len(context.encode()), 0, 0
    for piece in map(encoder.token_bytes, ids):
        at = whole.index(piece, at) + len(piece)  # further on where an added token has taken white space away
        if at > n_bytes:
            break
        n_context += 1
    return ids, n_context


# --- words --------------------------------------------------------------------------------------


def score_words(ids: np.ndarray, pieces: list[bytes], kinds: np.ndarray, rows: np.ndarray, correction: str,
                split_punctuation: bool, previous: int | None = None) -> list[Word]:
    """The words of a text.

    Args:
        ids, pieces: [n_seq], the tokens.
        kinds: `token_kinds`.
        rows: [n_seq + 1, ...], what `measure` says of each token and of what follows the last one.
        correction, split_punctuation: as in `score_texts`.
        previous: the token before them, or None at the start of a text.
    """
    begins, inner = kinds
    log_p, entropies, probs = rows[:, 0], rows[:, 1], rows[:, 2:]
    begin_a_word = [SPACE, END] if correction == "space" else [SPACE, WHITESPACE, END]
    punctuation = {PUNCTUATION: [LETTER], LETTER: [PUNCTUATION]} if split_punctuation else {}

    def log_boundary(i, kind):
        """log P(a word begins or the text ends) at token i, which is after a character of a kind."""
        wanted = begin_a_word + punctuation.get(kind, [])
        if correction == "none" or (i < len(ids) and begins[ids[i]] not in {*wanted, WHITESPACE}):
            return 0.0  # white space that the vocabulary cuts into bytes: no sum over tokens says how likely it is
        return log(probs[i, wanted].sum())

    if previous is not None:
        boundary = 0.0 if inner[previous] == WHITESPACE else log_boundary(0, inner[previous])
    elif correction == "space":
        boundary = log(probs[0, [SPACE, END] if begins[ids[0]] == SPACE else [*{*KINDS} - {SPACE}]].sum())
    else:
        boundary = 0.0  # whatever a text begins with begins its first word
    words = []
    for first, last, kind in word_spans(ids, pieces, inner, split_punctuation):
        end = log_boundary(last, kind)
        surprisal = -(log_p[first:last].sum() + end - boundary) / math.log(2)
        words.append(Word(stripped(pieces[first:last]), float(surprisal), last - first, float(entropies[first])))
        boundary = end
    return words


def log(probability: Any) -> float:
    """NaN where a probability is too small for a float: what cannot be said is not made up."""
    return math.log(probability) if probability > 0 else math.nan


def word_spans(ids: np.ndarray, pieces: list[bytes], inner: np.ndarray, split_punctuation: bool
               ) -> Iterator[tuple[int, int, int]]:
    """(first, last, kind) of each word: it has the tokens from first to before last, and ends in a kind of character.

    White space at the end of the text belongs to no word.
    """
    text = b"".join(pieces).decode("utf-8", errors="surrogateescape")
    ends = list(accumulate(map(len, pieces)))
    at = n_bytes = last = 0
    for match in WORDS.finditer(text):
        n_bytes += len(text[at : match.end()].encode("utf-8", errors="surrogateescape"))
        at, end = match.end(), bisect_right(ends, n_bytes)
        if not stripped(pieces[last:end]):
            continue  # within an added token, which goes on into the next word
        first, last = last, end
        kind = LETTER
        for i in range(first, last) if split_punctuation else []:
            here = inner[ids[i]]
            if here in (WHITESPACE, INSIDE):
                continue
            if here != kind and stripped(pieces[first:i]):
                yield first, i, kind
                first = i
            kind = here
        yield first, last, kind


def stripped(pieces: list[bytes]) -> str:
    """The text of some tokens without white space around it."""
    return SPACE_AROUND.sub("", b"".join(pieces).decode("utf-8", errors="replace"))


@functools.lru_cache(maxsize=2)
def token_kinds(encoder: Encoder) -> np.ndarray:
    """int8 [2, n_vocab]: the kind of each token's first character, and of the first that is not white space."""
    kinds = np.empty((2, encoder.n_vocab), dtype=np.int8)
    for i in range(encoder.n_vocab):
        text = encoder.token_bytes(i).decode("utf-8", errors="surrogateescape")
        word = WORDS.search(text)
        kinds[:, i] = kind_of(text), kind_of(word[0]) if word else WHITESPACE if text else INSIDE
    if encoder.eot_token is not None:
        kinds[:, encoder.eot_token] = END
    return kinds


def kind_of(text: str) -> int:
    """The kind of a text's first character; INSIDE if there is none."""
    first = text[:1]
    if first == " ":
        return SPACE
    if not WORDS.match(first):
        return WHITESPACE if first else INSIDE
    if "\udc80" <= first < "\udcc0":
        return INSIDE
    return PUNCTUATION if unicodedata.category(first)[0] in "PS" and not CONTRACTION.match(text) else LETTER
