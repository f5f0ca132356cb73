"""The tokenizer: OpenAI's ids, no text lost, and errors that name what is wrong."""
import json
import random
import shutil

import numpy as np
import pytest
from helpers import MODELS, official_vocabulary, read_json
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import (
    PIECE,
    AddedToken,
    Encoder,
    _merge_pairs_of_long_piece,
    bytes_to_unicode,
    get_encoder,
    merge_pairs,
    split_at,
)

ENCODER = get_encoder("shakespeare", MODELS)
any_text = st.text() | st.text(alphabet="aeé 'sdt\n\t\x1c\u00a0\u3000안🤖\u200d1٣!", max_size=40)


@pytest.fixture
def encoder():
    return ENCODER


def plain_vocabulary(*merges):
    """A vocabulary of the 256 bytes, these merges and the end of text."""
    tokens = list(bytes_to_unicode().values()) + [a + b for a, b in merges] + ["<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


@pytest.mark.parametrize("case", read_json("gpt2-token-ids.json"), ids=lambda case: ascii(case["text"])[:30])
def test_official_ids(case):
    folder = official_vocabulary()
    if folder is None:
        pytest.skip("the official vocabulary is neither in models/124M nor where GPT2_VOCABULARY says")
    encoder = get_encoder(folder.name, folder.parent)
    assert encoder.encode(case["text"]) == case["ids"]
    assert encoder.decode(case["ids"]) == case["text"]
    assert encoder.eot_token == 50256


@settings(max_examples=300, deadline=None)
@given(any_text)
def test_encode_and_decode_give_the_text_back(text):
    ids = ENCODER.encode(text)
    assert ENCODER.decode(ids) == text
    assert all(0 <= i < ENCODER.n_vocab and i != ENCODER.eot_token for i in ids)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 1023), max_size=30))
def test_stream_gives_what_decode_gives(ids):
    pieces = list(ENCODER.decode_stream(iter(ids)))
    assert "".join(pieces) == ENCODER.decode(ids)
    assert all(pieces)


def test_stream_holds_a_character_back_until_it_is_whole(encoder):
    ids = encoder.encode("a안b")
    assert len(ids) == 5  # the middle character's three bytes are a token each
    assert list(encoder.decode_stream(ids)) == ["a", "안", "b"]
    assert list(encoder.decode_stream(ids[:3])) == ["a", "\ufffd"]


def test_stream_gives_each_piece_at_once(encoder):
    drawn = []

    def ids():
        for i in encoder.encode("To be"):
            drawn.append(i)
            yield i

    stream = encoder.decode_stream(ids())
    next(stream)
    assert len(drawn) == 1


def test_end_of_text_is_ordinary_text_in_a_prompt(encoder):
    assert encoder.eot_token == 1023
    assert encoder.eot_token not in encoder.encode("<|endoftext|>")
    assert encoder.decode([encoder.eot_token]) == "<|endoftext|>"


def one_merge_a_round(ids, ranks, merged):
    """Byte-pair encoding as in the paper: merge the earliest-learned pair everywhere until no learned pair is left."""
    while True:
        known = [pair for pair in zip(ids, ids[1:]) if pair[0] << 32 | pair[1] in ranks]
        if not known:
            return ids
        rank, best = min((ranks[left << 32 | right], (left, right)) for left, right in known)
        result, i = [], 0
        while i < len(ids):
            if tuple(ids[i : i + 2]) == best:
                result.append(merged[rank])
                i += 2
            else:
                result.append(ids[i])
                i += 1
        ids = result


@settings(max_examples=250, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), unique=True))
def test_merges_are_those_of_the_plain_algorithm(ids, pairs):
    # any merges, even those that no training would learn: a pair may outrank those that its tokens are made of
    ranks, merged = {left << 32 | right: rank for rank, (left, right) in enumerate(pairs)}, [*range(4, 4 + len(pairs))]
    expected = one_merge_a_round(ids, ranks, merged)
    assert merge_pairs(ids, ranks, merged) == _merge_pairs_of_long_piece(ids, ranks, merged) == expected


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_ids_are_those_of_the_plain_algorithm(text):
    pieces = ENCODER._ids
    ids = [one_merge_a_round([pieces.byte_ids[byte] for byte in piece.encode()], pieces.ranks, pieces.merged)
           for piece in PIECE.findall(text)]
    assert ENCODER.encode(text) == sum(ids, [])


def test_one_long_word_takes_no_quadratic_time(encoder):
    word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=200_000))
    assert encoder.decode(encoder.encode(word)) == word  # quadratic time would be hours here


def test_the_cache_of_pieces_is_bounded(encoder, monkeypatch):
    pieces = encoder._ids
    monkeypatch.setattr(type(pieces), "MAX_ENTRIES", 50)
    text = " ".join(str(i) for i in range(1000, 1500))
    assert encoder.decode(encoder.encode(text + " " + "x" * 1000)) == text + " " + "x" * 1000
    assert len(pieces) <= 50 and max(map(len, pieces)) <= pieces.MAX_LENGTH


