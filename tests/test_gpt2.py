"""The model: textbook numbers, OpenAI's logits, TensorFlow's arithmetic, what holds for any GPT-2, what is refused."""
import math

import numpy as np
import pytest
from helpers import MODELS, Model, random_model, read_json
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.kv_cache import KVCache
from gpt2 import attention, causal_mask, ffn, gelu, generate, gpt2, layer_norm, linear, mha, softmax
from utils import load_encoder_hparams_and_params, missing_files

PROMPTS = ["ROMEO:", "To be, or not to be", "", "안녕 🤖",
           "First Citizen:\nBefore we proceed any further, hear me speak.\n\n"]


# --- textbook numbers ---


def test_softmax():
    np.testing.assert_allclose(softmax(np.array([2, 4, 4]) / math.sqrt(3)), [0.13613, 0.43194, 0.43194], atol=5e-6)
    np.testing.assert_allclose(softmax(np.array([2, 4, 4])), [0.063379, 0.468311, 0.468311], atol=1e-6)
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def test_attention():
    q = np.array([[1, 0, 2]])
    k = np.array([[0, 1, 1], [4, 4, 0], [2, 3, 1]])
    v = np.array([[1, 2, 3], [2, 8, 0], [2, 6, 3]])
    np.testing.assert_allclose(attention(q, k, v, np.zeros((1, 3))), [[1.8639, 6.3194, 1.7042]], atol=1e-4)


def test_layer_norm():
    one, zero = np.ones(3), np.zeros(3)
    np.testing.assert_allclose(layer_norm(np.array([[1, 2, 3], [1, 1, 1]]), one, zero),
                               [[-1.2247, 0, 1.2247], [0, 0, 0]], atol=1e-4)
    np.testing.assert_allclose(layer_norm(np.array([1.0, 2, 3]), 2 * one, one), [-1.4495, 1, 3.4495], atol=1e-4)


def test_gelu():
    np.testing.assert_allclose(gelu(np.array([-2, -0.5, 0, 1, 3])), [-0.0454, -0.1543, 0, 0.8412, 2.9964], atol=1e-4)


def test_causal_mask():
    inf = math.inf
    np.testing.assert_array_equal(causal_mask(2, 4), [[0, 0, 0, -inf], [0, 0, 0, 0]])
    np.testing.assert_array_equal(causal_mask(1, 3), [[0, 0, 0]])


# --- references ---


@pytest.mark.parametrize("i", range(6))
def test_openai_logits_and_greedy_ids(tiny, i):
    model, expected = tiny
    logits = model.logits(expected[f"ids_{i}"])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected[f"logits_{i}"], atol=1e-4)
    assert model.generate(expected[f"prompt_{i}"], 24) == expected[f"greedy_{i}"].tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_bundled_model_gives_tensorflows_logits_and_ids(shakespeare, tf_gpt2, prompt):
    ids = shakespeare.encode(prompt)
    new_ids = shakespeare.generate(ids, 30)
    theirs = tf_gpt2(MODELS / "shakespeare", ids + new_ids[:-1])["logits"]
    np.testing.assert_allclose(shakespeare.logits(ids + new_ids[:-1]), theirs, atol=2e-4)
    assert new_ids == theirs[len(ids) - 1 :].argmax(-1).tolist()  # each id is the one TensorFlow would choose there


@pytest.mark.parametrize("case", read_json("shakespeare-greedy.json"), ids=lambda case: ascii(case["prompt"])[:20])
def test_golden_ids_of_the_bundled_model(shakespeare, case):
    assert shakespeare.encode(case["prompt"]) == case["prompt_ids"]
    assert shakespeare.generate(case["prompt_ids"], len(case["greedy_ids"])) == case["greedy_ids"]


@pytest.mark.parametrize("case", read_json("gpt2-124M-greedy.json"), ids=lambda case: case["prompt"][:20])
def test_official_124M(case):
    if not (MODELS / "124M").is_dir() or missing_files(MODELS / "124M"):
        pytest.skip("the official 124M is not in models/124M")
    model = Model(*load_encoder_hparams_and_params("124M", MODELS))
    assert model.encode(case["prompt"]) == case["prompt_ids"]
    assert model.generate(case["prompt_ids"], len(case["greedy_ids"])) == case["greedy_ids"]


# --- what holds for any GPT-2 ---


def test_float32_from_end_to_end(shakespeare):
    block, x, seen = shakespeare.params["blocks"][0], shakespeare.params["wte"][:7], {}
    logits = shakespeare.logits([1, 2, 3], hook=seen.__setitem__)
    for name, array in {**seen, "logits": logits, "gelu": gelu(x), "softmax": softmax(x),
                        "layer_norm": layer_norm(x, **block["ln_1"]), "linear": linear(x, **block["attn"]["c_attn"]),
                        "ffn": ffn(x, **block["mlp"]), "attention": attention(x, x, x, causal_mask(7, 7)),
                        "mha": mha(x, **block["attn"], n_head=6)}.items():
        assert array.dtype == np.float32, name


