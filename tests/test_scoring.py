"""How likely texts and words are: against other implementations, against formulas, and by adding up to 1."""
import itertools
import json
import math
import types

import numpy as np
import pytest
from helpers import BUNDLED, MODELS, TEXT, random_model, read_json

from encoder import AddedToken, Encoder, bytes_to_unicode
from lens import score
from many_texts import run, surprisal, work
from many_texts.batches import log_prob_of, measure, measured
from many_texts.surprisal import END, WHITESPACE, encode_after, score_texts
from many_texts.tables import Row

PROMPTS = ["ROMEO:", "First Citizen:\nSpeak.", "O", "JULIET:\n" + "Wherefore art thou " * 30, "\n",
           "To be, or not to be"]
LONG = "".join(f"ROMEO:\nIt is the {n}th night.\n\n" for n in range(40))


def surprisals(text, model, unit=1.0, **options):
    """Of each word, in bits, or in nats with unit=math.log(2)."""
    return [word.surprisal * unit for word in score(text, model, words=True, **options).words]


def log_probs(texts, model, first_id):
    """Of each token of each text, after first_id: natural logarithms."""
    return measured([[first_id, *ids] for ids in texts], model.params, model.n_head, log_prob_of)


# --- tokens ---


@pytest.mark.parametrize("stride", [None, 100, 256])
def test_scores_of_many_texts_are_those_of_each(shakespeare, stride):
    texts = [*PROMPTS, "Now is the winter of our discontent " * 40, "a"]  # longer than the context, and than a pass
    for text, one in zip(texts, score(texts, shakespeare, stride=stride), strict=True):
        expected = score(text, shakespeare, stride=stride)
        np.testing.assert_allclose(one.log_probs, expected.log_probs, atol=2e-4)
        assert one.pieces == expected.pieces and one.n_bytes == expected.n_bytes
        assert one.perplexity == pytest.approx(expected.perplexity, rel=1e-4)
    seen = []
    score_texts([shakespeare.encode(text) for text in texts], shakespeare.encoder, shakespeare.params, 6,
                stride=stride, report=seen.append)
    assert seen == sorted(seen) and set(seen) == {*range(len(texts))}
    seen = []
    scores = score([[5, 6], [7]], shakespeare, hook=lambda name, x: seen.append(name))
    assert [one.ids.tolist() for one in scores] == [[5, 6], [7]] and seen.count("logits") == 2
    with pytest.raises(ValueError, match="nothing to score"):
        score(["a", ""], shakespeare)


def test_log_probs_are_those_of_openais_logits(tiny):
    model, expected = tiny
    for i in range(6):
        ids = expected[f"ids_{i}"].tolist()
        logits = expected[f"logits_{i}"].astype(np.float64)[:-1]
        right = logits[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(logits).sum(-1))
        if len(ids) > 1:
            np.testing.assert_allclose(log_probs([ids[1:]], model, ids[0])[0], right, atol=1e-4)


def test_texts_that_share_their_logits_get_their_own():
    model, rng = random_model(n_ctx=200), np.random.default_rng(0)
    texts = [rng.integers(0, 211, n).tolist() for n in (1, 3, 300, 60, 64, 1, 1, 127, 129, 2)]  # 128 logits at a time
    together = log_probs(texts, model, 0)
    for text, one in zip(texts, together, strict=True):
        np.testing.assert_allclose(one, log_probs([text], model, 0)[0], atol=1e-4)


def test_entropy_is_that_of_the_distribution_before_each_token(shakespeare):
    ids = shakespeare.encode(TEXT)
    logits = shakespeare.logits([shakespeare.encoder.eot_token, *ids[:-1]]).astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    result = score(TEXT, shakespeare, entropy=True, words=True)
    np.testing.assert_allclose(result.entropies, -(p * np.log2(p)).sum(-1), atol=1e-4)
    first = list(itertools.accumulate([0, *(word.n_tokens for word in result.words)]))
    assert [word.entropy for word in result.words] == result.entropies[first[:-1]].tolist()

    def forbid(name, x):  # a token that cannot come takes no part
        if name == "logits":
            x = x.copy()
            x[:, 5] = -np.inf
            return x

    p = np.delete(p, 5, axis=1) / (1 - p[:, [5]])
    result = score(TEXT, shakespeare, entropy=True, hook=forbid)
    np.testing.assert_allclose(result.entropies, -(p * np.log2(p)).sum(-1), atol=1e-4)
    result = score(ids + [5], shakespeare, hook=forbid)
    assert result.total == -math.inf and result.perplexity == result.bits_per_byte == math.inf