def test_numpy_ids_are_ids(encoder):
    assert encoder.decode(np.array([1, 2, 3])) == encoder.decode([1, 2, 3])


@pytest.mark.parametrize("ids, error, message", [
    ([1024], ValueError, "token id 1024 is not in the vocabulary: ids are 0 to 1023"),
    ([-1], ValueError, "token id -1 is not in the vocabulary"),
    ([10**30], ValueError, "token id 1000000000000000000000000000000 is not"),
    ([1.0], TypeError, "whole number, not 1.0"),
    ([1.5], TypeError, "whole number, not 1.5"),
    (["5"], TypeError, "whole number, not '5'"),
    ([None], TypeError, "whole number, not None"),
    ([True], TypeError, "whole number, not True"),
    (np.array([0.5]), TypeError, "whole number, not .*0.5"),
])
def test_bad_ids_are_named(encoder, ids, error, message):
    with pytest.raises(error, match=message):
        encoder.decode(ids)
    with pytest.raises(error, match=message):
        list(encoder.decode_stream(ids))


@pytest.mark.parametrize("text, error, message", [
    ("ab\ud83dc", ValueError, r"lone surrogate, U\+D83D, at character 2"),
    (b"bytes", TypeError, "must be a str, not bytes"),
    (None, TypeError, "must be a str, not NoneType"),
    (5, TypeError, "must be a str, not int"),
])
def test_bad_texts_are_named(encoder, text, error, message):
    with pytest.raises(error, match=message):
        encoder.encode(text)


def write_vocabulary(folder, encoder_json, vocab_bpe):
    folder.mkdir(exist_ok=True)
    (folder / "encoder.json").write_bytes(encoder_json)
    (folder / "vocab.bpe").write_bytes(vocab_bpe)
    return get_encoder(folder.name, folder.parent)


def changed(**changes):
    vocabulary, _ = plain_vocabulary(("a", "b"))
    return json.dumps({**vocabulary, **changes}).encode()


GOOD_JSON, GOOD_BPE = json.dumps(plain_vocabulary(("a", "b"))[0]).encode(), b"#version: 0.2\na b\n"


@pytest.mark.parametrize("encoder_json, vocab_bpe, message", [
    (b"{", GOOD_BPE, "encoder.json is not JSON"),
    (b"\xff\xfe", GOOD_BPE, "encoder.json is not UTF-8 text .byte 0"),
    (b"[" * 100_000, GOOD_BPE, "encoder.json is not JSON"),
    (b"[1, 2]", GOOD_BPE, "must map tokens to ids, not be a list"),
    (b"{}", b"", "byte 33 has no token"),
    (changed(a="x"), GOOD_BPE, "the id of token 'a' is 'x', not a whole number"),
    (changed(a=1.5), GOOD_BPE, "the id of token 'a' is 1.5"),
    (changed(a=5), GOOD_BPE, "ids must be 0 to 257, each once, but token 'a' has 5"),
    (changed(ab=300), GOOD_BPE,
     "ids must be 0 to 257, each once, but token '<.endoftext.>' has 257 where 256 is expected"),
    (changed(**{"x y": 258}), GOOD_BPE, "a token contains ' ', which stands for no byte"),
    (json.dumps({t: i for i, t in enumerate(t for t in json.loads(GOOD_JSON) if t != "Ġ")}).encode(), GOOD_BPE,
     "byte 32 has no token"),
    (GOOD_JSON, b"#version: 0.2\na b\nb q\n", "merges need the token 'bq', which is not in the vocabulary"),
    (GOOD_JSON, b"#version: 0.2\na b c\n",
     r"^\S*vocab.bpe, line 2: expected two tokens with a space between, got 'a b c'"),
    (GOOD_JSON, b"#version: 0.2\na b\nab\n", r"^\S*vocab.bpe, line 3: expected two tokens"),
    (GOOD_JSON, b"#version: 0.2\n\xff\n", r"^\S*vocab.bpe is not UTF-8 text .byte 14"),
    (GOOD_JSON, b"", "no merge makes the token 'ab': 0 merges do not fit 258 tokens"),
    (GOOD_JSON, b"#version: 0.2\n", "no merge makes the token 'ab'"),
    (changed(abc=258), GOOD_BPE, "no merge makes the token 'abc': 1 merges do not fit 259 tokens"),
    (changed(**{"": 258}), GOOD_BPE, "no merge makes the token ''"),
])
def test_malformed_vocabularies_are_refused(tmp_path, encoder_json, vocab_bpe, message):
    with pytest.raises(ValueError, match=message):
        write_vocabulary(tmp_path / "model", encoder_json, vocab_bpe)


