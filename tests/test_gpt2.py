"""The model: textbook numbers, OpenAI's logits, TensorFlow's arithmetic, and what holds for any GPT-2."""
import math

import numpy as np
import pytest
from helpers import MODELS, random_model, read_json

import gpt2 as program
from gpt2 import attention, causal_mask, ffn, gelu, generate, gpt2, layer_norm, linear, mha, sample, softmax
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
    (_, hparams, params), expected = tiny
    logits = gpt2(expected[f"ids_{i}"], **params, n_head=hparams["n_head"])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected[f"logits_{i}"], atol=1e-4)
    assert generate(expected[f"prompt_{i}"], params, hparams["n_head"], 24) == expected[f"greedy_{i}"].tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_bundled_model_gives_tensorflows_logits_and_ids(shakespeare, tf_gpt2, prompt):
    encoder, hparams, params = shakespeare
    ids = encoder.encode(prompt) or [encoder.eot_token]
    new_ids = generate(ids, params, hparams["n_head"], 30)
    theirs = tf_gpt2(MODELS / "shakespeare", ids + new_ids[:-1])["logits"]
    np.testing.assert_allclose(gpt2(ids + new_ids[:-1], **params, n_head=hparams["n_head"]), theirs, atol=2e-4)
    assert new_ids == theirs[len(ids) - 1 :].argmax(-1).tolist()  # each id is the one TensorFlow would choose there


@pytest.mark.parametrize("case", read_json("gpt2-124M-greedy.json"), ids=lambda case: case["prompt"][:20])
def test_official_124M(case):
    if not (MODELS / "124M").is_dir() or missing_files(MODELS / "124M"):
        pytest.skip("the official 124M is not in models/124M")
    encoder, hparams, params = load_encoder_hparams_and_params("124M", MODELS)
    assert encoder.encode(case["prompt"]) == case["prompt_ids"]
    assert generate(case["prompt_ids"], params, hparams["n_head"], len(case["greedy_ids"])) == case["greedy_ids"]


# --- what holds for any GPT-2 ---


def test_float32_from_end_to_end(shakespeare):
    _, hparams, params = shakespeare
    block = params["blocks"][0]
    x = params["wte"][:7]
    seen = {}
    logits = gpt2([1, 2, 3], **params, n_head=hparams["n_head"], tap=seen.__setitem__)
    for name, array in {**seen, "logits": logits, "gelu": gelu(x), "softmax": softmax(x),
                        "layer_norm": layer_norm(x, **block["ln_1"]), "linear": linear(x, **block["attn"]["c_attn"]),
                        "ffn": ffn(x, **block["mlp"]), "attention": attention(x, x, x, causal_mask(7, 7)),
                        "mha": mha(x, **block["attn"], n_head=hparams["n_head"])}.items():
        assert array.dtype == np.float32, name


def test_queries_in_blocks_give_what_all_at_once_give():
    params, ids = random_model().params, np.random.default_rng(1).integers(0, 211, 600)
    assert len(ids) > 2 * program.QUERY_BLOCK
    whole = gpt2(ids, **params, n_head=4, tap=lambda name, x: None)  # with a tap there are no blocks
    np.testing.assert_allclose(gpt2(ids, **params, n_head=4), whole, atol=2e-3)
    np.testing.assert_allclose(gpt2(ids, **params, n_head=4, n_logits=3), whole[-3:], atol=2e-3)


def test_causality(shakespeare):
    encoder, hparams, params = shakespeare
    ids = encoder.encode("What's in a name? That which we call a rose")
    logits = gpt2(ids, **params, n_head=hparams["n_head"])
    changed = gpt2(ids[:-1] + [ids[-1] - 1], **params, n_head=hparams["n_head"])
    np.testing.assert_array_equal(changed[:-1], logits[:-1])
    assert np.abs(changed[-1] - logits[-1]).max() > 0.1


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_cached_generation_is_full_recomputation(shakespeare, prompt):
    encoder, hparams, params = shakespeare
    ids = encoder.encode(prompt)
    full = list(ids)
    for _ in range(60):
        full.append(int(gpt2(full, **params, n_head=hparams["n_head"])[-1].argmax()))
    assert generate(ids, params, hparams["n_head"], 60) == full[len(ids) :]


def test_cached_generation_is_full_recomputation_at_the_124Ms_shapes():
    params = random_model(n_layer=12, n_embd=768, n_head=12, n_vocab=50257, n_ctx=1024, std=0.06).params
    full = [464, 3797, 3332]
    for _ in range(8):
        full.append(int(gpt2(full, **params, n_head=12)[-1].argmax()))
    assert len(set(full)) > 8  # the weights are large enough that it does not repeat itself
    assert generate(full[:3], params, 12, 8) == full[3:]