def test_causality(shakespeare):
    ids = shakespeare.encode("What's in a name? That which we call a rose")
    logits, changed = shakespeare.logits(ids), shakespeare.logits(ids[:-1] + [ids[-1] - 1])
    np.testing.assert_array_equal(changed[:-1], logits[:-1])
    assert np.abs(changed[-1] - logits[-1]).max() > 0.1


LONG = random_model(), np.random.default_rng(1).integers(0, 211, 600)
# With a hook the whole text goes through each layer at once, as in the formula.
WHOLE = LONG[0].logits(LONG[1], hook=lambda name, x: None)


@pytest.mark.parametrize("n_logits", [None, 1, 3, 450, 600])
def test_the_last_rows_are_those_of_all_rows(n_logits):
    model, ids = LONG
    np.testing.assert_allclose(model.logits(ids, n_logits=n_logits), WHOLE[-(n_logits or 600) :], atol=2e-3)


@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(1, 599), max_size=4), n_logits=st.integers(1, 600))
def test_a_text_may_be_cut_anywhere_between_passes_through_the_cache(cuts, n_logits):
    model, ids = LONG
    cache = KVCache(n_layer=2, n_head=4, n_ctx=600, n_embd=32)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 600]):
        logits = model.logits(ids[start:end], cache=cache, n_logits=min(n_logits, end - start))
        np.testing.assert_allclose(logits, WHOLE[end - len(logits) : end], atol=2e-3)
        assert cache.length == end


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_generation_with_the_cache_is_full_recomputation(shakespeare, prompt):
    ids = shakespeare.encode(prompt)
    full = list(ids)
    for _ in range(60):
        full.append(int(shakespeare.logits(full)[-1].argmax()))
    assert shakespeare.generate(ids, 60) == full[len(ids) :]


@pytest.mark.slow
def test_generation_with_the_cache_is_full_recomputation_at_the_124Ms_shapes():
    model = random_model(n_layer=12, n_embd=768, n_head=12, n_vocab=50257, n_ctx=1024, std=0.06)
    full = [464, 3797, 3332]
    for _ in range(8):
        full.append(int(model.logits(full)[-1].argmax()))
    assert len(set(full)) > 8  # the weights are large enough that it does not repeat itself
    assert model.generate(full[:3], 8) == full[3:]


def test_generate_leaves_its_input_alone_and_returns_ints(shakespeare):
    for ids in ([1, 2, 3], np.array([1, 2, 3])):
        before = ids.copy()
        new_ids = shakespeare.generate(ids, 5)
        assert list(ids) == list(before)
        assert len(new_ids) == 5 and all(type(i) is int for i in new_ids)


def test_generation_fills_the_context_exactly(shakespeare):
    n_ctx = shakespeare.hparams["n_ctx"]
    assert len(shakespeare.generate([5] * (n_ctx - 2), 2)) == 2
    with pytest.raises(ValueError, match="255 tokens and 2 new ones make 257, more than the context of 256"):
        shakespeare.generate([5] * (n_ctx - 1), 2)


def test_stop_id_ends_the_generation_before_it(shakespeare):
    ids = shakespeare.encode("ROMEO:")
    free = shakespeare.generate(ids, 20)
    stop = free[7]
    assert shakespeare.generate(ids, 20, stop_id=stop) == free[: free.index(stop)]


@pytest.mark.slow
def test_a_vocabulary_may_be_larger_than_unicode():
    model = random_model(n_vocab=1_200_000, n_ctx=64, n_embd=2, n_head=1, n_layer=1)
    model.params["ln_f"].update(g=np.zeros(2, np.float32), b=np.ones(2, np.float32))
    model.params["wte"][1_150_000] = 10  # always the most likely
    assert model.generate([1_199_999], 30) == [1_150_000] * 30


def test_help_shows_every_option(capsys):
    help(generate)
    signature = " ".join(capsys.readouterr().out.split("Continue")[0].split())
    for option in ("stop_id: int | None = None", "hook: ", "lookup: bool = True", "temperature: float = 0",
                   "top_k: int | None = None", "top_p: float | None = None", "seed: int | None = None"):
        assert option in signature, option


# --- what is refused ---


