"""Looking inside: the hook against TensorFlow, what the questions answer, and the seven commands as processes."""
import hashlib
import math
import re
import shlex
import sys

import numpy as np
import pytest
from helpers import BUNDLED, MODELS, ROOT, read_png

import lens
from gpt2 import generate, gpt2
from inside.pictures import legible
from utils import load_encoder_hparams_and_params

TEXT = "First Citizen:\nSpeak.\n\nSecond Citizen:\nNo.\n\nFirst"
KOREAN = "안녕 $x$ 🤖\t\n"
CORPUS = ROOT.parent / "shared" / "corpus" / "tinyshakespeare.txt"


def without_head(layer, head):
    def hook(name, x):
        if name == f"blocks.{layer}.attn.z":
            x = x.copy()
            x[:, head] = 0
            return x

    return hook


# --- the hook ---


def assert_taps_agree(hparams, params, ids, theirs):
    seen = {}
    logits = gpt2(ids, **params, n_head=hparams["n_head"], hook=seen.__setitem__)
    assert set(seen) == set(theirs) and len(seen) == 4 + 15 * hparams["n_layer"]
    for name, array in theirs.items():
        assert seen[name].shape == array.shape, name
        np.testing.assert_allclose(seen[name], array, rtol=1e-4, atol=2e-4, err_msg=name)
    np.testing.assert_array_equal(seen["logits"], logits)


@pytest.mark.parametrize("i", range(6))
def test_every_name_of_the_tap_is_tensorflows_on_the_tiny_checkpoint(tiny, tf_gpt2, i):
    (_, hparams, params), expected = tiny
    ids = expected[f"ids_{i}"]
    assert_taps_agree(hparams, params, ids, tf_gpt2(ROOT / "tests" / "data" / "openai-tiny", ids))


@pytest.mark.parametrize("text", [TEXT, KOREAN])
def test_every_name_of_the_tap_is_tensorflows_on_the_bundled_model(shakespeare, tf_gpt2, text):
    encoder, hparams, params = shakespeare
    ids = encoder.encode(text)
    assert_taps_agree(hparams, params, ids, tf_gpt2(MODELS / "shakespeare", ids))


def test_the_readmes_table_lists_every_name_with_its_shape(shakespeare):
    _, hparams, params = shakespeare
    seen, n_listed = {}, 0
    gpt2([5, 6, 7], **params, n_head=hparams["n_head"], hook=seen.__setitem__)
    sizes = {**hparams, "d_head": 32, "n_seq": 3, "n_query": 3, "n_key": 3, "n_logits": 3, "4 * n_embd": 768}
    rows = re.findall(r"^\| (`.*?) \| `\[(.*?)\]` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    for names, shape in rows:
        first, *others = re.findall(r"`(.*?)`", names)
        for name in [first, *(first.rpartition(".")[0] + other if other[0] == "." else other for other in others)]:
            assert seen[name.replace("{i}", "3")].shape == tuple(sizes[size] for size in shape.split(", ")), name
            n_listed += 1
    assert n_listed == 4 + 15


def test_what_was_recorded_stays_as_it_was(shakespeare):
    encoder, hparams, params = shakespeare
    seen, digests = {}, {}
    digest = lambda x: hashlib.sha256(np.ascontiguousarray(x)).hexdigest()

    def hook(name, x):
        seen.setdefault(name, []).append(x)
        digests.setdefault(name, []).append(digest(x))

    generate(encoder.encode(TEXT), params, hparams["n_head"], 5, hook=hook, temperature=0.9, top_k=9, top_p=0.9, seed=1)
    assert {name: [digest(x) for x in arrays] for name, arrays in seen.items()} == digests
    assert len(digests["logits"]) == 5


def test_the_tap_in_cached_generation_sees_what_a_whole_pass_sees(shakespeare):
    encoder, hparams, params = shakespeare
    ids, seen, whole = encoder.encode(TEXT), {}, {}
    new_ids = generate(ids, params, hparams["n_head"], 4, hook=lambda name, x: seen.setdefault(name, []).append(x))
    everything = ids + new_ids[:-1]
    gpt2(everything, **params, n_head=hparams["n_head"], hook=whole.__setitem__)
    assert set(seen) == set(whole)
    for name, arrays in seen.items():
        assert len(arrays) == 4
        for step, array in enumerate(arrays[1:]):
            at = len(ids) + step  # the position of the one row
            expected = whole[name]
            if name.endswith((".attn_scores", ".pattern")):
                expected = expected[:, at : at + 1, : at + 1]  # [n_head, 1, n_key]
            else:
                expected = expected[at : at + 1]
            assert array.shape == expected.shape, name
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-3, err_msg=name)