def test_without_bos_the_first_token_is_not_scored(shakespeare):
    ids = shakespeare.encode(TEXT)
    result = score(TEXT, shakespeare, bos=False, words=True, entropy=True)
    np.testing.assert_allclose(result.log_probs[1:], log_probs([ids[1:]], shakespeare, ids[0])[0], atol=1e-5)
    assert [math.isnan(x) for x in (result.log_probs[0], result.entropies[0], result.words[0].surprisal)] == [True] * 3
    assert result.total == pytest.approx(result.log_probs[1:].sum())
    assert result.n_bytes == len(TEXT) - len(shakespeare.encoder.token_bytes(ids[0]))
    assert result.perplexity == pytest.approx(math.exp(-result.total / (len(ids) - 1)))
    assert not any(math.isnan(word.surprisal) for word in result.words[1:])
    with pytest.raises(ValueError, match="one token"):
        score("O", shakespeare, bos=False)


@pytest.mark.parametrize("context, text, joined, n, bos", [
    ("O Romeo,", "Romeo!", "O Romeo, Romeo!", 3, True), ("O Romeo, ", "Romeo!", "O Romeo, Romeo!", 3, False),
    ("ROMEO:\n", "Speak.", "ROMEO:\nSpeak.", 4, True), ("ROMEO:", "\nSpeak.", "ROMEO:\nSpeak.", 5, False),
    (LONG, "It is", LONG + "It is", 2, True), ("", "Romeo", "Romeo", 3, True), (None, "Romeo", "Romeo", 3, True),
])
def test_context_is_read_and_not_scored(shakespeare, context, text, joined, n, bos):
    expected = score(joined, shakespeare, bos=bos, words=True)
    for result in (score(text, shakespeare, context=context, bos=bos, words=True),
                   score(["I", text], shakespeare, context=["a", context], bos=bos, words=True)[1]):
        assert len(result.ids) == len(result.log_probs) == n
        np.testing.assert_allclose(result.log_probs, expected.log_probs[-n:], atol=1e-4)
        assert result.total == pytest.approx(result.log_probs.sum())
        if not (context or "").endswith("\n"):  # a line break that is not part of the word
            words = expected.words[-len(result.words) :]
            assert [word.word for word in result.words] == [word.word for word in words]
            np.testing.assert_allclose([word.surprisal for word in result.words],
                                       [word.surprisal for word in words], atol=1e-3)


@pytest.mark.parametrize("context, text", [("Who <m>", "I do"), ("<r> ", "I do"), ("a  <m>\n <m>", "<r>  5 + <m>!")])
def test_context_with_tokens_that_take_white_space_away(context, text):
    added = {"<|endoftext|>": AddedToken(256), "<m>": AddedToken(257, lstrip=True), "<r>": AddedToken(258, rstrip=True)}
    encoder = Encoder({character: byte for byte, character in bytes_to_unicode().items()}, [], added_tokens=added)
    ids, n = encode_after(context, text, encoder)
    assert ids[n:] == encoder.encode(text)


@pytest.mark.parametrize("texts, context", [(["Romeo!", "and", "thou"], "O R"), ([[5, 6], [7], [8]], [9, 10, 11])])
def test_one_context_is_read_before_each_of_many_texts(shakespeare, texts, context):
    for text, one in zip(texts, score(texts, shakespeare, context=context), strict=True):
        np.testing.assert_allclose(one.log_probs, score(text, shakespeare, context=context).log_probs, atol=1e-4)


@pytest.mark.parametrize("options, error, message", [
    ({"correction": "spaces"}, ValueError, "correction must be whitespace or space or none, not 'spaces'"),
    ({"context": [1, 2]}, TypeError, "both be text, or both be token ids"),
])
def test_options_that_are_refused(shakespeare, options, error, message):
    with pytest.raises(error, match=message):
        score("x", shakespeare, words=True, **options)
    with pytest.raises(ValueError, match="base must be 2 or e, not '10'"):
        surprisal.units("10")
    with pytest.raises(ValueError, match="context for each of the 2 texts, not 1"):
        score(["a", "b"], shakespeare, context=["c"])


# --- words ---


