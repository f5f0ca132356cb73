"""What each question answers: against formulas written out again, TransformerLens, and known behaviour."""
import doctest
import importlib
import json
import math
import sys

import numpy as np
import pytest
from helpers import DATA, KOREAN, MODELS, ROOT, TEXT, random_model, without_head

import lens
from gpt2 import generate, gpt2

CLEAN = "First Gentleman:\nSpeak.\n\nSecond Gentleman:\nNo.\n\nFirst"
CORRUPTED = "First Servant:\nSpeak.\n\nSecond Servant:\nNo.\n\nFirst"
CORPUS = ROOT.parent / "shared" / "corpus" / "tinyshakespeare.txt"


# --- what comes next, how likely, where the heads look ---


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


@pytest.mark.parametrize("ask", [lens.patching, lens.path_patching])
def test_equal_texts_are_refused_before_the_sweep(shakespeare, monkeypatch, ask):
    monkeypatch.setattr(sys.modules[ask.__module__], "sweep", None)
    with pytest.raises(ValueError, match="logit of ·of is the same after both"):
        ask("The king", "The king", shakespeare, " of")


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


@pytest.mark.slow
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


# --- which part did it: against TransformerLens ---


@pytest.fixture(scope="module")
def theirs():
    """TransformerLens's answers (tests/data/make_transformer_lens.py), the arguments and the model they are about."""
    with np.load(DATA / "transformer-lens.npz") as arrays:
        arrays = dict(arrays)
    arguments = json.loads(str(arrays["arguments"]))
    return arrays, arguments, random_model(**arguments["model"])