def test_zeroing_a_heads_z_is_zeroing_its_rows_of_c_proj(shakespeare):
    encoder, hparams, params = shakespeare
    ids, n_head, d_head = encoder.encode(TEXT), hparams["n_head"], hparams["n_embd"] // hparams["n_head"]
    plain = gpt2(ids, **params, n_head=n_head)
    for layer, head in ((0, 0), (1, 5), (5, 3)):
        w = params["blocks"][layer]["attn"]["c_proj"]["w"].copy()
        w[head * d_head : (head + 1) * d_head] = 0
        blocks = list(params["blocks"])
        attn = blocks[layer]["attn"]
        blocks[layer] = {**blocks[layer], "attn": {**attn, "c_proj": {**attn["c_proj"], "w": w}}}
        expected = gpt2(ids, **{**params, "blocks": blocks}, n_head=n_head)
        ablated = gpt2(ids, **params, n_head=n_head, hook=without_head(layer, head))
        np.testing.assert_allclose(ablated, expected, atol=1e-4)
        assert np.abs(ablated - plain).max() > 0.05


def test_every_name_can_be_replaced(shakespeare):
    encoder, hparams, params = shakespeare
    ids, other, names = encoder.encode("O Romeo"), {}, {}
    options = {**params, "n_head": hparams["n_head"]}
    plain = gpt2(ids, **options, hook=names.__setitem__)
    np.testing.assert_allclose(gpt2(ids, **options, hook=lambda name, x: x.copy()), plain, atol=1e-4)
    gpt2(encoder.encode("ROMEO: Speak")[: len(ids)], **options, hook=other.__setitem__)
    for name in names:
        if name != "pos_embed":  # the same in every text
            patched = gpt2(ids, **options, hook=lambda at, x, name=name: other[name] if at == name else None)
            assert np.abs(patched - plain).max() > 1e-3, name
    # A layer's whole stream from the other text: what follows is that text's.
    patched = gpt2(ids, **options, hook=lambda at, x: other[at] if at == "blocks.5.resid_post" else None)
    np.testing.assert_allclose(patched, other["logits"], atol=1e-4)


def test_replaced_keys_reach_the_cache(shakespeare):
    encoder, hparams, params = shakespeare
    ids = encoder.encode(TEXT)

    def hook(name, x):
        return np.zeros_like(x) if name.endswith("attn.v") else None

    full = list(ids)
    for _ in range(6):
        full.append(int(gpt2(full, **params, n_head=hparams["n_head"], hook=hook)[-1].argmax()))
    assert generate(ids, params, hparams["n_head"], 6, hook=hook) == full[len(ids) :]
    assert full[len(ids) :] != generate(ids, params, hparams["n_head"], 6)


@pytest.mark.parametrize("replacement, error, message", [
    (np.zeros(3), ValueError, r"the hook returned shape \[3\] for blocks.2.mlp.pre, which has \[2, 768\]"),
    (0.0, TypeError, "the hook returned float for blocks.2.mlp.pre: return an array"),
    ([[0.0]], TypeError, "the hook returned list for blocks.2.mlp.pre"),
])
def test_a_bad_replacement_is_refused(shakespeare, replacement, error, message):
    _, hparams, params = shakespeare
    with pytest.raises(error, match=message):
        gpt2([1, 2], **params, n_head=hparams["n_head"],
             hook=lambda name, x: replacement if name == "blocks.2.mlp.pre" else None)


# --- the questions ---


def test_next_tokens(shakespeare):
    encoder, hparams, params = shakespeare
    logits = gpt2(encoder.encode(TEXT), **params, n_head=hparams["n_head"])[-1].astype(float)
    for temperature in (0.5, 1, 2):
        p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        ids, pieces, probabilities = lens.next_tokens(TEXT, shakespeare, k=1024, temperature=temperature)
        np.testing.assert_allclose(probabilities, p[ids], rtol=1e-3)
        assert sorted(ids) == list(range(1024)) and (np.diff(probabilities) <= 0).all()
        assert pieces[0] == "·C" and encoder.decode([ids[0]]) == " C"
    assert lens.next_tokens(TEXT, shakespeare, k=3, temperature=0).probabilities.tolist() == [1, 0, 0]
    assert lens.next_tokens(TEXT, shakespeare, k=2, temperature=1e-300).probabilities.tolist() == [1, 0]
    ablated = lens.next_tokens(TEXT, shakespeare, k=1, hook=without_head(1, 5))
    assert ablated.pieces == ["·S"]  # the head that looks back to the names
    assert lens.next_tokens("", shakespeare, k=1).ids == generate([encoder.eot_token], params, hparams["n_head"], 1)


