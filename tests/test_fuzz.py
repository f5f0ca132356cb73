"""Arbitrary input to the tokenizer and its files, 10,000 cases in all: only the documented errors come out."""
import json
import tempfile
from pathlib import Path

import pytest
from helpers import MODELS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder import Encoder, bytes_to_unicode, get_encoder

ENCODER = get_encoder("shakespeare", MODELS)
CHARACTERS = list(bytes_to_unicode().values())

# --- what is put in -----------------------------------------------------------------------------

any_character = st.characters(exclude_categories=())  # lone surrogates too
anything = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.binary(max_size=3) | st.integers()
any_id = st.integers(0, 1023) | st.integers(-2, 2**70) | anything
good_ids = st.lists(st.integers(0, 1023), max_size=12)
texts = st.text(any_character, max_size=30) | st.text("ab '\n\t\u00a0\ud83d\udc4d安ſ", max_size=30)
json_values = st.recursive(
    anything.filter(lambda x: not isinstance(x, bytes)), max_leaves=5,
    extend=lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3))
tokens = st.text(st.sampled_from(CHARACTERS), max_size=3) | st.text(any_character, max_size=3)


@st.composite
def vocabulary_files(draw):
    """encoder.json and vocab.bpe as bytes: good ones, with at most one of many things wrong with them."""
    merges = draw(st.lists(st.tuples(st.sampled_from("abĠé"), st.sampled_from("abĠé")), max_size=4, unique=True))
    vocabulary = {token: i for i, token in enumerate([*CHARACTERS, *(a + b for a, b in merges), "<|endoftext|>"])}
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    kind = draw(st.sampled_from(["good", "id", "token", "missing", "twice", "json", "merge", "line", "bytes", "cut"]))
    if kind == "id":
        vocabulary[draw(st.sampled_from(CHARACTERS))] = draw(json_values)
    elif kind == "token":
        vocabulary[draw(tokens)] = draw(st.integers(-1, 300))
    elif kind == "missing":
        del vocabulary[draw(st.sampled_from(list(vocabulary)))]
    elif kind == "twice":
        a, b = draw(st.sampled_from(CHARACTERS)), draw(st.sampled_from(CHARACTERS))
        vocabulary[a] = vocabulary[b]
    elif kind == "json":
        vocabulary = draw(json_values)
    elif kind == "merge":
        lines.insert(draw(st.integers(0, len(lines))), f"{draw(tokens)} {draw(tokens)}")
    elif kind == "line":
        lines.insert(draw(st.integers(0, len(lines))), draw(st.text(any_character, max_size=8)))
    files = [json.dumps(vocabulary, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"),
             "\n".join(lines).encode("utf-8", "surrogatepass")]
    if kind in ("bytes", "cut"):
        which, at = draw(st.integers(0, 1)), draw(st.integers(0, 4000))
        at %= len(files[which])
        files[which] = files[which][:at] + (b"" if kind == "cut" else
                                            draw(st.binary(max_size=4)) + files[which][at + 1 :])
    return files


# --- what must come out -------------------------------------------------------------------------


def encode(text):
    try:
        ids = ENCODER.encode(text)
    except ValueError as error:
        assert "lone surrogate" in str(error) and any("\ud800" <= c <= "\udfff" for c in text)
    except TypeError as error:
        assert "must be a str" in str(error) and not isinstance(text, str)
    else:
        assert ENCODER.decode(ids) == text and all(0 <= i < ENCODER.n_vocab for i in ids)


def decode(ids):
    try:
        text = ENCODER.decode(ids)
    except ValueError as error:
        assert "is not in the vocabulary" in str(error)
    except TypeError as error:
        assert "whole number" in str(error) or "not iterable" in str(error)
    else:
        assert text.encode("utf-8").decode("utf-8") == text


def decode_stream(ids):
    def result(function):
        try:
            return function()
        except (ValueError, TypeError) as error:
            return type(error), str(error)

    streamed = result(lambda: list(ENCODER.decode_stream(iter(ids))))
    if isinstance(streamed, list):
        assert all(streamed)
        streamed = "".join(streamed)
    assert streamed == result(lambda: ENCODER.decode(ids))


def load(files):
    """A vocabulary of these files loads and works, or the error names the folder in one line."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in zip(("encoder.json", "vocab.bpe"), files, strict=True):
            Path(folder, name).write_bytes(data)
        try:
            encoder = get_encoder(Path(folder).name, Path(folder).parent)
        except ValueError as error:
            assert str(error).startswith(folder) and "\n" not in str(error)
        else:
            assert isinstance(encoder, Encoder)
            assert encoder.decode(encoder.encode("ab éa\n")) == "ab éa\n"


@pytest.mark.parametrize("share", [10, pytest.param(1, marks=pytest.mark.slow)], ids=["a tenth", "all"])
@pytest.mark.parametrize("check, inputs, n", [
    (encode, texts | anything, 2500),
    (decode, good_ids | st.lists(any_id, max_size=5) | anything, 2500),
    (decode_stream, good_ids | st.lists(any_id, max_size=5), 2500),
    (load, vocabulary_files(), 2000),
    (load, st.lists(st.binary(max_size=40), min_size=2, max_size=2), 500),
], ids=["encode", "decode", "decode_stream", "vocabulary files", "files of any bytes"])
def test_arbitrary_input(check, inputs, n, share):
    options = settings(max_examples=n // share, deadline=None, database=None,
                       suppress_health_check=[HealthCheck.too_slow])
    options(given(inputs)(check))()
