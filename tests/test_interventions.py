"""Interventions: attribution, ablation, patching and induction against TransformerLens, and the hooks they combine."""
import json

import numpy as np
import pytest
from helpers import DATA, random_model

import lens
from gpt2 import gpt2

TEXT = "First Citizen:\nSpeak.\n\nSecond Citizen:\nNo.\n\nFirst"
CLEAN = "First Gentleman:\nSpeak.\n\nSecond Gentleman:\nNo.\n\nFirst"
CORRUPTED = "First Servant:\nSpeak.\n\nSecond Servant:\nNo.\n\nFirst"


# --- against TransformerLens ---


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
    assert_close(model.forward(arguments["clean"]), arrays["logits"])


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


@pytest.mark.parametrize("at", ["resid_pre", "attn_out", "mlp_out", "z"])
def test_patching_is_transformer_lenss(theirs, at):
    arrays, arguments, model = theirs
    result = lens.patching(*(arguments[name] for name in ("clean", "corrupted")), model, arguments["answer"],
                           arguments["wrong"], at)
    assert_close(result.grid, arrays[f"patching {at}"])


def test_induction_scores_are_transformer_lenss(theirs):
    arrays, arguments, model = theirs
    n = arguments["n"]
    result = lens.induction(model, n, arguments["seed"])
    # TransformerLens divides by all 2 * n queries, not by those that can have the score
    assert_close(result.induction * n / (2 * n), arrays["induction"])
    assert_close(result.previous * (2 * n - 1) / (2 * n), arrays["previous"])


# --- the bundled model ---


def test_ablation_finds_the_head_that_looks_back_to_the_names(shakespeare):
    change = lens.ablation(TEXT, shakespeare, " C").change
    assert np.unravel_index(change.argmin(), change.shape) == (1, 5)
    assert change[1, 5] < -0.4 and np.sort(change.ravel())[1] > -0.3
    assert lens.next_tokens(TEXT, shakespeare, k=1).pieces == ["·C"]
    assert lens.next_tokens(TEXT, shakespeare, k=1, hook=lens.zero(1, 5)).pieces == ["·S"]


def test_attribution_finds_it_too(shakespeare):
    names, values = lens.attribution(TEXT, shakespeare, " C", " S", heads=True)
    assert names[values.argmax()] == "blocks.1.attn.z.5"
    logits = shakespeare.forward(shakespeare.encoder.encode(TEXT))[-1]
    c, s = (shakespeare.encoder.encode(text)[0] for text in (" C", " S"))
    assert values.sum() == pytest.approx(logits[c] - logits[s], abs=1e-3)
    assert lens.attribution(TEXT, shakespeare, c).values.sum() == pytest.approx(logits[c], abs=1e-3)


def test_attribution_with_a_hook_explains_the_hooked_model(shakespeare):
    values = lens.attribution(TEXT, shakespeare, " C", " S", hook=lens.zero(1, 5)).values
    logits = shakespeare.forward(shakespeare.encoder.encode(TEXT), hook=lens.zero(1, 5))[-1]
    c, s = (shakespeare.encoder.encode(text)[0] for text in (" C", " S"))
    assert values.sum() == pytest.approx(logits[c] - logits[s], abs=1e-3) and values.sum() < 0


def test_patching_a_whole_stream_brings_the_clean_answer_back(shakespeare):
    result = lens.patching(CLEAN, CORRUPTED, shakespeare, " G", " S")
    names = [i for i, (a, b) in enumerate(zip(result.clean, result.corrupted)) if a != b]
    assert [result.clean[i] for i in names] == ["·G", "entle", "man"] * 2
    first, last = result.grid[0], result.grid[-1]
    np.testing.assert_allclose(np.delete(first, names), 0, atol=1e-3)  # before layer 0 only the names differ
    assert last[-1] > 0.5 > np.abs(last[:-1]).max()  # before the last layer the answer is at the last position
    same = lens.patching(CLEAN, CORRUPTED, shakespeare, " G", " S", hook=lambda name, x: None)
    np.testing.assert_allclose(same.grid, result.grid, atol=1e-4)


# --- hooks ---


def test_record_keeps_the_names_it_is_asked_for(shakespeare):
    ids = shakespeare.encoder.encode(TEXT)
    everything = lens.record()
    shakespeare.forward(ids, hook=everything)
    assert set(everything) == set(lens.hook_names(6)) and len(everything) == 4 + 15 * 6
    some = lens.record(["blocks.*.attn.z", "logits"])
    shakespeare.forward(ids, hook=some)
    assert set(some) == {"logits", *(f"blocks.{i}.attn.z" for i in range(6))}
    for name, array in some.items():
        np.testing.assert_array_equal(array, everything[name])
    with pytest.raises(KeyError, match="embed was not recorded: these are: blocks.0.attn.z"):
        some["embed"]


