"""Sampling: it follows the probabilities, stays a distribution, and refuses what it must."""
import math

import numpy as np
import pytest

from generation.sampling import Sampling


def drawn(logits, n=2000, **options):
    """How often each token is drawn, [n_vocab]."""
    sampling, rng = Sampling(**{"temperature": 1, **options}), np.random.default_rng(0)
    ids = [sampling.choose(np.array(logits, np.float32), rng) for _ in range(n)]
    return np.bincount(ids, minlength=len(logits)) / n


HALF = np.array([0.5, 0.25, 0.15, 0.1])


@pytest.mark.parametrize("options, expected", [
    ({}, HALF), ({"temperature": 0.5}, HALF**2 / (HALF**2).sum()), ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
    ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]), ({"top_k": 3, "top_p": 0.5}, [1, 0, 0, 0]),
    ({"temperature": 0}, [1, 0, 0, 0]), ({"top_p": 1}, HALF), ({"top_k": 4}, HALF),
])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_samples_follow_the_probabilities(options, expected, order):
    expected = np.array(expected)[order]
    logits = np.log(HALF)[order]
    np.testing.assert_allclose(Sampling(**{"temperature": 1, **options}).probabilities(logits), expected, atol=1e-9)
    np.testing.assert_allclose(drawn(logits, **options), expected, atol=0.04)


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    logits = np.random.default_rng(0).normal(0, 3, 5000)
    p = np.exp(logits) / np.exp(logits).sum()
    for top_p in (0.01, 0.3, 0.9, 0.999):
        kept = Sampling(temperature=1, top_p=top_p).probabilities(logits) > 0
        assert p[kept].sum() >= top_p > p[kept].sum() - p[kept].min()
        assert p[kept].min() > p[~kept].max()
    for n in range(1, 50):  # however p is rounded
        assert Sampling(temperature=1, top_p=1e-20).probabilities(np.zeros(n)).sum() == 1


def test_the_same_seed_gives_the_same_ids(shakespeare):
    ids = shakespeare.encode("JULIET:")
    sampled = lambda seed, **options: shakespeare.generate(ids, 30, temperature=1, seed=seed, **options)
    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert sampled(1, top_k=1) == sampled(2, top_p=1e-9) == shakespeare.generate(ids, 30)


@pytest.mark.parametrize("options", [{}, {"temperature": 1e-300}, {"temperature": 1e300}, {"top_k": 2}, {"top_p": 0.9}])
@pytest.mark.parametrize("logits, possible", [
    ([3e38, -3e38, 0], {0, 1, 2}), ([math.inf, 0, 1], {0, 1, 2}), ([-math.inf, 5, -math.inf], {1}),
    ([-math.inf] * 3, {0, 1, 2}), ([math.inf] * 3, {0, 1, 2}), ([7] * 3, {0, 1, 2}),
])
@pytest.mark.filterwarnings("error")
def test_extreme_logits_stay_a_distribution(logits, possible, options):
    counts = drawn(logits, n=20, **options)
    assert set(np.flatnonzero(counts)) <= (possible if options.get("temperature", 1) < 1e100 else {0, 1, 2})


@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_numbers_are_one_clear_error(shakespeare, temperature):
    with pytest.raises(ValueError, match="logit 1 is not a number .NaN., so no token can be chosen"):
        Sampling(temperature).choose(np.float32([1, math.nan, 2]), np.random.default_rng(0))
    damaged = {**shakespeare.params, "wte": np.full_like(shakespeare.params["wte"], math.nan)}
    with pytest.raises(ValueError, match="is not a number"):
        shakespeare._replace(params=damaged).generate([1, 2], 3, temperature=temperature)


@pytest.mark.parametrize("options, error, message", [
    ({"temperature": -0.1}, ValueError, "temperature must be a finite number, 0 .greedy. or more, not -0.1"),
    ({"temperature": math.nan}, ValueError, "temperature must be .* not nan"),
    ({"temperature": math.inf}, ValueError, "temperature must be .* not inf"),
    ({"temperature": 10**400}, ValueError, "temperature must be .* not 1000"),
    ({"temperature": "hot"}, TypeError, "temperature must be .* not 'hot'"),
    ({"top_k": 0}, ValueError, "top_k must be a whole number, at least 1, not 0"),
    ({"top_k": 1.5}, TypeError, "top_k must be .* not 1.5"),
    ({"top_p": 0}, ValueError, "top_p must be a number above 0 and at most 1, not 0"),
    ({"top_p": 1.1}, ValueError, "top_p must be .* not 1.1"),
    ({"top_p": math.nan}, ValueError, "top_p must be .* not nan"),
    ({"seed": 0.5}, TypeError, "seed must be a whole number, at least 0, not 0.5"),
    ({"seed": -1}, ValueError, "seed must be .* not -1"),
])
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Sampling(**options)