def test_the_cache_can_go_back(shakespeare):
    encoder, hparams, params = shakespeare
    ids = encoder.encode("Good morrow, cousin. Is the day so young?")
    cache = program.new_kv_cache(len(ids), params["blocks"], hparams["n_head"])
    options = {**params, "n_head": hparams["n_head"], "kv_cache": cache}
    gpt2(ids[:4] + ids[5:9], **options)  # four that stay and four that do not
    logits = gpt2(ids[4:], **options, n_past=4)
    np.testing.assert_allclose(logits, gpt2(ids, **params, n_head=hparams["n_head"])[4:], atol=1e-4)


def test_generate_leaves_its_input_and_gives_ints(shakespeare):
    encoder, hparams, params = shakespeare
    for ids in ([1, 2, 3], np.array([1, 2, 3])):
        before = ids.copy()
        new_ids = generate(ids, params, hparams["n_head"], 5)
        assert list(ids) == list(before)
        assert len(new_ids) == 5 and all(type(i) is int for i in new_ids)


def test_generation_fills_the_context_exactly(shakespeare):
    _, hparams, params = shakespeare
    n_ctx = hparams["n_ctx"]
    assert len(generate([5] * (n_ctx - 2), params, hparams["n_head"], 2)) == 2
    with pytest.raises(ValueError, match="255 tokens and 2 new ones make 257, more than the context of 256"):
        generate([5] * (n_ctx - 1), params, hparams["n_head"], 2)


def test_stop_id_ends_the_generation_before_it(shakespeare):
    encoder, hparams, params = shakespeare
    ids = encoder.encode("ROMEO:")
    free = generate(ids, params, hparams["n_head"], 20)
    stop = free[7]
    assert generate(ids, params, hparams["n_head"], 20, stop_id=stop) == free[: free.index(stop)]


# --- sampling ---


def test_the_same_seed_gives_the_same_ids(shakespeare):
    encoder, hparams, params = shakespeare
    ids = encoder.encode("JULIET:")
    sampled = lambda seed, **options: generate(ids, params, hparams["n_head"], 30, temperature=1, seed=seed, **options)
    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert sampled(1, top_k=1) == sampled(2, top_p=1e-9) == generate(ids, params, hparams["n_head"], 30)


def drawn(logits, n=2000, **options):
    """How often each token is drawn, [n_vocab]."""
    options = {"temperature": 1, "top_k": None, "top_p": None, **options}
    rng = np.random.default_rng(0)
    ids = [sample(np.array(logits, np.float32), rng=rng, **options) for _ in range(n)]
    return np.bincount(ids, minlength=len(logits)) / n