def test_zero_and_mean_change_one_head_only(shakespeare):
    ids, before = shakespeare.encoder.encode(TEXT), lens.record("blocks.1.attn.z")
    shakespeare.forward(ids, hook=before)
    z = before["blocks.1.attn.z"]
    for hook, expected in ((lens.zero(1, 5), np.zeros_like(z[:, 5])),
                           (lens.mean(1, 5), np.broadcast_to(z[:, 5].mean(axis=0), z[:, 5].shape))):
        after = lens.record("blocks.1.attn.z")
        shakespeare.forward(ids, hook=lens.compose(hook, after))
        np.testing.assert_allclose(after["blocks.1.attn.z"][:, 5], expected, atol=1e-6)
        np.testing.assert_allclose(after["blocks.1.attn.z"][:, :5], z[:, :5], atol=1e-5)
    attention_out = lens.record("blocks.2.attn_out")
    shakespeare.forward(ids, hook=lens.compose(lens.zero(2, what="attn_out"), attention_out))
    assert not attention_out["blocks.2.attn_out"].any()


@pytest.mark.parametrize("name, positions, heads, changed", [
    ("blocks.2.resid_pre", None, None, np.s_[:]),
    ("blocks.2.resid_pre", -1, None, np.s_[-1]),
    ("blocks.2.mlp.post", [0, 3], None, np.s_[[0, 3]]),
    ("blocks.2.attn.v", slice(2, 5), 1, np.s_[2:5, 1]),
    ("blocks.2.attn.z", None, [0, 4], np.s_[:, [0, 4]]),
    ("blocks.2.attn.pattern", 3, [0, 4], np.s_[[0, 4], 3]),
    ("blocks.2.attn.attn_scores", None, 2, np.s_[2]),
])
def test_patch_changes_some_positions_and_heads(shakespeare, name, positions, heads, changed):
    ids, seen = shakespeare.encoder.encode(TEXT), lens.record(name)
    shakespeare.forward(ids, hook=seen)
    array = np.full_like(seen[name], 7)
    expected = seen[name].copy()
    expected[changed] = 7
    after = lens.record(name)
    shakespeare.forward(ids, hook=lens.compose(lens.patch(name, array, positions, heads), after))
    np.testing.assert_allclose(after[name], expected, atol=1e-5)


def test_compose_gives_each_hook_what_the_one_before_it_left():
    add = lambda name, x: x + 1
    double = lambda name, x: 2 * x
    x = np.float32([3])
    assert lens.compose(add, double)("embed", x).tolist() == [8]
    assert lens.compose(double, None, add, lambda name, x: None)("embed", x).tolist() == [7]
    assert lens.compose()("embed", x) is None and lens.compose(None, lambda name, x: None)("embed", x) is None


def hooks_of_every_kind(seen):
    plain_function = lambda name, x: np.zeros_like(x) if name == "blocks.3.mlp_out" else None
    return [None, lens.zero(0, 3), lens.mean(1, 4), lens.zero(5, what="mlp_out"), plain_function,
            lens.patch("blocks.4.resid_pre", 2 * seen["blocks.4.resid_pre"], positions=2),
            lens.patch("blocks.2.resid_post", seen["embed"]), lens.patch("embed", seen["pos_embed"]),
            lens.patch("ln_final.normalized", seen["embed"][-1:]), lens.compose(lens.zero(4, 1), lens.mean(2, 2)),
            lens.compose(lens.zero(4, 1), plain_function)]


@pytest.mark.parametrize("base", [None, lens.zero(1, 5), lambda name, x: x / 2 if name.endswith("attn_out") else None])
def test_a_sweep_is_a_pass_for_each_intervention(shakespeare, base):
    ids, seen = shakespeare.encoder.encode(TEXT), lens.record()
    shakespeare.forward(ids, hook=seen)
    interventions = hooks_of_every_kind(seen)
    swept = lens.sweep(ids, shakespeare, iter(interventions), lambda logits: logits[-1], hook=base)
    expected = [shakespeare.forward(ids, n_logits=1, hook=lens.compose(base, hook))[-1] for hook in interventions]
    np.testing.assert_allclose(swept, expected, atol=2e-4)
    assert np.abs(swept[1:] - swept[0]).max(axis=1).min() > 0.01  # each changed something


def test_a_sweep_restarts_each_run_at_the_layer_where_it_differs(shakespeare):
    ids, n_blocks = shakespeare.encoder.encode(TEXT), []
    count = lambda name, x: n_blocks.append(name) if name.endswith("mlp_out") else None
    lens.sweep(ids, shakespeare, [lens.zero(4, 0), lens.zero(1, 0)], lambda logits: 0, hook=count)
    assert n_blocks == [f"blocks.{i}.mlp_out" for i in (0, 1, 2, 3, 4, 5, 4, 5, 1, 2, 3, 4, 5)]