@pytest.mark.parametrize("text, words", [
    ("To be, or", ["To", "be,", "or"]), ("  two  spaces ", ["two", "spaces"]), (" \n", []),
    ("don't\tstop\n\nnow!!!", ["don't", "stop", "now!!!"]),
    ("naïve 東京\u3000café 🤖x", ["naïve", "東京", "café", "🤖x"]),
])
def test_words_are_what_white_space_delimits(shakespeare, text, words):
    result = score(text, shakespeare, words=True, correction="none")
    assert [word.word for word in result.words] == words
    word_of_byte, word = [], 0
    for character, following in zip(text, text[1:] + " "):
        word_of_byte += [word] * len(character.encode())
        word += not character.isspace() and following.isspace()
    expected = np.zeros(len(words) + 1)  # the last: white space after all words
    ends = itertools.accumulate(len(shakespeare.encoder.token_bytes(i)) for i in result.ids)
    for end, log_p in zip(ends, result.log_probs):
        expected[word_of_byte[end - 1]] -= log_p / math.log(2)
    np.testing.assert_allclose([word.surprisal for word in result.words], expected[: len(words)])


@pytest.mark.parametrize("text, words", [
    ("To be, or", ["To", "be", ",", "or"]),
    ("\"don't\"  (I) said...", ['"', "don't", '"', "(", "I", ")", "said", "..."]),
    (" \n!", ["!"]), ("東京\u3000(é)", ["東京", "(", "é", ")"]), ("well-known 5%", ["well", "-", "known", "5", "%"]),
])
def test_punctuation_apart(shakespeare, text, words):
    result = score(text, shakespeare, words=True, split_punctuation=True, correction="none")
    assert [word.word for word in result.words] == words
    assert sum(word.n_tokens for word in result.words) == len(result.ids)
    assert sum(word.surprisal for word in result.words) == pytest.approx(-result.total / math.log(2))


def test_word_surprisals_are_those_of_wordsprobability_and_minicons(shakespeare):
    theirs = read_json("word-surprisals.json")
    nats, encoder = math.log(2), shakespeare.encoder
    at_start = shakespeare.logits([encoder.eot_token])[0].astype(float)
    p = np.exp(at_start) / np.exp(at_start).sum()
    space = sum(p[i] for i in range(1024) if encoder.token_bytes(i)[:1] == b" ")
    double = math.log(1 - space) - math.log(1 - space + p[encoder.eot_token])  # wordsprobability adds this token twice
    kinds = surprisal.token_kinds(encoder)
    for i, text in enumerate(theirs["texts"]):
        found = surprisals(text, shakespeare, nats, correction="space")
        expected = [theirs["wordsprobability"][i][0] + double, *theirs["wordsprobability"][i][1:]]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        found = surprisals(text, shakespeare, nats, correction="none")
        np.testing.assert_allclose(found, theirs["minicons naive"][i], atol=1e-4)
        if len(found) > 1:
            found = surprisals(text, shakespeare, nats, correction="none", bos=False)
            np.testing.assert_allclose(found[1:], theirs["minicons without bos"][i][1:], atol=1e-4)
        # minicons takes neither other white space nor the end of the text for the end of a word
        ids = np.array(encoder.encode(text))
        full = [encoder.eot_token, *ids, encoder.eot_token]
        measure_kinds = lambda *row: measure(*row, np.eye(6, dtype=np.float32)[kinds[0]])
        (rows,) = measured([full], shakespeare.params, 6, measure_kinds)
        rows[:, [2 + WHITESPACE, 2 + END]] = 0
        words = surprisal.score_words(ids, [encoder.token_bytes(i) for i in ids], kinds, rows, "whitespace", False)
        np.testing.assert_allclose([word.surprisal * nats for word in words], theirs["minicons"][i], atol=1e-4)


class FewTokens:
    """A vocabulary of a few tokens; the last one is <|endoftext|>."""

    tokens = [b"a", b" a", b" ", b"\n", b".", b" ."]
    n_vocab, eot_token = 7, 6

    def token_bytes(self, i):
        return self.tokens[i] if i < 6 else b"<|endoftext|>"

    def new_text(self):
        return [6]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("before, n_context", [([], 0), ([0], 0), ([1, 4], 0), ([0, 3, 4], 3), ([0, 3], 2)])