def test_score_is_the_log_probability_of_each_token(shakespeare):
    encoder, hparams, params = shakespeare
    ids = encoder.encode(TEXT + KOREAN)
    logits = gpt2([encoder.eot_token] + ids[:-1], **params, n_head=hparams["n_head"]).astype(float)
    expected = logits[np.arange(len(ids)), ids] - np.log(np.exp(logits).sum(-1))
    result = lens.score(TEXT + KOREAN, shakespeare)
    np.testing.assert_allclose(result.log_probs, expected, atol=1e-4)
    assert result.ids.tolist() == ids and result.n_bytes == len((TEXT + KOREAN).encode())
    assert result.total == pytest.approx(expected.sum(), abs=1e-3)
    assert result.bits_per_byte == pytest.approx(-expected.sum() / math.log(2) / result.n_bytes, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-4)


@pytest.mark.parametrize("stride", [256, 100, None, 1])
def test_strides_give_each_token_the_context_they_should(shakespeare, stride):
    encoder, hparams, params = shakespeare
    n_seq = 256 + 2 if stride == 1 else 600
    ids = np.random.default_rng(3).integers(0, 1023, n_seq)
    inputs = [encoder.eot_token, *ids[:-1]]
    result = lens.score(ids, shakespeare, stride=stride)
    stride = stride or 128
    for at in (0, 255, 256, 257, n_seq - 1):
        window = 0 if at < 256 else (at - 256) // stride + 1  # the first that reaches this token
        logits = gpt2(inputs[window * stride : at + 1], **params, n_head=hparams["n_head"], n_logits=1)[0].astype(float)
        assert result.log_probs[at] == pytest.approx(logits[ids[at]] - np.log(np.exp(logits).sum()), abs=1e-3)