@pytest.mark.parametrize("ids, error, message", [
    ([], ValueError, "there are no token ids"),
    ([-1], ValueError, "token id -1 is not in the vocabulary: ids are 0 to 1023"),
    ([0, 1024], ValueError, "token id 1024 is not in the vocabulary"),
    ([1.0], TypeError, "token ids must be whole numbers, not 1.0"),
    (np.array([0.5]), TypeError, "token ids must be whole numbers, not .*0.5"),
    (["a"], TypeError, "token ids must be whole numbers, not 'a'"),
    ([True], TypeError, "token ids must be whole numbers, not True"),
    ([[1, 2]], TypeError, r"token ids must be whole numbers, not \[1, 2\]"),
    ("text", TypeError, "token ids must be whole numbers, not 't'"),
    (5, TypeError, "token ids must be a sequence of whole numbers, not 5"),
])
def test_bad_ids_are_refused(shakespeare, ids, error, message):
    with pytest.raises(error, match=message):
        shakespeare.logits(ids)
    with pytest.raises(error, match=message):
        shakespeare.generate(ids, 1)


def test_more_positions_than_the_context_are_refused(shakespeare):
    with pytest.raises(ValueError, match="257 positions exceed the context of 256"):
        shakespeare.logits([5] * 257)


@pytest.mark.parametrize("n_head, message", [
    (3, "the model has 6 heads, not 3: call with n_head=hparams"),
    (0, "n_head must be a whole number from 1 to 192 .*, not 0"),
    (7, "n_head must divide the width of the model, 192 .n_embd.: 7 does not"),
    (6.0, "n_head must be a whole number .* not 6.0"),
])
def test_a_bad_number_of_heads_is_refused(shakespeare, n_head, message):
    with pytest.raises((ValueError, TypeError), match=message):
        gpt2([1], **shakespeare.params, n_head=n_head)


@pytest.mark.parametrize("n_logits", [-3, 0, 4, 100, 1.0, True])
def test_a_bad_number_of_logits_is_refused(shakespeare, n_logits):
    with pytest.raises((ValueError, TypeError), match="n_logits must be a whole number from 1 to 3 .*, not"):
        shakespeare.logits([1, 2, 3], n_logits=n_logits)


SIZES = {"n_layer": 6, "n_head": 6, "n_ctx": 256, "n_embd": 192}  # of the bundled model


@pytest.mark.parametrize("cache, message", [
    ([], "the cache must be a KVCache.n_layer, n_head, n_ctx, n_embd., not list"),
    ({}, "the cache must be a KVCache.*, not dict"),
    (np.zeros((6, 2, 6, 256, 32)), "the cache must be a KVCache.*, not ndarray"),
    (KVCache(**{**SIZES, "n_layer": 2}), "the cache was made for n_layer = 2, but the model has 6"),
    (KVCache(**{**SIZES, "n_head": 3}), "the cache was made for n_head = 3, but the model has 6"),
    (KVCache(**{**SIZES, "n_embd": 96}), "the cache was made for n_embd = 96, but the model has 192"),
    (KVCache(**{**SIZES, "n_ctx": 2}), "3 positions do not fit the cache, which has room for 2"),
])
def test_a_cache_that_does_not_fit_is_refused(shakespeare, cache, message):
    with pytest.raises((ValueError, TypeError), match=message):
        shakespeare.logits([1, 2, 3], cache=cache)


@pytest.mark.parametrize("options, error, message", [
    ({"n_tokens_to_generate": 0}, ValueError, "n_tokens_to_generate must be a whole number from 1 to 256 .*, not 0"),
    ({"n_tokens_to_generate": -3}, ValueError, "n_tokens_to_generate must be .* not -3"),
    ({"n_tokens_to_generate": 2.5}, TypeError, "n_tokens_to_generate must be .* not 2.5"),
    ({"n_tokens_to_generate": "7"}, TypeError, "n_tokens_to_generate must be .* not '7'"),
    ({"n_tokens_to_generate": True}, TypeError, "n_tokens_to_generate must be .* not True"),
    ({"n_tokens_to_generate": 256}, ValueError, "1 tokens and 256 new ones make 257"),
    ({"top_k": 1025}, ValueError, "top_k must be a whole number from 1 to 1024 .the size of the vocabulary., not 1025"),
    ({"top_p": 0}, ValueError, "top_p must be .* not 0"),
    ({"stop_id": "x"}, TypeError, "stop_id must be .* not 'x'"),
    ({"stop_id": 1024}, ValueError, "stop_id must be .* not 1024"),
    ({"temprature": 1}, TypeError, r"^generate\(\) got an unexpected keyword argument 'temprature'"),
])
def test_bad_options_are_refused(shakespeare, options, error, message):
    with pytest.raises(error, match=message):
        generate([1], shakespeare.params, 6, **{"n_tokens_to_generate": 1, "temperature": 1, **options})