def test_the_probabilities_of_all_words_add_up_to_1(before, n_context, split):
    """All continuations of up to four tokens: those that are a word with what score_texts gives them, those that end
    without one or are not at an end yet with the product of their tokens' probabilities."""
    encoder = FewTokens()
    model = random_model(std=0.5, n_vocab=7, n_ctx=12, n_embd=8, n_head=2, n_layer=1)

    def bytes_of(ids):
        return b"".join(encoder.tokens[i] for i in ids)

    def ends(word, token):
        """Whether the token does not belong to what is there of a word."""
        if not word or word[-1:].isspace():
            return False  # white space so far
        return token == 6 or encoder.tokens[token][:1].isspace() or split and (
            (word[-1:] == b".") != (encoder.tokens[token][:1] == b"."))

    def probabilities(ids):
        logits = model.logits([6, *ids])[-1].astype(float)
        return np.exp(logits) / np.exp(logits).sum()

    p, context = probabilities(before), bytes_of(before)
    starts = [token for token in range(7) if not context or context[-1:].isspace() or ends(context, token)]
    sequences = [((token,), p[token] / p[starts].sum()) for token in starts if token != 6]
    words, rest = [], p[6] / p[starts].sum()  # the text may end without another word
    for _ in range(4):
        longer = []
        for ids, p_ids in sequences:
            p = probabilities([*before, *ids])
            if bytes_of(ids).strip():
                words.append(ids)
            else:
                rest += p_ids * p[6]
            longer += [((*ids, token), p_ids * p[token]) for token in range(6) if not ends(bytes_of(ids), token)]
        sequences = longer
    rest += sum(p_ids for _, p_ids in sequences)
    scores = score_texts([[*before, *ids] for ids in words], encoder, model.params, 2, words=True,
                         n_context=[n_context] * len(words), split_punctuation=split)
    assert [one.words[-1].n_tokens for one in scores] == [len(ids) for ids in words]
    assert sum(2 ** -one.words[-1].surprisal for one in scores) + rest == pytest.approx(1, abs=1e-4)
    assert rest < 0.6


def test_the_kinds_of_tokens():
    class Encoder(FewTokens):
        tokens = [b" a", b"\t\n", b"'s", b"'", b"\xe3", b"\x80b"]
        n_vocab = 8

        def token_bytes(self, i):
            return b"" if i == 7 else super().token_bytes(i)

    first, inner = surprisal.token_kinds(Encoder())  # the last stands for no text, and begins no word
    assert first.tolist() == [surprisal.SPACE, WHITESPACE, surprisal.LETTER, surprisal.PUNCTUATION,
                              surprisal.LETTER, surprisal.INSIDE, END, surprisal.INSIDE]
    assert inner.tolist() == [surprisal.LETTER, WHITESPACE, *first[2:]]


def test_a_line_break_ends_a_word_too(shakespeare):
    text = "My lord of York.\n\nKING HENRY VI:\nWhat"
    published, right = (dict(zip(text.split(), surprisals(text, shakespeare, correction=correction)))
                        for correction in ("space", "whitespace"))
    assert published["York."] > right["York."] + 2 and published["KING"] < right["KING"] - 2


@pytest.mark.parametrize("stride", [None, 200])
def test_words_of_a_text_longer_than_the_context(shakespeare, stride):
    result, plain = (score(LONG, shakespeare, stride, words=words) for words in (True, False))
    assert result.log_probs.tolist() == pytest.approx(plain.log_probs.tolist(), abs=1e-4)
    hooked = score(LONG, shakespeare, stride, hook=lambda name, x: None, words=True)
    assert [word.word for word in result.words] == LONG.split() == [word.word for word in hooked.words]
    np.testing.assert_allclose([word.surprisal for word in hooked.words], [word.surprisal for word in result.words],
                               atol=1e-3)


def test_ids_without_text():
    class Encoder(FewTokens):
        tokens = [b"", b" a", b" ", b"\n", b".", b" ."]

    model = random_model(std=0.5, n_vocab=7, n_ctx=12, n_embd=8, n_head=2, n_layer=1)
    only, word = score_texts([[0, 0], [1, 0, 1]], Encoder(), model.params, 2, words=True)
    assert math.isnan(only.bits_per_byte) and only.total < 0 and only.words == []
    assert [(one.word, one.n_tokens) for one in word.words] == [("a", 2), ("a", 1)]