def test_the_held_out_text_scores_what_the_readme_says(shakespeare):
    if not CORPUS.is_file():
        pytest.skip(f"{CORPUS} is not there: the held-out text is its last tenth")
    text = CORPUS.read_text(encoding="utf-8")
    readme = (MODELS / "shakespeare" / "README.md").read_text(encoding="utf-8")
    result = lens.score(text[len(text) * 9 // 10 :], shakespeare, stride=256)
    assert result.n_bytes == 111_540
    assert f"**{result.bits_per_byte:.3f} bits per byte in windows of 256 tokens side by side" in readme


def test_attention(shakespeare):
    encoder, hparams, params = shakespeare
    seen = {}
    gpt2(encoder.encode(TEXT), **params, n_head=hparams["n_head"], hook=seen.__setitem__)
    result = lens.attention(TEXT, shakespeare, layer=3)
    np.testing.assert_allclose(result.pattern, seen["blocks.3.attn.pattern"], atol=1e-6)
    assert result.heads == [0, 1, 2, 3, 4, 5] and result.pieces[:5] == ["First", "·C", "itizen", ":", "↵"]
    one = lens.attention(TEXT, shakespeare, layer=3, head=4)
    np.testing.assert_array_equal(one.pattern, result.pattern[4:5])
    even = lens.attention(TEXT, shakespeare, 3, hook=lambda name, x: np.ones_like(x) if "pattern" in name else None)
    assert (even.pattern == 1).all()  # what the hook put there is what is shown


def test_logit_lens(shakespeare):
    encoder, hparams, params = shakespeare
    seen = {}
    logits = gpt2(encoder.encode(TEXT), **params, n_head=hparams["n_head"], hook=seen.__setitem__)
    np.testing.assert_allclose(lens.unembed(seen["blocks.5.resid_post"], params), logits, atol=1e-4)
    pieces, ids, predictions, probabilities = lens.logit_lens(TEXT, shakespeare, k=2)
    assert ids.shape == predictions.shape == probabilities.shape == (6, len(pieces), 2)
    np.testing.assert_array_equal(ids[-1, :, 0], logits.argmax(-1))
    p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities[-1], np.sort(p)[:, :-3:-1], atol=1e-4)
    np.testing.assert_array_equal(ids[2, :, 0], lens.unembed(seen["blocks.2.resid_post"], params).argmax(-1))
    assert predictions[-1, -1, 0] == "·C"


def test_tokens_show_what_is_invisible(shakespeare):
    assert lens.tokens(KOREAN, shakespeare).pieces == [
        "<0xEC>", "<0x95>", "<0x88>", "<0xEB>", "<0x85>", "<0x95>", "·", "$", "x", "$", "·", "<0xF0>", "<0x9F>",
        "<0xA4>", "<0x96>", "⇥", "↵"]
    assert lens.visible(" 안\x07\u200b\u0301".encode() + b"\xed\xa0\x80") == (
        "·안<U+0007><U+200B><U+0301><0xED><0xA0><0x80>")
    assert lens.tokens("", shakespeare).pieces == ["<|endoftext|>"]
    assert lens.tokens(np.array([46, 78]), shakespeare).pieces == ["O", "o"]


def test_neighbours(shakespeare):
    encoder, _, params = shakespeare
    wte = params["wte"].astype(float)
    unit = wte / np.linalg.norm(wte, axis=1, keepdims=True)
    king, he, she = (encoder.encode(word)[0] for word in (" king", " he", " she"))
    result = lens.neighbours("king", shakespeare, k=1023)
    np.testing.assert_allclose(result.similarities, np.sort(np.delete(unit @ unit[king], king))[::-1], atol=1e-5)
    np.testing.assert_allclose(result.similarities, (unit @ unit[king])[result.ids], atol=1e-5)
    assert result.pieces[0] == "·queen" and king not in result.ids
    direction = unit[king] - unit[he] + unit[she]
    result = lens.neighbours(f"king - ' he' + #{she}", shakespeare, k=3)
    cosines = unit @ direction / np.linalg.norm(direction)
    np.testing.assert_allclose(result.similarities, cosines[result.ids], atol=1e-5)
    assert result.pieces[0] == "·queen" and result.expression == "·king - ·he + ·she"
    assert lens.neighbours("'O'", shakespeare).expression == "O"
    assert lens.neighbours("O", shakespeare).expression == "·O"
    assert lens.neighbours("- king + '+'", shakespeare).expression == "- ·king + +"


def test_parameters_add_up(shakespeare, tiny):
    for hparams, params in (shakespeare[1:], tiny[0][1:]):
        n_vocab, n_ctx, n, n_layer = (hparams[key] for key in ("n_vocab", "n_ctx", "n_embd", "n_layer"))
        result = lens.parameters((None, hparams, params))
        assert result.total == result.counts.sum() == n * (n_vocab + n_ctx + 2 + n_layer * (12 * n + 13))
        counts = dict(zip(result.names, result.counts))
        assert counts["wte"] == n_vocab * n
        assert counts[f"blocks.0-{n_layer - 1}.mlp.c_fc"] == n_layer * (4 * n * n + 4 * n)


@pytest.mark.parametrize("ask, error, message", [
    (lambda m: lens.next_tokens("x", m, k=0), ValueError, r"k must be a whole number from 1 to 1024 .*, not 0"),
    (lambda m: lens.next_tokens("x", m, k=2.0), TypeError, "k must be a whole number .* not 2.0"),
    (lambda m: lens.next_tokens("x", m, temperature=-1), ValueError, "temperature must be a finite number, .* not -1"),
    (lambda m: lens.next_tokens("x", m, temperature="1"), TypeError, "temperature must be a finite number, .* not '1'"),
    (lambda m: lens.next_tokens("x " * 300, m), ValueError, "more than the context of 256"),
    (lambda m: lens.score("", m), ValueError, "nothing to score: the text is empty"),
    (lambda m: lens.score("x", m, stride=257), ValueError, "stride must be a whole number from 1 to 256 .*, not 257"),
    (lambda m: lens.attention("x", m, layer=6), ValueError, "layer must be a whole number from 0 to 5 .*, not 6"),
    (lambda m: lens.attention("x", m, head=-1), ValueError, "head must be a whole number from 0 to 5 .*, not -1"),
    (lambda m: lens.logit_lens([2000], m), ValueError, "token id 2000 is not in the vocabulary"),
    (lambda m: lens.neighbours("king - sister", m), ValueError, "sister is not one token .* ·s is ter and s is ter;"),
    (lambda m: lens.neighbours("' sister'", m), ValueError, "' sister' is not one token .* are ·s is ter;"),
    (lambda m: lens.neighbours("king queen", m), ValueError, "between 'king' and 'queen' a . or - is missing"),
    (lambda m: lens.neighbours("king -", m), ValueError, "ends with an operator"),
    (lambda m: lens.neighbours(" ", m), ValueError, "has no term"),
    (lambda m: lens.neighbours("king - king", m), ValueError, "cancel each other out"),
    (lambda m: lens.neighbours("#1024", m), ValueError, "token id 1024 is not in the vocabulary"),
    (lambda m: lens.neighbours(["king"], m), TypeError, "the expression must be a str"),
])
def test_what_cannot_be_answered_is_refused(shakespeare, ask, error, message):
    with pytest.raises(error, match=message):
        ask(shakespeare)


# --- pictures ---


def draw(plot, result):
    """The Axes of a picture without a display, drawn once; a character that the font lacks is an error."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    ax = plot(result, figure)
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    assert read_png(file.getvalue())[2] > 20
    assert ax.figure is figure
    return ax


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", [KOREAN, "x", (TEXT * 3)[:110]], ids=["korean", "one", "long"])
def test_plots_show_every_token(shakespeare, text):
    result = lens.tokens(text, shakespeare)
    pieces, n = result.pieces, len(result.pieces)
    assert n == {KOREAN: 17, "x": 1}.get(text, n) and (n < 18 or 40 <= n < 50)
    ticks = lambda axis: [label.get_text() for label in axis.get_ticklabels()]
    ax = draw(lens.plot_tokens, result)
    assert [t.get_text() for t in ax.texts] == [s for i, piece in zip(result.ids, pieces) for s in (piece, str(i))]
    ax = draw(lens.plot_attention, lens.attention(text, shakespeare, 1, 5))
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == pieces
    pattern = ax.images[0].get_array()
    np.testing.assert_array_equal(pattern.mask, np.triu(np.ones((n, n), bool), 1))  # the causal mask is seen
    assert "token" in ax.get_xlabel() and "token" in ax.get_ylabel() and len(ax.figure.axes) == 2  # the colour bar
    ax = draw(lens.plot_attention, lens.attention(text, shakespeare, 1))
    assert len(ax.images) == 6 and ticks(ax.xaxis) == pieces * 3 and ticks(ax.yaxis) == pieces * 2
    ax = draw(lens.plot_logit_lens, lens.logit_lens(text, shakespeare))
    assert ticks(ax.yaxis) == pieces and len(ax.texts) == 6 * n and len(ax.figure.axes) == 2
    ax = draw(lens.plot_score, lens.score(text, shakespeare))
    assert ticks(ax.xaxis) == pieces and len(ax.patches) == n


@pytest.mark.filterwarnings("error")
def test_bar_plots_and_a_given_axes(shakespeare):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3))
    for plot, result in ((lens.plot_next_tokens, lens.next_tokens(TEXT, shakespeare, k=7)),
                         (lens.plot_neighbours, lens.neighbours("king", shakespeare, k=7)),
                         (lens.plot_parameters, lens.parameters(shakespeare))):
        ax = draw(plot, result)
        assert len(ax.patches) == len(result[0]) and ax.get_xlabel() and ax.get_ylabel()
        given = figure.add_subplot()
        assert plot(result, given) is given
        assert [bar.get_width() for bar in given.patches] == list(result[2])
    assert figure.get_size_inches().tolist() == [9, 3]  # the figure of a given Axes stays as it is


def test_characters_that_the_font_lacks_are_named(shakespeare):
    labels = legible(["안", "·↵⇥", "🤖", "a" * 30])
    assert labels == ["<U+C548>", "·↵⇥", "<U+1F916>", "a" * 13 + "…"]


def test_without_matplotlib_the_numbers_come_and_the_error_says_what_to_install(shakespeare, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        lens.plot_tokens(lens.tokens("x", shakespeare))


# --- the commands ---

COMMANDS = {
    "next_tokens": ([TEXT, "--k", "3"], ["·C", "417", "70.8", "█"], 3 + 1),
    "score": ([TEXT], ["log-probability", "bits per byte", "perplexity", "itizen"], 1 + 21 + 1 + 6),
    "attention": ([TEXT, "--layer", "1", "--head", "5", "--k", "2"], ["looks at", "2 itizen"], 1 + 21),
    "logit_lens": ([TEXT], ["layer 5", "·C 71%"], 1 + 21),
    "tokens": ([TEXT], ["itizen", "891"], 1 + 21),
    "neighbours": (["king - he + she", "--k=4"], ["·queen", "832"], 1 + 4),
    "parameters": ([], ["blocks.0-5.mlp.c_fc", "2,915,328"], 1 + 9 + 1),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_pictures(run, command, tmp_path):
    arguments, shown, n_lines = COMMANDS[command]
    result = run(command, *arguments, *BUNDLED, "--out", str(tmp_path / "it.png"), program="lens.py",
                 env={"DISPLAY": "", "MPLBACKEND": "TkAgg"})  # the pictures need no display
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == n_lines, result.stdout
    for text in shown:
        assert text in result.stdout
    assert result.stderr == f"the picture is in {tmp_path / 'it.png'}\n"
    width, height, n_values = read_png((tmp_path / "it.png").read_bytes())
    assert 300 < width < 2000 and 100 < height < 2000 and n_values > 20


def test_commands_take_text_that_looks_like_a_number_and_stdin(run):
    for text in ("123", "[1, 2]", "-5"):
        result = run("tokens", text, *BUNDLED, program="lens.py")
        pieces = [line.split()[1] for line in result.stdout.splitlines()[1:]]
        assert "".join(pieces).replace("·", " ") == text, result.stderr
    assert run("tokens", *BUNDLED, program="lens.py", input="123\n").stdout == run(
        "tokens", "123", *BUNDLED, program="lens.py").stdout


def test_score_of_a_file_longer_than_the_context(run, tmp_path, shakespeare):
    text = "".join(f"ROMEO:\nIt is the {n}th night.\n\n" for n in range(40)) + "안녕"
    path = tmp_path / "123"
    path.write_bytes(text.encode())
    result = run("score", "--file", str(path), "--stride", "200", *BUNDLED, program="lens.py")
    expected = lens.score(text, shakespeare, stride=200)
    assert len(expected.ids) > 256
    rows = dict(line.rsplit(None, 1) for line in result.stdout.splitlines())
    assert rows == {"tokens": f"{len(expected.ids):,}", "bytes": f"{len(text.encode()):,}",
                    "total log-probability": f"{expected.total:.3f}", "perplexity": f"{expected.perplexity:,.3f}",
                    "total in bits": f"{-expected.total / math.log(2):.3f}",
                    "bits per byte": f"{expected.bits_per_byte:.4f}"}
    assert "--each True" in result.stderr


@pytest.mark.parametrize("arguments, status, message", [
    ([], 2, "which command? next_tokens, score"),
    (["next_token", "x"], 2, "unknown command 'next_token' (did you mean 'next_tokens'?)"),
    (["tokens", "x", "--layer", "1"], 2, "unknown option '--layer'"),
    (["attention", "x", "--layer", "9"], 1, "layer must be a whole number from 0 to 5 (the last layer), not 9"),
    (["tokens", "x", "--out", "a.txt"], 1, "--out a.txt: the picture's file must end in .png, .pdf or .svg"),
    (["tokens", "x", "--out", "none/a.png"], 1, "--out none/a.png: the folder"),
    (["score", "x", "--file", "y"], 1, "score a text or a file, not both: got 'x' and --file y"),
    (["score", "--file", "nowhere.txt"], 1, "nowhere.txt"),
    (["neighbours", "sister"], 1, "its pieces are ·s is ter"),
])
def test_bad_commands_are_one_line(run, arguments, status, message):
    result = run(*arguments, *(BUNDLED if arguments else ()), program="lens.py")
    assert result.returncode == status and result.stdout == ""
    assert message in result.stderr and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_commands_without_matplotlib(run, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('hidden')")
    env = {"PYTHONPATH": str(tmp_path)}
    assert "891" in run("tokens", TEXT, *BUNDLED, program="lens.py", env=env).stdout
    result = run("tokens", TEXT, *BUNDLED, "--out", "x.png", program="lens.py", env=env)
    assert result.returncode == 1 and result.stdout == "" and "pip install matplotlib" in result.stderr


def test_the_readme_shows_what_the_commands_print(run):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ python lens.py (.*)\n((?:(?!\$ |```).*\n)+)", readme, re.M)
    assert len(shown) == 2
    for command, printed in shown:
        assert run(*shlex.split(command), program="lens.py").stdout == printed


def test_without_a_model_offline_the_bundled_one_answers(run, tmp_path):
    result = run("parameters", "--models_dir", str(tmp_path), program="lens.py")
    assert "2,915,328" in result.stdout and "bundled model" in result.stderr
    assert lens.parameters(load_encoder_hparams_and_params("shakespeare", MODELS)).total == 2_915_328