@pytest.mark.parametrize("cut", [lambda text: "", lambda text: text[: len(text) // 2], lambda text: text[:-2],
                                 lambda text: text[: text.rindex(" ")]], ids=["all", "half", "a character", "a token"])
def test_a_truncated_vocabulary_is_refused(tmp_path, cut):
    shutil.copy(MODELS / "shakespeare" / "encoder.json", tmp_path)
    text = (MODELS / "shakespeare" / "vocab.bpe").read_text(encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text(cut(text), encoding="utf-8")
    with pytest.raises(ValueError, match="no merge makes the token|merges need the token|expected two tokens"):
        get_encoder(tmp_path.name, tmp_path.parent)


def test_special_tokens_need_no_merge(tmp_path):
    encoder = write_vocabulary(tmp_path / "model", changed(**{"<|pad|>": 258}), GOOD_BPE)
    assert encoder.n_vocab == 259 and encoder.decode([256, 258]) == "ab<|pad|>"


def test_a_vocabulary_is_read_whatever_its_line_ends(tmp_path):
    encoder = write_vocabulary(tmp_path / "model", GOOD_JSON, b"#version: 0.2\r\na b\r\n")
    assert encoder.encode("ab") == [256]


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_missing_vocabulary_file_is_named(tmp_path, name):
    write_vocabulary(tmp_path / "model", GOOD_JSON, GOOD_BPE)
    (tmp_path / "model" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        get_encoder("model", tmp_path)


def test_an_encoder_without_end_of_text(tmp_path):
    vocabulary, merges = plain_vocabulary(("a", "b"))
    del vocabulary["<|endoftext|>"]
    assert Encoder(vocabulary, merges).eot_token is None


# --- added tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("text, tokens, parts", [
    ("", {"a": AddedToken(1)}, []),
    ("a", {"a": AddedToken(1)}, [1]),
    ("xaab", {"a": AddedToken(1), "aab": AddedToken(2)}, ["x", 2]),  # the longest one
    ("aaab", {"aa": AddedToken(1), "aab": AddedToken(2)}, [1, "ab"]),  # but the leftmost one first
    ("  a  b", {"a": AddedToken(1, lstrip=True)}, [1, "  b"]),
    ("b  a  b", {"a": AddedToken(1, rstrip=True)}, ["b  ", 1, "b"]),
    ("a \n a", {"a": AddedToken(1, lstrip=True, rstrip=True)}, [1, 1]),
    ("\n\n\t", {"\n": AddedToken(1, lstrip=True, rstrip=True)}, [1]),
    ("a ba a_a a1 (a)", {"a": AddedToken(1, single_word=True)}, [1, " ba a_a a1 (", 1, ")"]),
    ("[x](x)", {"[x]": AddedToken(1), "(x)": AddedToken(2)}, [1, 2]),  # not patterns
])
def test_added_tokens_in_a_text(text, tokens, parts):
    assert list(split_at(text, tokens)) == parts


def test_added_tokens_and_padding_of_an_encoder():
    vocabulary, merges = plain_vocabulary(("a", "b"))
    added = {"[PAD]": AddedToken(258), "sí ab": AddedToken(259), "sí": AddedToken(260, normalized=True)}
    encoder = Encoder(vocabulary, merges, added_tokens=added, n_vocab=264, eot_token=258)
    assert encoder.encode("ab[PAD]sí ab") == [256, 258, 259] and encoder.encode("sí sí ab") == [260, 220, 259]
    assert encoder.decode([259, 263, 260]) == "sí absí" and encoder.n_vocab == 264
    assert encoder.new_text() == [258] and encoder.encode("", added_tokens=False) == []
    with pytest.raises(ValueError, match="ids must be 0 to 258, each once, but token 'x y' has 300"):
        Encoder(vocabulary, merges, added_tokens={"x y": AddedToken(300)})


def test_an_added_letter_that_is_the_token_of_a_byte_leaves_the_byte_what_it_is():
    """transformers gives it no id of its own. Decoded alone it is half a character, there as here."""
    vocabulary, merges = plain_vocabulary(("a", "b"))
    encoder = Encoder(vocabulary, merges, added_tokens={"é": AddedToken(vocabulary["é"])})
    assert encoder.encode("aé") == [vocabulary["a"], vocabulary["é"]]
    assert encoder.decode(encoder.encode("鐩 è")) == "鐩 è" and encoder.token_bytes(vocabulary["é"]) == b"\xe9"


def test_a_long_text_of_added_tokens_takes_no_quadratic_time():
    vocabulary, merges = plain_vocabulary(("a", "b"))
    added = {"[PAD]": AddedToken(258, lstrip=True, rstrip=True, single_word=True)}
    assert Encoder(vocabulary, merges, added_tokens=added).encode(" [PAD] " * 100_000) == [258] * 100_000