def assert_close(ours, theirs):
    """Equal to a thousandth of the largest value."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * np.abs(theirs).max())


def test_the_logits_are_transformer_lenss(theirs):
    arrays, arguments, model = theirs
    assert_close(model.logits(arguments["clean"]), arrays["logits"])


@pytest.mark.parametrize("against_wrong", [False, True])
def test_attribution_is_transformer_lenss(theirs, against_wrong):
    arrays, arguments, model = theirs
    wrong, suffix = (arguments["wrong"], " against wrong") if against_wrong else (None, "")
    logits = arrays["logits"][-1]
    total = logits[arguments["answer"]] - (logits[wrong] if against_wrong else 0)

    result = lens.attribution(arguments["clean"], model, arguments["answer"], wrong)
    labels = [name.replace("blocks.", "").replace(".", "_") for name in result.names]
    assert labels == [*arrays["parts labels"], "ln_f_b"]
    assert_close(result.values, np.append(arrays["parts" + suffix], arrays["bias" + suffix]))
    assert result.values.sum() == pytest.approx(total, rel=1e-3)

    by_head = lens.attribution(arguments["clean"], model, arguments["answer"], wrong, heads=True)
    values = dict(zip(by_head.names, by_head.values))
    heads = [values[f"blocks.{layer}.attn.z.{head}"] for layer in range(3) for head in range(4)]
    assert_close(np.array(heads), arrays["heads" + suffix])
    assert by_head.values.sum() == pytest.approx(total, rel=1e-3)
    assert len(values) == 2 + 3 * (4 + 1 + 1) + 1


@pytest.mark.parametrize("by", ["zero", "mean"])
@pytest.mark.parametrize("what", ["z", "attn_out", "mlp_out"])
def test_ablation_is_transformer_lenss(theirs, what, by):
    arrays, arguments, model = theirs
    result = lens.ablation(arguments["clean"], model, arguments["answer"], what, by)
    assert_close(result.change, arrays[f"ablation {what} {by}"])
    logits = arrays["logits"][-1].astype(float)
    assert result.log_prob == pytest.approx(logits[arguments["answer"]] - np.log(np.exp(logits).sum()), abs=1e-4)


def texts_and_answers(arguments, model):
    return {"model": model, **{name: arguments[name] for name in ("clean", "corrupted", "answer", "wrong")}}


@pytest.mark.parametrize("at", ["resid_pre", "attn_out", "mlp_out", "resid_mid", "z", "q", "k", "v", "pattern"])
def test_patching_is_transformer_lenss(theirs, at):
    arrays, arguments, model = theirs
    result = lens.patching(**texts_and_answers(arguments, model), at=at)
    assert_close(result.grid, arrays[f"patching {at}"])
    if at == "z":  # attn.result is z times c_proj: the same
        assert_close(lens.patching(**texts_and_answers(arguments, model), at="result").grid, arrays["patching z"])
        by_position = lens.patching(**texts_and_answers(arguments, model), at="z", by_position=True)
        assert_close(by_position.grid, arrays["patching z by position"])


@pytest.mark.parametrize("at", ["resid_pre", "mlp_out", "z", "pattern"])
def test_attribution_patching_is_the_difference_times_autograds_gradient(theirs, at):
    arrays, arguments, model = theirs
    grid = lens.attribution_patching(**texts_and_answers(arguments, model), at=at).grid
    assert_close(grid, arrays[f"attribution patching {at}"])
    if at in ("z", "pattern"):
        by_position = lens.attribution_patching(**texts_and_answers(arguments, model), at=at, by_position=True).grid
        assert_close(by_position.sum(axis=-1), grid)
    if at == "z":
        result = lens.attribution_patching(**texts_and_answers(arguments, model), at="result").grid
        assert_close(result, grid)


def test_attribution_patching_estimates_patching_where_little_changes(shakespeare):
    texts = ("First Murderer. Second Murderer. First", "First Senator. Second Senator. First")
    exact, estimated = (ask(*texts, shakespeare, " M", " S", at="z").grid
                        for ask in (lens.patching, lens.attribution_patching))
    assert np.abs(exact - estimated).max() < 0.03 < 0.1 < exact.max()  # single heads
    exact, estimated = (ask(*texts, shakespeare, " M", " S").grid for ask in (lens.patching, lens.attribution_patching))
    assert exact[0, 2] > 0.4 and estimated[0, 2] < 0.05  # a whole embedding: docs/looking-inside.md says so


def test_path_patching_is_transformer_lenss(theirs):
    arrays, arguments, model = theirs
    for receiver in arguments["receivers"]:
        grid = lens.path_patching(**texts_and_answers(arguments, model), receiver=receiver).grid
        assert_close(grid, arrays[f"path {receiver}"])
        assert np.abs(grid).max() > 1e-3


def test_circuits_are_transformer_lenss(theirs):
    arrays, _, model = theirs
    q, k, v, ov, qk = lens.circuits(model)
    for ours, kind in ((q, "Q"), (k, "K"), (v, "V")):
        assert_close(ours, arrays[f"composition {kind}"])
    assert_close(ov, arrays["singular values OV"])
    assert_close(qk, arrays["singular values QK"])


def test_unrelated_heads_score_one_over_the_root_of_the_width():
    q, k, v, *_ = lens.circuits(random_model(n_embd=256, n_head=4, n_layer=2))
    for scores in (q, k, v):
        np.testing.assert_allclose(scores[0, :, 1], 1 / 16, rtol=0.1)


def test_induction_scores_are_transformer_lenss(theirs):
    arrays, arguments, model = theirs
    n = arguments["n"]
    result = lens.induction(model, n, arguments["seed"])
    # TransformerLens divides by all 2 * n queries, not by those that can have the score
    assert_close(result.induction * n / (2 * n), arrays["induction"])
    assert_close(result.previous * (2 * n - 1) / (2 * n), arrays["previous"])
    assert_close(result.duplicate * n / (2 * n), arrays["duplicate"])
    ids = np.tile(np.random.default_rng(arguments["seed"]).choice(97, n, replace=False), 2)
    for name in ("induction", "previous", "duplicate", "first"):
        assert_close(lens.detect_heads(ids, model, name).scores, getattr(result, name))
    assert_close(lens.detect_heads(ids, model, arrays["own pattern"]).scores, arrays["own"])
    seen = lens.record("blocks.*.attn.pattern")
    model.logits(ids, hook=seen)
    assert_close(result.first, np.array([pattern[:, 1:, 0].mean(axis=1) for pattern in seen.values()]))


def test_perfect_heads_score_one(shakespeare):
    def hook(name, pattern):
        """Layer 2: head 3 completes patterns, head 4 looks at the previous token."""
        if name == "blocks.2.attn.pattern":
            pattern = np.zeros_like(pattern)
            pattern[3] = np.eye(20, k=-9)  # 10 tokens earlier, and one on
            pattern[4] = np.eye(20, k=-1)
            pattern[5] = np.eye(20, k=-10)
            pattern[0, :, 0] = 1
            return pattern

    scores = lens.induction(shakespeare, n=10, hook=hook)
    for found, head in zip(scores, (3, 4, 5, 0)):
        assert found[2, head] == 1 and found[2, [1, 2]].tolist() == [0, 0]
    assert scores.induction[[0, 1, 3, 4, 5]].max() < 0.5


# --- which part did it: the bundled model ---


def test_ablation_finds_the_head_that_looks_back_to_the_names(shakespeare):
    change = lens.ablation(TEXT, shakespeare, " C").change
    assert np.unravel_index(change.argmin(), change.shape) == (1, 5)
    assert change[1, 5] < -0.4 and np.sort(change.ravel())[1] > -0.3
    assert lens.next_tokens(TEXT, shakespeare, k=1).pieces == ["·C"]
    assert lens.next_tokens(TEXT, shakespeare, k=1, hook=lens.zero(1, 5)).pieces == ["·S"]


def test_attribution_finds_it_too(shakespeare):
    names, values = lens.attribution(TEXT, shakespeare, " C", " S", heads=True)
    assert names[values.argmax()] == "blocks.1.attn.z.5"
    logits = shakespeare.logits(shakespeare.encoder.encode(TEXT))[-1]
    c, s = (shakespeare.encoder.encode(text)[0] for text in (" C", " S"))
    assert values.sum() == pytest.approx(logits[c] - logits[s], abs=1e-3)
    assert lens.attribution(TEXT, shakespeare, c).values.sum() == pytest.approx(logits[c], abs=1e-3)


def test_attribution_with_a_hook_explains_the_hooked_model(shakespeare):
    values = lens.attribution(TEXT, shakespeare, " C", " S", hook=lens.zero(1, 5)).values
    logits = shakespeare.logits(shakespeare.encoder.encode(TEXT), hook=lens.zero(1, 5))[-1]
    c, s = (shakespeare.encoder.encode(text)[0] for text in (" C", " S"))
    assert values.sum() == pytest.approx(logits[c] - logits[s], abs=1e-3) and values.sum() < 0


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("hook", [lens.zero(1, what="attn_out"), lens.zero(3, what="resid_pre"), lambda name, x: None])
def test_attributions_parts_add_up_to_the_logit_whatever_the_hook_changes(shakespeare, heads, hook):
    names, values = lens.attribution(TEXT, shakespeare, 417, heads=heads, hook=hook)
    logit = shakespeare.logits(shakespeare.encode(TEXT), hook=hook)[-1, 417]
    assert names[-1] == "hook" and values.sum() == pytest.approx(logit, abs=1e-3)


def test_patching_a_whole_stream_brings_the_clean_answer_back(shakespeare):
    result = lens.patching(CLEAN, CORRUPTED, shakespeare, " G", " S")
    names = [i for i, (a, b) in enumerate(zip(result.clean, result.corrupted)) if a != b]
    assert [result.clean[i] for i in names] == ["·G", "entle", "man"] * 2
    first, last = result.grid[0], result.grid[-1]
    np.testing.assert_allclose(np.delete(first, names), 0, atol=1e-3)  # before layer 0 only the names differ
    assert last[-1] > 0.5 > np.abs(last[:-1]).max()  # before the last layer the answer is at the last position
    same = lens.patching(CLEAN, CORRUPTED, shakespeare, " G", " S", hook=lambda name, x: None)
    np.testing.assert_allclose(same.grid, result.grid, atol=1e-4)


def test_many_texts_give_the_mean_and_its_standard_error(shakespeare):
    texts, answers = [TEXT, TEXT.replace("Citizen", "Senator"), TEXT.replace("Citizen", "Servant")], [" C", " S", " G"]
    for ask, options in ((lens.ablation, {}), (lens.attribution, {"wrong": " M"})):
        each = [ask(text, shakespeare, answer, **options) for text, answer in zip(texts, answers)]
        mean = ask(texts, shakespeare, answers, **options)
        arrays = np.array([next(field for field in result if isinstance(field, np.ndarray)) for result in each])
        found = next(field for field in mean if isinstance(field, np.ndarray))
        np.testing.assert_allclose(found, arrays.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(mean.standard_error, arrays.std(axis=0, ddof=1) / np.sqrt(3), atol=1e-6)
        assert mean.n_texts == 3 and each[0].standard_error is None and "for 2 more texts" in mean.title
        assert "±" in str(mean.table()) and "±" not in str(each[0].table())
    assert mean.names == each[0].names
    assert lens.ablation(texts, shakespeare, answers).baseline[0].says == "the answer in 2 of 3 texts"


def test_pairs_of_texts_give_the_mean_too(shakespeare):
    clean, corrupted = ["First Murderer. First", "Second Servant. Second"], ["First Senator. First"] * 2
    for ask in (lens.patching, lens.attribution_patching):
        each = [ask(a, b, shakespeare, answer, " S", at="z") for a, b, answer in zip(clean, corrupted, (" M", " C"))]
        mean = ask(clean, corrupted, shakespeare, [" M", " C"], " S", at="z")
        np.testing.assert_allclose(mean.grid, (each[0].grid + each[1].grid) / 2, atol=1e-6)
        np.testing.assert_allclose(mean.standard_error, np.abs(each[0].grid - each[1].grid) / 2, atol=1e-6)
        assert mean.clean[0] == "…" and mean.corrupted[0] == "First"  # where the texts differ
        for run, *runs in zip(mean.baseline, *(result.baseline for result in each)):
            assert run.value == pytest.approx(np.mean([one.value for one in runs])) and "of 2 texts" in run.says


@pytest.mark.slow
def test_a_position_is_the_end_of_a_shorter_text(shakespeare):
    shorter = "First Murderer. Second"
    longer, other = shorter + " Murderer. First", "First Senator. Second Senator. First"
    n = len(shakespeare.encode(shorter))
    for position in (n - 1, n - 1 - len(shakespeare.encode(longer))):
        for ask in (lens.ablation, lens.attribution):
            array = 0 if ask is lens.ablation else 1
            found, alone = ask(longer, shakespeare, " M", position=position), ask(shorter, shakespeare, " M")
            np.testing.assert_array_equal(found[array], alone[array])
        grid = lens.patching(longer, other, shakespeare, " M", position=position).grid
        alone = lens.patching(shorter, other[: other.index("Second") + 6], shakespeare, " M").grid
        np.testing.assert_array_equal(grid, alone)


def test_a_mean_over_a_data_set_takes_a_head_out(shakespeare):
    texts, names = [TEXT, TEXT.replace("Citizen", "Senator")], [f"blocks.{i}.attn.z" for i in range(6)]
    seen = [lens.record(names) for _ in texts]
    for text, values in zip(texts, seen):
        shakespeare.logits(shakespeare.encode(text), hook=values)
    means = {name: np.mean([values[name].mean(axis=0) for values in seen], axis=0) for name in names}
    change = lens.ablation(TEXT, shakespeare, " C", by=means).change
    ids, c = shakespeare.encode(TEXT), shakespeare.encode(" C")[0]
    plain, hooked = (lens.next_tokens(ids, shakespeare, k=1024, hook=hook)
                     for hook in (None, lens.mean(1, 5, values=means["blocks.1.attn.z"])))
    p, q = (result.probabilities[result.ids == c][0] for result in (plain, hooked))
    assert change[1, 5] == pytest.approx(math.log(q / p), abs=1e-4)


def test_a_notebook_shows_results_as_tables(shakespeare):
    for ask in (lens.ablation, lens.attribution):
        result = ask(TEXT + "<b>", shakespeare, " C")
        shown = result._repr_html_()
        tables = result.table() if isinstance(result.table(), list) else [result.table()]
        assert shown.count("<table>") == len(tables) and "<b>" not in shown and "&lt;b&gt;" in shown
        for row in tables[-1].rows:
            assert all(f">{cell}</td>" in shown for cell in row)
    about_a_text = (lens.tokens, lens.next_tokens, lens.logit_lens, lens.score, lens.attention, lens.saliency)
    about_the_model = (lens.parameters, lens.circuits, lens.induction)
    for result in (*(ask("king", shakespeare) for ask in (*about_a_text, lens.neighbours)),
                   *(ask(shakespeare) for ask in about_the_model), lens.detect_heads("O Romeo", shakespeare, "first"),
                   lens.patching("O Romeo", "A Romeo", shakespeare, " C")):
        assert "<table>" in result._repr_html_(), result


def test_what_an_ablation_is_compared_with_comes_first(shakespeare, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr("inside.answers.logger.warning", warnings.append)
    result = lens.ablation(TEXT, shakespeare, " C")
    (whole,) = result.baseline
    assert (whole.says, whole.right) == ("·C", True) and whole.value == result.log_prob
    first, _ = result.table()
    assert first.header == ["", "log-probability of ·C", "the model says"]
    assert first.rows == [["whole model", f"{result.log_prob:.2f}", f"·C {math.exp(result.log_prob):.0%}"]]
    clean, corrupted = lens.patching(CLEAN, CORRUPTED, shakespeare, " G", " S").baseline
    logits = shakespeare.logits(shakespeare.encode(CORRUPTED))[-1]
    g, s = (shakespeare.encode(text)[0] for text in (" G", " S"))
    assert corrupted.value == pytest.approx(logits[g] - logits[s], abs=1e-4) and clean.value > corrupted.value
    assert warnings == []
    lens.ablation(TEXT, shakespeare, "C")
    lens.ablation("First Citizen:\n", shakespeare, " I")
    assert "the answer 'C' has a probability of 0.0% here, and ' C', with a space before it, one of 7" in warnings[0]
    assert "the answer ' I'" in warnings[1] and "'I', without a space before it" in warnings[1]


def test_an_answer_may_be_given_by_its_id(shakespeare):
    c = shakespeare.encoder.encode(" C")[0]
    by_text, by_id, by_number = (lens.attribution(TEXT, shakespeare, answer).values for answer in (" C", c, f"#{c}"))
    np.testing.assert_array_equal(by_text, by_id)
    np.testing.assert_array_equal(by_text, by_number)


@pytest.mark.parametrize("path", sorted((ROOT / "inside").glob("*.py")), ids=lambda path: path.stem)
def test_the_examples_in_docstrings_are_true(shakespeare, path):
    module = importlib.import_module("inside" if path.stem == "__init__" else f"inside.{path.stem}")
    failed, tried = doctest.testmod(module, extraglobs={"model": shakespeare, "np": np})
    assert failed == 0
    questions = [name for name in lens.COMMANDS if name == path.stem and hasattr(lens, name)]  # a server is none
    assert tried > 0 or not questions  # each question has an example


# --- what is refused ---


@pytest.mark.parametrize("ask, error, message", [
    (lambda m: lens.next_tokens("x", m, k=0), ValueError, r"k must be a whole number from 1 to 1024 .*, not 0"),
    (lambda m: lens.next_tokens("x", m, k=2.0), TypeError, "k must be a whole number .* not 2.0"),
    (lambda m: lens.next_tokens("x", m, temperature=-1), ValueError, "temperature must be a finite number, .* not -1"),
    (lambda m: lens.next_tokens("x", m, temperature="1"), TypeError, "temperature must be a finite number, .* not '1'"),
    (lambda m: lens.next_tokens("x " * 300, m), ValueError, "exceed the context of 256"),
    (lambda m: lens.score("", m), ValueError, "nothing to score: the text is empty"),
    (lambda m: lens.score("x", m, stride=257), ValueError, "stride must be a whole number from 1 to 256 .*, not 257"),
    (lambda m: lens.attention("x", m, layer=6), ValueError, "layer must be a whole number from 0 to 5 .*, not 6"),
    (lambda m: lens.attention("x", m, head=-1), ValueError, "head must be a whole number from 0 to 5 .*, not -1"),
    (lambda m: lens.logit_lens([2000], m), ValueError, "token id 2000 is not in the vocabulary"),
    (lambda m: lens.neighbours("king - sister", m), ValueError, "sister is not one token .* ·s is ter and s is ter;"),
    (lambda m: lens.neighbours("king-he+she", m), ValueError, r"a \+ or - between two terms needs spaces around it"),
    (lambda m: lens.neighbours("' sister'", m), ValueError, "' sister' is not one token .* are ·s is ter;"),
    (lambda m: lens.neighbours("king queen", m), ValueError, "between 'king' and 'queen' a . or - is missing"),
    (lambda m: lens.neighbours("king -", m), ValueError, "ends with an operator"),
    (lambda m: lens.neighbours(" ", m), ValueError, "has no term"),
    (lambda m: lens.neighbours("king - king", m), ValueError, "cancel each other out"),
    (lambda m: lens.neighbours("#1024", m), ValueError, "token id 1024 is not in the vocabulary"),
    (lambda m: lens.neighbours(["king"], m), TypeError, "the expression must be a str"),
])
def test_a_bad_argument_of_a_question_is_refused(shakespeare, ask, error, message):
    with pytest.raises(error, match=message):
        ask(shakespeare)


@pytest.mark.parametrize("ask, error, message", [
    (lambda m: lens.record("blocks.1.attn.zz"), ValueError, "no value is called 'blocks.1.attn.zz': did you mean "
                                                            "'blocks.1.attn.z'"),
    (lambda m: lens.patch("resid", np.zeros(3)), ValueError, "no value is called 'resid'"),
    (lambda m: lens.zero(1, 0, "mlp"), ValueError, "no value is called 'blocks.1.mlp'"),
    (lambda m: m.logits([1, 2], hook=lens.zero(1, 6)), ValueError, "blocks.1.attn.z has no head 6: they are 0 to 5"),
    (lambda m: m.logits([1, 2], hook=lens.zero(1, 0, "mlp_out")), ValueError, "blocks.1.mlp_out has no heads; these"),
    (lambda m: m.logits([1, 2], hook=lens.patch("embed", np.zeros((3, 192)))), ValueError,
     r"to patch in for embed has shape \[3, 192\], but the value has \[2, 192\]: record it in the same model"),
    (lambda m: m.logits([1, 2], hook=lens.patch("embed", np.zeros((2, 192)), positions=2)), ValueError,
     "embed has no position 2: they are 0 to 1"),
    (lambda m: lens.sweep([1, 2], m, [lens.zero(6, 0)], len), ValueError,
     "the hook is for blocks.6.attn.z, but the model has layers 0 to 5 only"),
    (lambda m: lens.attribution("x", m, "sister"), ValueError, "answer must be one token, but 'sister' is 3: s is ter"),
    (lambda m: lens.attribution("x", m, "prince"), ValueError, "' prince', with a space before it, is one"),
    (lambda m: lens.attribution("x", m, ""), ValueError, "answer is empty"),
    (lambda m: lens.attribution("x", m, 1, wrong=1024), ValueError, "token id 1024 is not in the vocabulary"),
    (lambda m: lens.attribution("x", m, 1.5), TypeError, "token ids must be whole numbers, not 1.5"),
    (lambda m: lens.attribution("x", m, 1, heads="yes"), TypeError, "heads must be True or False, not 'yes'"),
    (lambda m: lens.ablation("x", m, 1, what="v"), ValueError, "what must be one of z, attn_out, mlp_out, not 'v'"),
    (lambda m: lens.ablation("x", m, 1, by="noise"), ValueError, "by must be one of zero, mean, not 'noise'"),
    (lambda m: lens.patching("x", "y", m, 1, at="u"), ValueError, "at must be one of resid_pre, .*, not 'u'"),
    (lambda m: lens.patching("x", "y", m, 1, at="mlp_out", by_position=True), ValueError, "mlp_out is patched by posi"),
    (lambda m: lens.path_patching("x", "y", m, 1, receiver="blocks.2.attn.z.1"), ValueError,
     "receiver must be logits, or .* such as blocks.5.attn.q.0, not 'blocks.2.attn.z.1'"),
    (lambda m: lens.path_patching("x", "y", m, 1, receiver="blocks.0.attn.q.1"), ValueError, "from 1 to 5 .*, not 0"),
    (lambda m: lens.path_patching("x", "y", m, 1, receiver="blocks.2.attn.q.6"), ValueError, "from 0 to 5 .*, not 6"),
    (lambda m: lens.detect_heads("x", m, "last"), ValueError, "pattern must be one of induction, .*, not 'last'"),
    (lambda m: lens.detect_heads("O Romeo", m, "duplicate"), ValueError, "duplicate marks nothing in this text of 3"),
    (lambda m: lens.detect_heads("O Romeo", m, np.ones((2, 3))), ValueError, r"each of the 3 tokens .* shape \[2, 3\]"),
    (lambda m: lens.detect_heads("O Romeo", m, np.full((3, 3), 2)), ValueError, "weights from 0 to 1"),
    (lambda m: lens.attribution(["x", "y"], m, 1, wrong=[2, None]), ValueError, "wrong is there for some of the texts"),
    (lambda m: lens.ablation("x", m, 1, by={"blocks.0.attn.z": np.zeros(192)}), ValueError, "no values for blocks.1"),
    (lambda m: lens.neighbours("+- king", m), ValueError, "one token of this vocabulary|is missing"),
    (lambda m: lens.attribution(["x", "y"], m, [1, 2, 3]), ValueError, "answer is a list of 3, but there are 2 texts"),
    (lambda m: lens.patching(["O Romeo", "O"], ["A Romeo", "A"], m, 1), ValueError, "different numbers of tokens"),
    (lambda m: lens.ablation("O Romeo", m, 1, position=3), ValueError, "position must be .* from -3 to 2 .*, not 3"),
    (lambda m: m.logits([1], hook=lens.zero(6, 1)), ValueError, "for blocks.6.attn.z, but the model has layers 0 to 5"),
    (lambda m: m.logits([1, 2], hook=lens.record("blocks.9.attn.z")), ValueError, "layers 0 to 5 only"),
    (lambda m: m.generate([1, 2], 2, hook=lens.mean(1)), ValueError, "needs the whole text, .* after 2 positions"),
    (lambda m: m.logits([1, 2], hook=lens.mean(1, values=np.zeros(3))), ValueError,
     r"mean of blocks.1.attn.z must have shape \[6, 32\], or \[2, 6, 32\] for each position, not \[3\]"),
    (lambda m: lens.patching("The king", "The mighty king", m, 1), ValueError,
     r"clean text has 2 tokens, the corrupted one 4: .*\nclean:     The ·king\ncorrupted: The ·might y ·king"),
    (lambda m: lens.patching("The king", "The king", m, " of"), ValueError, "logit of ·of is the same after both"),
    (lambda m: lens.induction(m, n=129), ValueError, "n must be a whole number from 2 to 128 .*, not 129"),
    (lambda m: lens.induction(m, seed=-1), ValueError, "seed must be a whole number"),
    (lambda m: lens.ablation("x", m._replace(encoder=None), 1), TypeError, "no tokenizer .*: give token ids"),
    (lambda m: lens.ablation([1], m._replace(encoder=None), "x"), TypeError, "no tokenizer .*: give the id of answer"),
])
def test_a_bad_intervention_is_refused(shakespeare, ask, error, message):
    with pytest.raises(error, match=message):
        ask(shakespeare)


@pytest.mark.parametrize("ask", [
    lambda model: lens.next_tokens("x", model), lambda model: lens.score("x", model),
    lambda model: lens.attention("x", model), lambda model: lens.logit_lens("x", model),
    lambda model: lens.tokens("x", model), lambda model: lens.neighbours("x", model), lens.parameters, lens.induction,
    lambda model: lens.attribution("x", model, 1), lambda model: lens.ablation("x", model, 1),
    lambda model: lens.patching("x", "y", model, 1), lambda model: lens.sweep([1], model, [], len),
])
@pytest.mark.parametrize("wrong, message", [
    (lambda model: model.params, "not params alone"), (lambda model: model.hparams, "not hparams alone"),
    (lambda model: model.encoder, "not Encoder"), (lambda model: model[1:], "not 2 values"),
    (lambda model: (model.encoder, model.params, model.hparams), "the second value must be the dict of sizes"),
], ids=["params", "hparams", "encoder", "two", "swapped"])
def test_something_else_than_the_model_is_refused(shakespeare, ask, wrong, message):
    with pytest.raises(TypeError, match=r"model must be \(encoder, hparams, params\), .*" + message):
        ask(wrong(shakespeare))