def test_the_words_in_the_terminal(lens_py, shakespeare):
    text = "O Romeo, Romeo!"
    result = lens_py("score", text, "--words", "--entropy", "--base", "e", "--bos", "False", *BUNDLED)
    tokens, words, totals = (block.splitlines() for block in result.stdout.split("\n\n"))
    expected = score(text, shakespeare, words=True, entropy=True, bos=False)
    assert tokens[0].split()[-3:] == ["entropy", "in", "nats"] and tokens[1].split() == ["O", "46", "-", "-", "-"]
    assert float(tokens[2].split()[-1]) == pytest.approx(expected.entropies[1] * math.log(2), abs=1e-3)
    assert words[0].split() == ["word", "surprisal", "in", "nats", "tokens"] and words[1].split() == ["O", "-", "1"]
    assert words[2].split() == ["Romeo,", f"{expected.words[1].surprisal * math.log(2):.4f}", "3"]
    result = lens_py("score", text, "--words", "--base", "2", "--context", "JULIET:", *BUNDLED)
    expected = score(text, shakespeare, words=True, context="JULIET:")
    assert f"total log2-probability  {expected.total / math.log(2):.3f}\n" in result.stdout
    assert f"{expected.words[0].surprisal:.4f}" in result.stdout


# --- columns of batch.py ---


def test_a_stride_that_does_not_fit_the_model_is_refused(shakespeare):
    with pytest.raises(ValueError, match="stride must be a whole number from 1 to 256 .*, not 257"):
        columns([{"sentence": "To be"}], shakespeare, stride=257)


def columns(rows, shakespeare, per="text", **options):
    """The rows that `batch.py score` makes of rows with the columns sentence and before, without its processes."""
    how = {"stride": None, "tokens": False, "words": True, "per": per, "correction": "whitespace",
           "split_punctuation": False, "entropy": False, "bos": True, "base": None, **options}
    source = run.Rows(types.SimpleNamespace(rows=lambda: map(Row, rows)), "sentence", "before")
    texts = list(source.first(types.SimpleNamespace(pass_on=iter)))
    model = ("shakespeare", str(MODELS), work.fingerprint("shakespeare", str(MODELS)))
    journal = Finished({0: json.loads(json.dumps(work.score_block(texts, model, **how)))})
    dropped = ["sentence", "before"] if per == "word" else []
    return list(run.joined(source, journal, run.added_columns(run.COMMANDS["score"], **how), "", dropped))


class Finished(dict):
    blocks = property(dict.keys)


ROWS = [{"id": 5, "before": "O Romeo,", "sentence": "Romeo!\n What"}, {"id": 6, "before": None, "sentence": "I"},
        {"id": 7, "before": "x", "sentence": " "}, {"id": 8, "before": 9, "sentence": "I"}]


@pytest.mark.parametrize("base, bit, log_unit", [(None, 1, 1), ("2", 1, math.log(2)), ("e", math.log(2), 1)])
def test_all_columns_have_their_base(shakespeare, base, bit, log_unit):
    first, second, _, last = columns(ROWS, shakespeare, base=base, tokens=True, entropy=True)
    expected = score(ROWS[0]["sentence"], shakespeare, context="O Romeo,", words=True, entropy=True)
    assert first["log_prob"] == pytest.approx(expected.total / log_unit, rel=1e-5)
    assert first["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-5)
    for name, values in {"token_surprisals": -expected.log_probs / math.log(2), "token_entropies": expected.entropies,
                         "word_surprisals": [word.surprisal for word in expected.words],
                         "word_entropies": [word.entropy for word in expected.words]}.items():
        np.testing.assert_allclose(first[name], np.array(values) * bit, atol=1e-3)
    assert first["tokens"] == [" Rome", "o", "!", "\n", " ", "What"] and first["words"] == ["Romeo!", "What"]
    assert second["words"] == ["I"] and second["n_tokens"] == 1
    assert "has a int" in last["error"] and last["words"] is None


def test_a_row_for_each_word(shakespeare):
    found = columns(ROWS, shakespeare, per="word")
    words = score(ROWS[0]["sentence"], shakespeare, context="O Romeo,", words=True).words
    assert found[0] == {"id": 5, "text": 0, "index": 0, "word": "Romeo!", "n_tokens": 3, "characters": 6, "error": None,
                        "surprisal": pytest.approx(words[0].surprisal, abs=1e-4)}
    assert [(row["id"], row["text"], row["index"], row["word"]) for row in found] == [
        (5, 0, 0, "Romeo!"), (5, 0, 1, "What"), (6, 1, 0, "I"), (7, 2, None, None), (8, 3, None, None)]
    assert [row["error"] for row in found[3:]] == ["the text has no words", "the column 'before' has a int, not a text"]
    (row,) = columns([{"sentence": "I"}], shakespeare, per="word", bos=False)
    assert "one token" in row["error"]
    first, second = columns([{"sentence": "I am"}], shakespeare, per="word", bos=False, entropy=True)
    assert first["surprisal"] is None is first["entropy"] and second["entropy"] > 0