def test_a_sweeps_metric_gets_as_many_rows_as_wanted(shakespeare):
    ids = shakespeare.encoder.encode(TEXT)
    for n_logits, expected in ((1, 1), (3, 3), (None, len(ids))):
        shapes = lens.sweep(ids, shakespeare, [lens.zero(5, 0)], lambda logits: logits.shape, n_logits=n_logits)
        assert shapes.tolist() == [[expected, 1024]]


# --- what is refused ---


@pytest.mark.parametrize("ask, error, message", [
    (lambda m: lens.record("blocks.1.attn.zz"), ValueError, "no value is called 'blocks.1.attn.zz': did you mean "
                                                            "'blocks.1.attn.z'"),
    (lambda m: lens.patch("resid", np.zeros(3)), ValueError, "no value is called 'resid'"),
    (lambda m: lens.zero(1, 0, "mlp"), ValueError, "no value is called 'blocks.1.mlp'"),
    (lambda m: m.forward([1, 2], hook=lens.zero(1, 6)), ValueError, "blocks.1.attn.z has no head 6: they are 0 to 5"),
    (lambda m: m.forward([1, 2], hook=lens.zero(1, 0, "mlp_out")), ValueError, "blocks.1.mlp_out has no heads; these"),
    (lambda m: m.forward([1, 2], hook=lens.patch("embed", np.zeros((3, 192)))), ValueError,
     r"to patch in for embed has shape \[3, 192\], but the value has \[2, 192\]: record it in a text of as many"),
    (lambda m: m.forward([1, 2], hook=lens.patch("embed", np.zeros((2, 192)), positions=2)), ValueError,
     "embed has no position 2: they are 0 to 1"),
    (lambda m: lens.sweep([1, 2], m, [lens.zero(6, 0)], len), ValueError,
     "changes blocks.6.attn.z, but the model has layers 0 to 5 only"),
    (lambda m: lens.attribution("x", m, "sister"), ValueError, "answer must be one token, but 'sister' is 3: s is ter"),
    (lambda m: lens.attribution("x", m, "prince"), ValueError, "' prince', with a space before it, is one"),
    (lambda m: lens.attribution("x", m, ""), ValueError, "answer is empty"),
    (lambda m: lens.attribution("x", m, 1, wrong=1024), ValueError, "token id 1024 is not in the vocabulary"),
    (lambda m: lens.attribution("x", m, 1.5), TypeError, "token ids must be whole numbers, not 1.5"),
    (lambda m: lens.attribution("x", m, 1, heads="yes"), TypeError, "heads must be True or False, not 'yes'"),
    (lambda m: lens.ablation("x", m, 1, what="v"), ValueError, "what must be one of z, attn_out, mlp_out, not 'v'"),
    (lambda m: lens.ablation("x", m, 1, by="noise"), ValueError, "by must be one of zero, mean, not 'noise'"),
    (lambda m: lens.patching("x", "y", m, 1, at="v"), ValueError, "at must be one of resid_pre, .*, not 'v'"),
    (lambda m: lens.patching("The king", "The mighty king", m, 1), ValueError,
     r"clean text has 2 tokens, the corrupted one 4: .*\nclean:     The ·king\ncorrupted: The ·might y ·king"),
    (lambda m: lens.patching("The king", "The king", m, " of"), ValueError, "logit of ·of is the same after both"),
    (lambda m: lens.induction(m, n=129), ValueError, "n must be a whole number from 2 to 128 .*, not 129"),
    (lambda m: lens.induction(m, seed=-1), ValueError, "seed must be a whole number"),
    (lambda m: lens.ablation("x", m._replace(encoder=None), 1), TypeError, "no tokenizer .*: give token ids"),
    (lambda m: lens.ablation([1], m._replace(encoder=None), "x"), TypeError, "no tokenizer .*: give the id of answer"),
])
def test_what_cannot_be_asked_is_refused(shakespeare, ask, error, message):
    with pytest.raises(error, match=message):
        ask(shakespeare)


def test_an_answer_may_be_given_by_its_id(shakespeare):
    c = shakespeare.encoder.encode(" C")[0]
    by_text, by_id, by_number = (lens.attribution(TEXT, shakespeare, answer).values for answer in (" C", c, f"#{c}"))
    np.testing.assert_array_equal(by_text, by_id)
    np.testing.assert_array_equal(by_text, by_number)


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


def test_hook_names_are_those_that_gpt2_calls(shakespeare):
    names = []
    gpt2([1], **shakespeare.params, n_head=6, hook=lambda name, x: names.append(name))
    assert sorted(names) == sorted(lens.hook_names(6))
