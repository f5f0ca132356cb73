"""Hooks: the values that gpt2 shows against TensorFlow's, replacing them, and the hooks that people combine."""
import hashlib
import re

import numpy as np
import pytest
from helpers import KOREAN, MODELS, ROOT, TEXT, without_head

import lens
from generation.hooks import BLOCK_NAMES
from generation.kv_cache import KVCache
from gpt2 import generate, gpt2

# --- what a hook sees ---


def assert_hooks_agree(hparams, params, ids, theirs):
    seen = {}
    hook = lens.Intervention(seen.__setitem__, ["*", "blocks.*.attn.result"])
    logits = gpt2(ids, **params, n_head=hparams["n_head"], hook=hook)
    assert set(seen) == set(theirs) and len(seen) == 5 + 18 * hparams["n_layer"]
    for name, array in theirs.items():
        assert seen[name].shape == array.shape, name
        np.testing.assert_allclose(seen[name], array, rtol=1e-4, atol=2e-4, err_msg=name)
    np.testing.assert_array_equal(seen["logits"], logits)


@pytest.mark.parametrize("i", range(6))
def test_every_value_that_a_hook_sees_is_tensorflows_on_the_tiny_checkpoint(tiny, tf_gpt2, i):
    (_, hparams, params), expected = tiny
    ids = expected[f"ids_{i}"]
    assert_hooks_agree(hparams, params, ids, tf_gpt2(ROOT / "tests" / "data" / "openai-tiny", ids))


@pytest.mark.parametrize("text", [TEXT, KOREAN])
def test_every_value_that_a_hook_sees_is_tensorflows_on_the_bundled_model(shakespeare, tf_gpt2, text):
    encoder, hparams, params = shakespeare
    ids = encoder.encode(text)
    assert_hooks_agree(hparams, params, ids, tf_gpt2(MODELS / "shakespeare", ids))


def test_hook_names_are_those_that_gpt2_calls(shakespeare):
    names = []
    shakespeare.logits([1], hook=lens.Intervention(lambda name, x: names.append(name), ["*", "blocks.*.attn.result"]))
    assert sorted(names) == sorted(lens.hook_names(6))
    in_layer_3 = [name.removeprefix("blocks.3.") for name in names if name.startswith("blocks.3.")]
    assert tuple(in_layer_3) == BLOCK_NAMES  # in the order in which they are computed


def test_the_documentation_lists_every_name_with_its_shape(shakespeare):
    _, hparams, params = shakespeare
    seen, n_listed = lens.record(["*", "blocks.*.attn.result"]), 0
    gpt2([5, 6, 7], **params, n_head=hparams["n_head"], hook=seen)
    sizes = {**hparams, "d_head": 32, "n_seq": 3, "n_query": 3, "n_key": 3, "n_logits": 3, "n_inner": 768, "1": 1}
    page = (ROOT / "docs" / "looking-inside.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| `\[(.*?)\]` \|", page, re.M)
    for names, shape in rows:
        first, *others = re.findall(r"`(.*?)`", names)
        for name in [first, *(first.rpartition(".")[0] + other if other[0] == "." else other for other in others)]:
            assert seen[name.replace("{i}", "3")].shape == tuple(sizes[size] for size in shape.split(", ")), name
            n_listed += 1
    assert n_listed == 5 + 18


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


def test_a_hook_sees_in_cached_generation_what_it_sees_in_a_whole_pass(shakespeare):
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


# --- what a hook replaces ---


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


def scribble(name, x):
    """A hook that overwrites what it gets; it returns nothing."""
    x[...] = 7