def test_samples_follow_the_probabilities():
    p = np.array([0.5, 0.25, 0.15, 0.1])
    np.testing.assert_allclose(drawn(np.log(p)), p, atol=0.04)
    np.testing.assert_allclose(drawn(np.log(p), temperature=0.5), p**2 / (p**2).sum(), atol=0.04)
    np.testing.assert_allclose(drawn(np.log(p), top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.04)
    np.testing.assert_allclose(drawn(np.log(p), top_p=0.7), [2 / 3, 1 / 3, 0, 0], atol=0.04)
    np.testing.assert_allclose(drawn(np.log(p[::-1]), top_p=0.8), np.array([0, 15, 25, 50]) / 90, atol=0.04)
    np.testing.assert_allclose(drawn(np.log(p), top_k=3, top_p=0.5), [1, 0, 0, 0], atol=0.04)
    np.testing.assert_array_equal(drawn(np.log(p), temperature=0), [1, 0, 0, 0])


@pytest.mark.parametrize("options", [{}, {"temperature": 1e-300}, {"temperature": 1e300}, {"top_k": 2}, {"top_p": 0.9}])
@pytest.mark.parametrize("logits, possible", [
    ([3e38, -3e38, 0], {0, 1, 2}), ([math.inf, 0, 1], {0, 1, 2}), ([-math.inf, 5, -math.inf], {1}),
    ([-math.inf] * 3, {0, 1, 2}), ([math.inf] * 3, {0, 1, 2}), ([7] * 3, {0, 1, 2}), ([math.nan, 1, 1], {1, 2}),
])
@pytest.mark.filterwarnings("error")
def test_extreme_logits_stay_a_distribution(logits, possible, options):
    counts = drawn(logits, n=20, **options)
    assert set(np.flatnonzero(counts)) <= (possible if options.get("temperature", 1) < 1e100 else {0, 1, 2})


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
    _, hparams, params = shakespeare
    with pytest.raises(error, match=message):
        gpt2(ids, **params, n_head=hparams["n_head"])
    with pytest.raises(error, match=message):
        generate(ids, params, hparams["n_head"], 1)


def test_more_positions_than_the_context_are_refused(shakespeare):
    _, hparams, params = shakespeare
    with pytest.raises(ValueError, match="257 positions are more than the context of 256"):
        gpt2([5] * 257, **params, n_head=hparams["n_head"])


@pytest.mark.parametrize("options, error, message", [
    ({"n_tokens_to_generate": 0}, ValueError, "n_tokens_to_generate must be a whole number, at least 1, not 0"),
    ({"n_tokens_to_generate": -3}, ValueError, "n_tokens_to_generate must be .* not -3"),
    ({"n_tokens_to_generate": 2.5}, TypeError, "n_tokens_to_generate must be .* not 2.5"),
    ({"n_tokens_to_generate": "7"}, TypeError, "n_tokens_to_generate must be .* not '7'"),
    ({"n_tokens_to_generate": True}, TypeError, "n_tokens_to_generate must be .* not True"),
    ({"temperature": -0.1}, ValueError, "temperature must be a number, 0 .greedy. or more, not -0.1"),
    ({"temperature": math.nan}, ValueError, "temperature must be .* not nan"),
    ({"temperature": math.inf}, ValueError, "temperature must be .* not inf"),
    ({"temperature": "hot"}, TypeError, "temperature must be .* not 'hot'"),
    ({"top_k": 0}, ValueError, "top_k must be a whole number, at least 1 and at most the vocabulary's 1024, not 0"),
    ({"top_k": 1025}, ValueError, "top_k must be .* not 1025"),
    ({"top_k": 1.5}, TypeError, "top_k must be .* not 1.5"),
    ({"top_p": 0}, ValueError, "top_p must be a number above 0 and at most 1, not 0"),
    ({"top_p": 1.1}, ValueError, "top_p must be .* not 1.1"),
    ({"top_p": math.nan}, ValueError, "top_p must be .* not nan"),
    ({"seed": 0.5}, TypeError, "seed must be a whole number, 0 or more, not 0.5"),
    ({"seed": -1}, ValueError, "seed must be .* not -1"),
    ({"stop_id": "x"}, TypeError, "stop_id must be .* not 'x'"),
    ({"stop_id": 1024}, ValueError, "stop_id must be .* not 1024"),
    ({"n_tokens_to_generate": 256}, ValueError, "1 tokens and 256 new ones make 257"),
])
def test_bad_options_are_refused(shakespeare, options, error, message):
    _, hparams, params = shakespeare
    with pytest.raises(error, match=message):
        generate([1], params, hparams["n_head"], **{"n_tokens_to_generate": 1, "temperature": 1, **options})


# --- looking up what repeats ---


@pytest.mark.parametrize("history, n_match, guess", [
    ("abcdXabcd", 4, "Xabcd"), ("abcdXabcd", 3, "Xabcd"), ("abcd", 2, ""), ("aaaaa", 2, "aaaaa"),
    ("ababab", 4, "ababa"), ("abcd", 4, ""), ("abcd", 9, ""), ("a", 1, ""), ("xyaxybxy", 2, "bxybx"),
])
def test_look_up(history, n_match, guess):
    assert "".join(map(chr, program.look_up(history, n_match, 5))) == guess


@pytest.mark.parametrize("prompt", [*PROMPTS, "To be, or not to be, that is the question: " * 2])
def test_looking_up_changes_no_id_and_saves_passes(shakespeare, prompt, monkeypatch):
    encoder, hparams, params = shakespeare
    ids = encoder.encode(prompt) or [encoder.eot_token]
    n_passes, forward = 0, program.gpt2

    def counted(*arguments, **options):
        nonlocal n_passes
        n_passes += 1
        return forward(*arguments, **options)

    monkeypatch.setattr(program, "gpt2", counted)
    plain = generate(ids, params, hparams["n_head"], 150, lookup=False)
    assert n_passes == 150
    n_passes = 0
    assert generate(ids, params, hparams["n_head"], 150) == plain
    assert n_passes < 150
    stop = plain[100]
    assert generate(ids, params, hparams["n_head"], 150, stop_id=stop) == plain[: plain.index(stop)]
