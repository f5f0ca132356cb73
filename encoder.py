"""GPT-2's byte-level byte-pair encoding: text to token ids and back.

It gives the same ids as `encoder.py` in https://github.com/openai/gpt-2 for every string. A text is split into pieces
(words with their leading space, numbers, punctuation, runs of white space). Each piece becomes its UTF-8 bytes, one
token per byte. Then merge the earliest-learned pair of neighbours until no learned pair is left (Sennrich et al.,
https://arxiv.org/abs/1508.07909). Since it starts from bytes, no text is out of vocabulary.
"""
import codecs
import functools
import heapq
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import regex

END_OF_TEXT = "<|endoftext|>"
LONG_PIECE = 32  # bytes: above that, a heap and links find the next merge sooner than a look at all pairs
NO_MERGE = sys.maxsize  # the rank of two tokens that do not merge
GONE = -1  # stands for a token that was merged into the one before it

# How GPT-2 splits a text into pieces; merges stay within a piece. It is a little irregular ('s is a piece of its own,
# 'S is not), and the models were trained that way. These are the alternatives of OpenAI's encoder.py with the frequent
# ones first. That is faster and changes nothing: no two of those that changed places can match at the same character.
PIECE = regex.compile(r" ?\p{L}+| ?\p{N}+|'(?:[stmd]|re|ve|ll)| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
# For speed, a text is first cut at white space alone, by the same rules: every cut is one that PIECE makes, too.
# Python's own `re` does that in a quarter of the time, and what lies between is looked up. (It counts \x1c to \x1f as
# white space, which `regex` and GPT-2 do not.)
CHUNK = re.compile(r" ?[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+(?![\S\x1c-\x1f])|[^\S\x1c-\x1f]")
WORD, SPACE, SPACE_BEFORE = regex.compile(r"\w"), regex.compile(r"\s*"), regex.compile(r"(?r)\s*")  # (?r): backwards


def bytes_to_unicode() -> dict[int, str]:
    """The character that stands for each byte in the vocabulary files, as a dict {byte: character}.

    Printable bytes stand for themselves. The others (space, control characters, ...) would be invisible in a text
    file and get the characters from U+0100 on, in order.

    >>> bytes_to_unicode()[ord("a")], bytes_to_unicode()[ord(" ")], bytes_to_unicode()[ord("\\n")]
    ('a', 'Ġ', 'Ċ')
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def merge_pairs(ids: list[int], ranks: dict[int, int], merged: list[int]) -> list[int]:
    """Merge neighbouring tokens until no pair is in `ranks`: the loop of byte-pair encoding.

    Each round takes the pair of lowest rank (learned first) and merges all its occurrences from left to right. A pair
    is one number, left << 32 | right: it takes half of a tuple's memory.

    Args:
        ids: the tokens of one piece, at first one per byte.
        ranks: dict {left id << 32 | right id: rank}.
        merged: the id that the pair of each rank becomes.

    Returns:
        The merged tokens.

    >>> merge_pairs([1, 2, 3, 1, 2], {1 << 32 | 2: 0, 4 << 32 | 3: 1}, [4, 5])
    [5, 4]
    """
    if len(ids) > LONG_PIECE:
        return _merge_pairs_of_long_piece(ids, ranks, merged)
    ids = list(ids)
    # the rank of each token with the next one
    found = [ranks.get(left << 32 | right, NO_MERGE) for left, right in zip(ids, ids[1:])]
    while found and (rank := min(found)) < NO_MERGE:
        while rank in found:
            i = found.index(rank)
            ids[i : i + 2] = [merged[rank]]
            del found[i]
            if i > 0:
                found[i - 1] = ranks.get(ids[i - 1] << 32 | ids[i], NO_MERGE)
            if i < len(found):
                found[i] = ranks.get(ids[i] << 32 | ids[i + 1], NO_MERGE)
    return ids


def _merge_pairs_of_long_piece(ids, ranks, merged):
    """`merge_pairs` in time that grows little faster than the piece: 200,000 letters take 0.2 s, not hours.

    With a heap of ranks and links between neighbours, a round costs only what it changes, not a walk over the piece.
    """
    ids, n = list(ids), len(ids)
    following = list(range(1, n + 1))  # index of the token after this one; n is the end
    previous = list(range(-1, n - 1))  # index of the token before this one
    places: dict[int, list[int]] = {}  # rank -> where a pair of that rank begins, or began before other merges
    for i, (left, right) in enumerate(zip(ids, ids[1:])):
        if (pair := left << 32 | right) in ranks:
            places.setdefault(ranks[pair], []).append(i)
    waiting = list(places)
    heapq.heapify(waiting)
    while waiting:
        rank = heapq.heappop(waiting)
        for i in sorted(places.pop(rank)):
            j = following[i]
            if j == n or ranks.get(ids[i] << 32 | ids[j]) != rank:
                continue  # one of the two is part of another token by now
            ids[i], ids[j] = merged[rank], GONE
            following[i] = following[j]
            if following[i] < n:
                previous[following[i]] = i
            for left, right in ((previous[i], i), (i, following[i])):  # the new token's pairs with its neighbours
                if left >= 0 and right < n and (pair := ids[left] << 32 | ids[right]) in ranks:
                    new_rank = ranks[pair]
                    if new_rank not in places:
                        places[new_rank] = []
                        heapq.heappush(waiting, new_rank)
                    places[new_rank].append(left)
    return [token for token in ids if token != GONE]


class _Ids(dict[str, list[int]]):
    """{chunk or piece of text: its ids}, computed when it is first met: after that it costs one lookup."""

    MAX_ENTRIES, MAX_LENGTH = 2**18, 100  # bounds the memory of a service that reads texts for months

    def __init__(self, byte_ids: list[int], ranks: dict[int, int], merged: list[int]) -> None:
        super().__init__()
        self.byte_ids, self.ranks, self.merged = byte_ids, ranks, merged

    def __missing__(self, text: str) -> list[int]:
        pieces = PIECE.findall(text)
        if pieces == [text]:
            ids = merge_pairs([self.byte_ids[byte] for byte in text.encode("utf-8")], self.ranks, self.merged)
        else:
            ids = list(chain.from_iterable(map(self.__getitem__, pieces)))
        if len(text) <= self.MAX_LENGTH:
            if len(self) >= self.MAX_ENTRIES:
                self.clear()
            self[text] = ids
        return ids


class AddedToken(NamedTuple):
    """A token that no merge makes: `[PAD]`, `<|startoftext|>`, ... The fields are those of Hugging Face's files."""

    id: int
    lstrip: bool = False  # white space before it belongs to it, and is lost
    rstrip: bool = False  # the same for white space after it
    single_word: bool = False  # not found with a letter, a digit or _ directly before or after it
    normalized: bool = False  # looked for last, in the text that the others have left


class Encoder:
    """GPT-2's tokenizer.

    Attributes:
        name: str, the name of the model whose vocabulary it is, or None.
        n_vocab: int, the number of the model's token ids, which are 0 to n_vocab - 1. That may be more than there are
            tokens (padded to a round number for speed): the surplus ids stand for no text.
        eot_token: int, the id that ends a text, `<|endoftext|>` unless the model has another; None if there is none.
        added_tokens: dict {text: `AddedToken`}, those of a model from Hugging Face; `encode` finds them in a text. In
            OpenAI's layout there are none: `<|endoftext|>` is 13 ordinary characters there, and `encode` never
            returns eot_token.

    >>> encoder = get_encoder("shakespeare", "models")
    >>> encoder.encode("O Romeo, Romeo!")
    [46, 749, 78, 11, 749, 78, 0]
    >>> [encoder.decode([i]) for i in encoder.encode("O Romeo, Romeo!")]
    ['O', ' Rome', 'o', ',', ' Rome', 'o', '!']
    """

    def __init__(self, vocabulary: dict[str, int], merges: Iterable[tuple[str, str]], name: str | None = None, *,
                 added_tokens: dict[str, AddedToken] | None = None, n_vocab: int | None = None,
                 eot_token: int | None = None, bos_token: int | None = None) -> None:
        """
        Args:
            vocabulary: dict {token: id}, tokens written with the characters of `bytes_to_unicode`.
            merges: (left token, right token) pairs in the order in which training learned them.
            name: what to call it.
            added_tokens: dict {text: `AddedToken`}; they may be in the vocabulary, too.
            n_vocab: how many ids the model has, by default as many as there are tokens.
            eot_token, bos_token: the ids that end and begin a text, by default that of `<|endoftext|>`.

        Raises:
            ValueError: the ids are not 0 to n - 1, a byte has no token, a merge needs a token that is not in the
                vocabulary, or a token comes from no merge (added tokens and special ones, <...>, need none).
        """
        if not isinstance(vocabulary, dict):
            raise ValueError(f"the vocabulary must map tokens to ids, not be a {type(vocabulary).__name__}")
        self.added_tokens = added_tokens or {}
        vocabulary = vocabulary | {text: token.id for text, token in self.added_tokens.items()}
        if not all(type(i) is int for i in vocabulary.values()):
            token, i = next((token, i) for token, i in vocabulary.items() if type(i) is not int)
            raise ValueError(f"the id of token {token!a} is {i!a}, not a whole number")
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        for i, token in enumerate(tokens):
            if vocabulary[token] != i:
                raise ValueError(f"ids must be 0 to {len(tokens) - 1}, each once, but token {token!a} has "
                                 f"{vocabulary[token]} where {i} is expected")
        characters = bytes_to_unicode()
        for byte, character in characters.items():
            if character not in vocabulary:
                raise ValueError(f"byte {byte} has no token (it would be {character!a})")
        strange = set("".join(token for token in tokens if token not in self.added_tokens)) - set(characters.values())
        if strange:
            raise ValueError(f"a token contains {min(strange)!a}, which stands for no byte")
        ranks, merged = {}, []
        try:
            for rank, (left, right) in enumerate(merges):
                ranks[vocabulary[left] << 32 | vocabulary[right]] = rank
                merged.append(vocabulary[left + right])
        except KeyError as error:
            raise ValueError(f"merges need the token {error.args[0]!a}, which is not in the vocabulary") from None
        byte_ids = [vocabulary[characters[byte]] for byte in range(256)]
        unmade = {*range(len(tokens))}.difference(byte_ids, merged)
        never = [token for token in map(tokens.__getitem__, sorted(unmade))
                 if token not in self.added_tokens and not (token.startswith("<") and token.endswith(">"))]
        if never:
            more = f" or {len(never) - 1} others" if never[1:] else ""
            raise ValueError(f"no merge makes the token {never[0]!a}{more}: {len(merged)} merges do not fit "
                             f"{len(tokens)} tokens; download both files again")
        for text, added in self.added_tokens.items():
            if added.id in unmade:  # "é", for one, is the token of the byte 0xE9, and stays that
                tokens[added.id] = "".join(characters[byte] for byte in text.encode("utf-8"))
        self.n_vocab = len(tokens) if n_vocab is None else n_vocab
        self.name = name
        self.eot_token = vocabulary.get(END_OF_TEXT) if eot_token is None else eot_token
        self._bos_token = self.eot_token if bos_token is None else bos_token
        self._tokens = tokens + [""] * (self.n_vocab - len(tokens))
        self._to_byte = {ord(character): byte for byte, character in characters.items()}
        self._ids = _Ids(byte_ids, ranks, merged)

    def encode(self, text: str, *, added_tokens: bool = True) -> list[int]:
        """Text to token ids.

        Args:
            text: str.
            added_tokens: find the added tokens in the text, as transformers does; False takes them as ordinary text.

        Raises:
            TypeError: `text` is not a str.
            ValueError: `text` has a lone surrogate (half a character, which UTF-8 cannot represent).
        """
        if not isinstance(text, str):
            raise TypeError(f"the text to encode must be a str, not {type(text).__name__}")
        parts: Iterable[str | int] = self._find_added_tokens(text) if added_tokens and self.added_tokens else [text]
        try:
            return list(chain.from_iterable(
                [part] if isinstance(part, int) else
                chain.from_iterable(map(self._ids.__getitem__, CHUNK.findall(part))) for part in parts))
        except UnicodeEncodeError:
            at, character = next((i, c) for i, c in enumerate(text) if "\ud800" <= c <= "\udfff")
            raise ValueError(f"the text has a lone surrogate, U+{ord(character):04X}, at character {at}: it is half "
                             "of a character, which UTF-8 cannot represent; remove it") from None

    def _find_added_tokens(self, text: str) -> list[str | int]:
        """The text in parts: ids of added tokens, and the text between them. Longer tokens come first."""
        parts: list[str | int] = [text]
        for normalized in (False, True):
            tokens = {text: token for text, token in self.added_tokens.items() if token.normalized == normalized}
            if tokens:
                parts = [piece for part in parts for piece in
                         ([part] if isinstance(part, int) else split_at(part, tokens))]
        return parts

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids to text. Bytes that are not UTF-8 (a character cut in two) become U+FFFD.

        Args:
            ids: integers, NumPy's too.

        Raises:
            TypeError: an id is not an integer.
            ValueError: an id is not in the vocabulary.
        """
        return self._bytes(ids).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Token ids to text, piece by piece as the ids arrive: for printing while a model generates.

        A character of several bytes may be spread over several tokens; it is yielded when its last byte has arrived.
        The pieces, which are never empty, join to what `decode` returns; the errors are the same.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for i in ids:
            piece = decoder.decode(self._bytes([i]))
            if piece:
                yield piece
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def token_bytes(self, i: int) -> bytes:
        """The bytes that token id `i` stands for, not always whole characters. Raises the same errors as `decode`."""
        return self._bytes([i])

    def new_text(self) -> list[int]:
        """The ids that a new text begins with: [eot_token], or the model's own; ValueError if there is none."""
        if self._bos_token is None:
            raise ValueError("the text is empty, and this vocabulary has no <|endoftext|> to begin a new one with")
        return [self._bos_token]

    @functools.cached_property
    def max_token_bytes(self) -> int:
        """The length of the longest token in bytes: n tokens are at most n times as much text."""
        return max(map(len, self._tokens))  # in the vocabulary files each byte is a character

    def _bytes(self, ids: Iterable[int]) -> bytes:
        tokens = []
        for i in ids:
            if isinstance(i, bool) or not hasattr(i, "__index__"):
                raise TypeError(f"a token id must be a whole number, not {i!r}")
            if not 0 <= i < len(self._tokens):
                raise ValueError(f"token id {i} is not in the vocabulary: ids are 0 to {len(self._tokens) - 1}")
            tokens.append(self._tokens[i])
        return "".join(tokens).translate(self._to_byte).encode("latin-1")


def split_at(text: str, tokens: dict[str, AddedToken]) -> Iterator[str | int]:
    """Split a text at these added tokens: yields their ids, and the text between them.

    >>> list(split_at("To be<end> or not", {"<end>": AddedToken(7, rstrip=True)}))
    ['To be', 7, 'or not']
    """
    longest_first = sorted(tokens, key=len, reverse=True)
    done = 0
    for match in regex.finditer("|".join(map(regex.escape, longest_first)), text):
        token, start, stop = tokens[match[0]], match.start(), match.end()
        if token.single_word and (WORD.match(text, stop) or WORD.match(text, start - 1, start)):
            continue
        if token.lstrip:
            start = SPACE_BEFORE.match(text, min(done, start), start).start()
        if token.rstrip:
            stop = SPACE.match(text, stop).end()
        if stop <= done:  # white space that belongs to the token before
            continue
        if done < start:
            yield text[done:start]
        yield token.id
        done = stop
    if done < len(text):
        yield text[done:]


def get_encoder(model_name: str, models_dir: str | os.PathLike[str]) -> Encoder:
    """The tokenizer of the model in `models_dir/model_name`, from its encoder.json and vocab.bpe.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: one of them is malformed, or they do not fit each other; the message says what is wrong where.
    """
    folder = Path(models_dir) / str(model_name)
    vocabulary, merges = read_json(folder / "encoder.json"), read_merges(folder / "vocab.bpe")
    try:
        return Encoder(vocabulary, merges, str(model_name))
    except ValueError as error:
        raise ValueError(f"{folder}: encoder.json and vocab.bpe are not a vocabulary: {error}") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds. FileNotFoundError, or ValueError if it is not JSON."""
    text = _read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from None


def read_merges(path: Path) -> Iterator[tuple[str, str]]:
    """The merges of a vocab.bpe or merges.txt, two tokens a line, one by one: a list of 50,000 takes 9 MB.

    Raises FileNotFoundError or ValueError as `get_encoder`, at once.
    """
    lines = _read_text(path).split("\n")  # not splitlines(): it also splits at characters that tokens may hold
    first = 1 if lines[0].startswith("#version") else 0
    for number, line in enumerate(lines[first:], first + 1):
        if line and (line.count(" ") != 1 or line[0] == " " or line[-1] == " "):
            raise ValueError(f"{path}, line {number}: expected two tokens with a space between, got {line[:60]!a}")
    return ((left, right) for left, space, right in (line.partition(" ") for line in lines[first:] if line))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: a model's folder holds its vocabulary in two files, encoder.json "
                                "and vocab.bpe or vocab.json and merges.txt") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): download it again") from None