def test_no_array_that_a_hook_gets_is_a_view_of_a_weight_or_of_the_cache(shakespeare):
    ids, cache = shakespeare.encode(TEXT), KVCache(6, 6, 64, 192)
    plain, seen = shakespeare.logits(ids), lens.record(["*", "blocks.*.attn.result"])
    weights = [weight.copy() for weight in shakespeare.params.arrays()]
    shakespeare.logits(ids, hook=seen)
    for array in seen.values():
        array[...] = 0
    shakespeare.logits(ids[:5], cache=cache, hook=lens.Intervention(scribble, ["*", "blocks.*.attn.result"]))
    shakespeare.logits(ids[5:], cache=cache, hook=scribble)
    for weight, before in zip(shakespeare.params.arrays(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    np.testing.assert_array_equal(shakespeare.logits(ids), plain)

    cache = KVCache(6, 6, 64, 192)
    views = []
    for step in (ids[:5], ids[5:]):
        shakespeare.logits(step, cache=cache, hook=lambda name, x: views.append((name, x)))
    arrays = [array for layer in cache.layers for array in (layer.k, layer.v)]
    assert not any(np.may_share_memory(x, array) for _, x in views for array in arrays)


def test_what_is_recorded_stays_when_a_later_hook_overwrites_it(shakespeare):
    ids, before, after = shakespeare.encode(TEXT), lens.record(), lens.record()
    shakespeare.logits(ids, hook=before)
    changes_in_place = lambda name, x: scribble(name, x) if name == "blocks.3.resid_pre" else None
    shakespeare.logits(ids, hook=lens.compose(after, changes_in_place))
    for name in ("blocks.2.resid_post", "blocks.3.resid_pre"):  # the same array in the pass
        np.testing.assert_array_equal(after[name], before[name])


def test_attn_result_is_computed_only_if_it_is_asked_for(shakespeare):
    ids, names = shakespeare.encode(TEXT), []
    shakespeare.logits(ids, hook=lambda name, x: names.append(name))
    shakespeare.logits(ids, hook=lens.compose(lens.record(), lens.zero(1, 5)))
    assert "blocks.0.attn.result" not in names
    seen = lens.record(["blocks.1.attn.result", "blocks.1.attn_out", "blocks.2.attn_out"])
    logits = shakespeare.logits(ids, hook=lens.compose(lens.zero(1, 5, "result"), seen))
    assert not seen["blocks.1.attn.result"][:, 5].any() and seen["blocks.1.attn.result"][:, 4].any()
    bias = shakespeare.params["blocks"][1]["attn"]["c_proj"]["b"]
    np.testing.assert_allclose(seen["blocks.1.attn_out"], seen["blocks.1.attn.result"].sum(axis=1) + bias, atol=1e-5)
    expected = shakespeare.logits(ids, hook=lens.zero(1, 5))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    beside_a_function = lens.compose(lambda name, x: None, lens.zero(1, 5, "result"))
    np.testing.assert_allclose(shakespeare.logits(ids, hook=beside_a_function), expected, atol=1e-4)


@pytest.mark.parametrize("hook, message", [
    (lens.zero(9, 1), "for blocks.9.attn.z, but the model has layers 0 to 5"),
    (lens.record("blocks.9.attn.z"), "for blocks.9.attn.z"), (lens.compose(None, lens.mean(6)), "for blocks.6.attn.z"),
    (lens.patch("blocks.6.resid_pre", np.zeros((2, 192))), "for blocks.6.resid_pre")])
def test_a_hook_for_a_layer_that_does_not_exist_is_refused(shakespeare, hook, message):
    with pytest.raises(ValueError, match=message):
        shakespeare.logits([1, 2], hook=hook)
    with pytest.raises(ValueError, match=message):
        shakespeare.generate([1, 2], 2, hook=hook)
    with pytest.raises(ValueError, match=message):
        lens.sweep([1, 2], shakespeare, [hook], len)


# --- hooks to combine ---


def test_record_keeps_the_names_it_is_asked_for(shakespeare):
    ids = shakespeare.encoder.encode(TEXT)
    everything = lens.record()
    shakespeare.logits(ids, hook=everything)
    assert set(everything) == {name for name in lens.hook_names(6) if "result" not in name}
    assert len(everything) == 5 + 17 * 6
    some = lens.record(["blocks.*.attn.z", "logits"])
    shakespeare.logits(ids, hook=some)
    assert set(some) == {"logits", *(f"blocks.{i}.attn.z" for i in range(6))}
    for name, array in some.items():
        np.testing.assert_array_equal(array, everything[name])
    with pytest.raises(KeyError, match="embed was not recorded: these are: blocks.0.attn.z"):
        some["embed"]
    assert repr(some) == ("<7 arrays: blocks.0.attn.z [21, 6, 32], blocks.1.attn.z [21, 6, 32], "
                          "blocks.2.attn.z [21, 6, 32], ...>") and repr(lens.record()) == "<0 arrays>"


def test_zero_and_mean_change_one_head_only(shakespeare):
    ids, before = shakespeare.encoder.encode(TEXT), lens.record("blocks.1.attn.z")
    shakespeare.logits(ids, hook=before)
    z = before["blocks.1.attn.z"]
    so_far = np.array([z[: i + 1, 5].mean(axis=0) for i in range(len(z))])
    everywhere = np.broadcast_to(z[:, 5].mean(axis=0), z[:, 5].shape)
    longer = np.concatenate([z, z])
    for hook, expected in ((lens.zero(1, 5), np.zeros_like(z[:, 5])), (lens.mean(1, 5), so_far),
                           (lens.mean(1, 5, values=z.mean(axis=0)), everywhere),
                           (lens.mean(1, 5, values=longer), z[:, 5])):
        after = lens.record("blocks.1.attn.z")
        shakespeare.logits(ids, hook=lens.compose(hook, after))
        np.testing.assert_allclose(after["blocks.1.attn.z"][:, 5], expected, atol=1e-6)
        np.testing.assert_allclose(after["blocks.1.attn.z"][:, :5], z[:, :5], atol=1e-5)
    attention_out = lens.record("blocks.2.attn_out")
    shakespeare.logits(ids, hook=lens.compose(lens.zero(2, what="attn_out"), attention_out))
    assert not attention_out["blocks.2.attn_out"].any()


def test_the_causal_mask_stays_when_scores_are_replaced(shakespeare):
    ids, masked = shakespeare.encode(TEXT), np.triu(np.ones((21, 21), bool), k=1)
    plain = lens.record("blocks.1.attn.*")
    shakespeare.logits(ids, hook=plain)
    for hook in (lens.zero(1, 5, "attn.attn_scores"), lens.mean(1, 5, "attn_scores")):
        seen = lens.record("blocks.1.attn.*")
        shakespeare.logits(ids, hook=lens.compose(hook, seen))
        scores, pattern = seen["blocks.1.attn.attn_scores"][5], seen["blocks.1.attn.pattern"][5]
        assert np.isneginf(scores[masked]).all() and np.isfinite(scores[~masked]).all() and not pattern[masked].any()
        np.testing.assert_array_equal(seen["blocks.1.attn.attn_scores"][:5], plain["blocks.1.attn.attn_scores"][:5])
    before = plain["blocks.1.attn.attn_scores"][5]
    assert scores[20, 3] == pytest.approx(before[3:21, 3].mean(), abs=1e-5)  # over the queries that see the key


def test_the_mean_of_a_pattern_is_over_queries_not_heads(shakespeare):
    ids, before, after = shakespeare.encode(TEXT), lens.record("*.pattern"), lens.record("*.pattern")
    shakespeare.logits(ids, hook=before)
    shakespeare.logits(ids, hook=lens.compose(lens.mean(1, 5, "attn.pattern"), after))
    pattern, found = before["blocks.1.attn.pattern"][5], after["blocks.1.attn.pattern"]
    np.testing.assert_allclose(found[5], [pattern[: i + 1].mean(axis=0) for i in range(21)], atol=1e-6)
    np.testing.assert_allclose(found[5].sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(found[:5], before["blocks.1.attn.pattern"][:5])


@pytest.mark.parametrize("what", ["z", "mlp_out", "attn.pattern", "attn_scores", "resid_pre"])
def test_a_mean_lets_no_position_see_a_later_one(shakespeare, what):
    ids = shakespeare.encode(TEXT)
    whole, part = (shakespeare.logits(ids[:n], hook=lens.mean(1, what=what)) for n in (len(ids), 12))
    np.testing.assert_allclose(whole[:12], part, atol=1e-4)


def test_a_mean_in_generation_needs_values_and_uses_them_at_each_step(shakespeare):
    ids, seen = shakespeare.encode(TEXT), lens.record("blocks.1.mlp_out")
    shakespeare.logits(ids, hook=seen)
    values = -9 * seen["blocks.1.mlp_out"].mean(axis=0)
    hook = lens.mean(1, what="mlp_out", values=values)
    full = list(ids)
    for _ in range(4):
        full.append(int(shakespeare.logits(full, hook=hook)[-1].argmax()))
    assert shakespeare.generate(ids, 4, hook=hook) == full[len(ids) :] != shakespeare.generate(ids, 4)
    for hook in (lens.mean(1, what="mlp_out"), lens.mean(1, what="mlp_out", values=np.tile(values, (40, 1)))):
        with pytest.raises(ValueError, match="needs the whole text, but this pass goes on after 21 positions"):
            shakespeare.generate(ids, 2, hook=lens.compose(lens.record(), hook))
        assert len(shakespeare.generate(ids, 1, hook=hook)) == 1


@pytest.mark.parametrize("name, positions, heads, changed", [
    ("blocks.2.resid_pre", None, None, np.s_[:]),
    ("blocks.2.resid_pre", -1, None, np.s_[-1]),
    ("blocks.2.mlp.post", [0, 3], None, np.s_[[0, 3]]),
    ("blocks.2.mlp.post", (0, 3), None, np.s_[[0, 3]]),
    ("blocks.2.mlp.post", (), None, np.s_[[]]),
    ("blocks.2.attn.v", slice(2, 5), 1, np.s_[2:5, 1]),
    ("blocks.2.attn.z", None, [0, 4], np.s_[:, [0, 4]]),
    ("blocks.2.attn.pattern", 3, [0, 4], np.s_[[0, 4], 3]),
    ("blocks.2.attn.attn_scores", None, 2, np.s_[2]),
])
def test_patch_changes_some_positions_and_heads(shakespeare, name, positions, heads, changed):
    ids, seen = shakespeare.encoder.encode(TEXT), lens.record(name)
    shakespeare.logits(ids, hook=seen)
    array = np.full_like(seen[name], 7)
    expected = seen[name].copy()
    expected[changed] = 7
    after = lens.record(name)
    shakespeare.logits(ids, hook=lens.compose(lens.patch(name, array, positions, heads), after))
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
    shakespeare.logits(ids, hook=seen)
    interventions = hooks_of_every_kind(seen)
    swept = lens.sweep(ids, shakespeare, iter(interventions), lambda logits: logits[-1], hook=base)
    expected = [shakespeare.logits(ids, n_logits=1, hook=lens.compose(base, hook))[-1] for hook in interventions]
    np.testing.assert_allclose(swept, expected, atol=2e-4)
    assert np.abs(swept[1:] - swept[0]).max(axis=1).min() > 0.01  # each changed something


def test_the_runs_of_a_sweep_do_not_inherit_what_an_earlier_one_changed_in_place(shakespeare):
    ids = shakespeare.encode(TEXT)

    def halve(name, x):
        if name == "blocks.3.resid_pre":
            x *= 0.5

    in_place = lens.Intervention(halve, ["blocks.3.resid_pre"])
    swept = lens.sweep(ids, shakespeare, [None, in_place, in_place, None], lambda logits: logits[-1])
    expected = [shakespeare.logits(ids, n_logits=1, hook=hook)[-1] for hook in (None, in_place, in_place, None)]
    np.testing.assert_allclose(swept, expected, atol=2e-4)
    assert np.abs(swept[1] - swept[0]).max() > 0.01


def test_a_sweep_patches_attn_result_too(shakespeare):
    ids = shakespeare.encode(TEXT)
    swept = lens.sweep(ids, shakespeare, [lens.zero(3, 2, "result"), lens.zero(3, 2)], lambda logits: logits[-1])
    np.testing.assert_allclose(swept[0], swept[1], atol=2e-4)


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
