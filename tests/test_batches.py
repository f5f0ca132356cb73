"""Many texts: batches give what one text at a time gives, and batch.py a file of them, whatever happens meanwhile."""
import numpy as np
import pytest
from helpers import random_model

from backend import passes
from generation.kv_cache import KVCache
from generation.prompt_lookup import rounding
from generation.sampling import Sampling, seed_of
from many_texts.batches import Continuation, extend_one_by_one, generate_batch, running

PROMPTS = ["ROMEO:", "First Citizen:\nSpeak.", "O", "JULIET:\n" + "Wherefore art thou " * 30, "\n",
           "To be, or not to be"]


# --- generate_batch -----------------------------------------------------------------------------


@pytest.mark.parametrize("options, limits", [
    ({}, {}), ({}, {"max_texts": 2}), ({}, {"max_bytes": 1}), ({"temperature": 1, "seed": 5}, {}),
    ({"temperature": 0.8, "top_k": 40, "seed": 5}, {"max_texts": 4}),
    ({"temperature": 1.2, "top_p": 0.9, "seed": 5}, {}),
    ({"temperature": 1, "top_k": 2, "top_p": 0.7, "seed": 0}, {}),
])
def test_batch_gives_the_ids_that_generate_gives(shakespeare, options, limits):
    encoder, hparams, params = shakespeare
    prompts = [encoder.encode(prompt) for prompt in PROMPTS]
    ids = generate_batch(prompts, params, hparams["n_head"], 12, stop_id=encoder.encode("\n")[0], **options, **limits)
    for i, prompt in enumerate(prompts):
        alone = options | ({"seed": seed_of(options["seed"], i)} if options else {})
        assert ids[i] == shakespeare.generate(prompt, 12, stop_id=encoder.encode("\n")[0], **alone)
    assert len({len(new) for new in ids}) > 1  # some came to the stop_id


def test_batch_gives_the_ids_of_openais_graph(tiny):
    model, expected = tiny
    n = len([name for name in expected if name.startswith("prompt_")])
    ids = generate_batch([expected[f"prompt_{i}"] for i in range(n)], model.params, model.hparams["n_head"], 24)
    assert ids == [expected[f"greedy_{i}"].tolist() for i in range(n)]


@pytest.mark.parametrize("options", [{}, {"temperature": 1, "seed": 1}, {"temperature": 1, "top_k": 3, "seed": 1},
                                     {"temperature": 1, "top_p": 0.5, "seed": 1}])
def test_near_ties_are_decided_as_by_generate(options):
    """Each token has a twin whose embedding is almost its own: rounding decides between them at every step."""
    model = random_model(n_vocab=200)
    model.params["wte"][100:] = model.params["wte"][:100] * np.float32(1 + 2**-22)
    prompts = [list(range(start, start + 3 * start + 1)) for start in range(8)]
    ids = generate_batch(prompts, model.params, 4, 20, **options)
    for i, prompt in enumerate(prompts):
        alone = options | ({"seed": seed_of(1, i)} if options else {})
        assert ids[i] == model.generate(prompt, 20, **alone)


def test_keys_and_values_of_one_pass_are_rounded_as_by_a_pass_for_each_id(monkeypatch):
    monkeypatch.setattr(passes, "n_cores", lambda: 1)
    model, kv = random_model(n_embd=256), []
    for extend in (lambda cache, ids, *_: [model.logits([i], cache=cache) for i in ids], extend_one_by_one):
        cache = KVCache(n_layer=2, n_head=4, n_ctx=40, n_embd=256)
        model.logits(list(range(8)), cache=cache)
        extend(cache, list(range(8, 40)), *(model.params[name] for name in ("wte", "wpe", "blocks")), 4)
        kv.append([array for layer in cache.layers for array in layer.read(40)])
    np.testing.assert_array_equal(*kv)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 5, "top_p": 0.8}])
@pytest.mark.parametrize("temperature", [0, 0.5, 2])
def test_a_choice_that_rounding_changes_is_a_near_tie(temperature, options):
    sampling, rng = Sampling(temperature, **options), np.random.default_rng(0)
    n_changed = 0
    for seed in range(300):
        logits = rng.normal(0, 1, 30).astype(np.float32).round(2)  # equal ones among them
        rounded = (logits + rng.uniform(-0.5, 0.5, 30) * rounding(logits)).astype(np.float32)
        ids = [sampling.choose(x, np.random.default_rng(seed)) for x in (logits, rounded)]
        n_changed += ids[0] != ids[1]
        assert ids[0] == ids[1] or sampling.is_near_tie(logits, np.random.default_rng(seed))
    near = [sampling.is_near_tie(rng.normal(0, 3, 30), np.random.default_rng(seed)) for seed in range(300)]
    assert np.mean(near) < 0.02
    assert n_changed or temperature


def test_a_text_of_a_batch_is_drawn_by_its_place_alone(shakespeare):
    encoder, hparams, params = shakespeare
    prompts = [encoder.encode(prompt) for prompt in PROMPTS]
    batch = lambda prompts, **options: generate_batch(prompts, params, hparams["n_head"], 10, temperature=1, **options)
    ids = batch(prompts, seed=3)
    assert batch(prompts[4:2:-1], places=[4, 3], seed=3) == ids[4:2:-1]
    assert batch([prompts[0]] * 2, seed=3)[0] != batch([prompts[0]] * 2, seed=3)[1]
    assert batch(prompts, seed=4) != ids


def test_batch_refuses_what_generate_refuses(shakespeare):
    for prompts, n, error, message in [([[1], []], 3, ValueError, "no token ids"),
                                       ([[1], [9999]], 3, ValueError, "9999"),
                                       ([[1], [1] * 250], 9, ValueError, "more than the context"),
                                       ([[1]], 0, ValueError, "n_tokens_to_generate"), ([["a"]], 1, TypeError, "'a'")]:
        with pytest.raises(error, match=message):
            generate_batch(prompts, shakespeare.params, 6, n)
    assert generate_batch([], shakespeare.params, 6, 3) == []


def test_a_batch_stays_within_its_limits():
    make_cache = lambda n: KVCache(n_layer=2, n_head=1, n_ctx=n, n_embd=4)
    texts = [Continuation([0] * n, n_new=2, seed=None) for n in (5, 9, 1, 700, 700, 3, 3)]
    passes = []
    for batch in running(texts, make_cache, max_texts=3, max_bytes=make_cache(710).n_bytes):
        passes.append([texts.index(text) for text in batch])
        assert len(batch) <= 3 and sum(text.cache.n_bytes for text in batch) <= make_cache(710).n_bytes
        for text in batch:
            text.append(1, stop_id=None)
    assert all(text.ended and text.cache is None and text.ids[-2:] == [1, 1] for text in texts)
    assert passes == [[0, 1, 2], [0, 1, 2], [3], [3], [4, 5], [4, 5], [6], [6]]
