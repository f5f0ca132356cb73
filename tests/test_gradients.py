"""The backward pass: against PyTorch's autograd in TransformerLens, and against small changes of each value."""
import json

import numpy as np
import pytest
from helpers import DATA, TEXT, random_model

import lens
from inside.gradients import gelu_backward, softmax_backward

EVERYTHING = ["*", "blocks.*.attn.result"]


@pytest.fixture(scope="module")
def theirs():
    """(arrays of tests/data/make_transformer_lens.py, model, ids, answers): every value and its gradient."""
    with np.load(DATA / "transformer-lens.npz") as arrays:
        arrays = dict(arrays)
    small = json.loads(str(arrays["small"]))
    return arrays, random_model(**small["model"]), small["ids"], small["answers"]


def test_every_value_is_transformer_lenss(theirs):
    arrays, model, ids, _ = theirs
    seen = lens.record(EVERYTHING)
    model.logits(ids, hook=seen)
    for name in {*lens.hook_names(2)} - {"logits"}:
        expected = arrays[f"value {name}"]
        np.testing.assert_allclose(seen[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_gradient_is_autograds(theirs):
    arrays, model, ids, (answer, wrong) = theirs
    found = lens.gradients(ids, model, answer, wrong, hook=lens.record(EVERYTHING))
    assert set(found) == set(lens.hook_names(2))
    assert set(found) - set(lens.gradients(ids, model, answer, wrong)) == {
        "blocks.0.attn.result", "blocks.1.attn.result"}
    for name in {*lens.hook_names(2)} - {"logits"}:
        expected = arrays[f"gradient {name}"]
        if name.startswith("ln_final"):
            expected = expected[-1:]  # ours are those of the position whose logits are asked for
        assert found[name].shape == expected.shape and found[name].dtype == np.float32, name
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max() + 1e-7,
                                   err_msg=name)
    assert found["logits"].nonzero()[1].tolist() == sorted([answer, wrong]) and found["logits"].sum() == 0


@pytest.mark.parametrize("hook", [
    None, lens.compose(lens.zero(1, 2), lens.patch("blocks.0.mlp.pre", np.ones((9, 128), np.float32), positions=[2, 8]),
                       lens.zero(2, 1, "attn_scores"), lens.zero(0, 1, "result"),
                       lens.patch("blocks.1.ln1.scale", np.full((9, 1), 0.7, np.float32), positions=4))],
    ids=["plain", "hooked"])
def test_a_small_change_of_a_value_changes_the_logit_as_its_gradient_says(hook):
    model = random_model(std=0.2, seed=1, n_vocab=97, n_ctx=40, n_embd=32, n_head=4, n_layer=3)
    ids, rng = [5, 41, 7, 8, 96, 0, 13, 8, 22], np.random.default_rng(0)
    found, seen = lens.gradients(ids, model, 17, hook=hook), lens.record()
    model.logits(ids, n_logits=1, hook=lens.compose(hook, seen))
    for name, x in seen.items():
        finite = np.where(np.isfinite(x), x, 0)  # a masked score stays masked
        direction = np.where(np.isfinite(x), rng.standard_normal(x.shape), 0)
        step = 2e-3 * np.sqrt(np.mean(finite**2))
        patches = [lens.patch(name, x + sign * step * direction) for sign in (1, -1)]
        up, down = (float(model.logits(ids, n_logits=1, hook=lens.compose(hook, patch))[-1, 17]) for patch in patches)
        tolerance = 5e-3 * float(np.linalg.norm(found[name]))
        assert (up - down) / (2 * step) == pytest.approx((found[name] * direction).sum(), abs=tolerance), name


def test_the_derivatives_of_single_functions():
    from gpt2 import gelu, softmax

    rng, step = np.random.default_rng(0), 1e-5
    x, d, direction = rng.standard_normal((3, 4, 7)) * 2
    for function, backward, seen in ((gelu, gelu_backward, x), (softmax, softmax_backward, softmax(x))):
        slope = (d * (function(x + step * direction) - function(x - step * direction))).sum() / (2 * step)
        assert slope == pytest.approx((backward(d, seen) * direction).sum(), rel=1e-6), function


def test_nothing_flows_back_through_what_a_hook_replaced(shakespeare):
    found = lens.gradients(TEXT, shakespeare, " C", hook=lens.zero(2, what="resid_post"))
    assert np.abs(found["blocks.2.resid_post"]).max() > 0
    for name in ("blocks.2.resid_mid", "blocks.0.attn.z", "embed"):
        assert not found[name].any(), name


@pytest.mark.parametrize("positions", [None, (), 2, (0, 5)])
def test_nothing_flows_to_what_was_replaced_by_an_equal_value(shakespeare, positions):
    ids, seen = shakespeare.encode(TEXT), lens.record("blocks.3.resid_pre")
    shakespeare.logits(ids, hook=seen)
    plain = lens.gradients(TEXT, shakespeare, " C")["blocks.2.resid_post"]
    hook = lens.compose(lens.record("embed"), lens.patch("blocks.3.resid_pre", seen["blocks.3.resid_pre"], positions))
    found = lens.gradients(TEXT, shakespeare, " C", hook=hook)["blocks.2.resid_post"]
    replaced = np.zeros(len(ids), bool)
    replaced[slice(None) if positions is None else list(np.atleast_1d(positions).astype(int))] = True
    np.testing.assert_allclose(found, np.where(replaced[:, None], 0, plain), atol=1e-5)


def test_saliency_is_the_gradient_times_the_embedding(shakespeare):
    found, seen = lens.gradients(TEXT, shakespeare, " C", " S"), lens.record("embed")
    shakespeare.logits(shakespeare.encode(TEXT), hook=seen)
    pieces, values, answer = lens.saliency(TEXT, shakespeare, " C", " S")
    np.testing.assert_allclose(values, (found["embed"] * seen["embed"]).sum(-1), atol=1e-5)
    assert answer == "·C" and pieces[values.argmax()] in ("·C", "itizen")
    assert lens.saliency(TEXT, shakespeare).answer == "·C"  # the likeliest
    earlier = lens.saliency(TEXT, shakespeare, position=3)
    alone = lens.saliency("First Citizen:", shakespeare)
    assert earlier.pieces == pieces[:4] and earlier.answer == alone.answer != answer
    np.testing.assert_array_equal(earlier.values, alone.values)
