"""The kv cache: it grows, goes back, and is unharmed by a pass that fails."""
import contextlib
import sys
import threading

import numpy as np
import pytest
from helpers import random_model

from generation.kv_cache import KVCache

SIZES = {"n_layer": 2, "n_head": 4, "n_ctx": 40, "n_embd": 32}


def test_extend_returns_all_positions_so_far():
    cache, rng = KVCache(**SIZES), np.random.default_rng(0)
    k, v = rng.standard_normal((2, 4, 7, 8), dtype=np.float32)  # each [n_head, n_seq, d_head]
    cache.layers[1].extend(k[:, :3], v[:, :3])
    all_k, all_v = cache.layers[1].extend(k[:, 3:], v[:, 3:])
    np.testing.assert_array_equal(all_k, k)
    np.testing.assert_array_equal(all_v, v)
    assert cache.layers[1].length == 7


def test_the_cache_can_go_back(shakespeare):
    ids = shakespeare.encode("Good morrow, cousin. Is the day so young?")
    cache = KVCache(n_layer=6, n_head=6, n_ctx=len(ids), n_embd=192)
    shakespeare.logits(ids[:4] + ids[5:9], cache=cache)  # four that stay, and four that do not
    cache.length = 4
    logits = shakespeare.logits(ids[4:], cache=cache)
    np.testing.assert_allclose(logits, shakespeare.logits(ids)[4:], atol=1e-4)


@pytest.mark.parametrize("length", [-1, 4, 40])
def test_the_length_can_only_be_lowered(length):
    cache = KVCache(**SIZES)
    random_model().logits([1, 2, 3], cache=cache)
    with pytest.raises(ValueError, match=f"the cache holds 3 positions: .* not set to {length}"):
        cache.length = length


@pytest.mark.parametrize("length", [2.0, True, "2", None])
def test_the_length_is_a_whole_number(length):
    cache = KVCache(**SIZES)
    random_model().logits([1, 2, 3], cache=cache)
    with pytest.raises(TypeError, match=f"whole number from 0 to 3, not {length!r}"):
        cache.length = length
    assert cache.length == 3


def test_a_hook_cannot_use_the_cache_of_its_own_pass():
    model, cache = random_model(), KVCache(**SIZES)
    plain = model.logits([1, 2, 3])

    def use(name, x):
        for use in (lambda: model.logits([4], cache=cache), lambda: setattr(cache, "length", 0)):
            with pytest.raises(ValueError, match="the cache is in use by a pass that has not ended"):
                use()

    np.testing.assert_allclose(model.logits([1, 2, 3], cache=cache, hook=use), plain, atol=1e-5)
    assert cache.length == 3
    cache.length = 1  # the pass has ended


def test_of_two_threads_one_gets_the_cache():
    cache, interval, n_inside, most = KVCache(**SIZES), sys.getswitchinterval(), 0, 0

    def work():
        nonlocal n_inside, most
        n_inside += 1
        for _ in range(50):
            most = max(most, n_inside)
        n_inside -= 1

    def keep_trying():
        for _ in range(50_000):
            with contextlib.suppress(ValueError):
                cache.all_or_nothing(work)

    threads = [threading.Thread(target=keep_trying) for _ in range(2)]
    try:
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert most == 1 and not cache.in_use


@pytest.mark.parametrize("where", ["embed", "blocks.0.attn.pattern", "blocks.1.resid_mid", "logits"])
def test_a_pass_that_fails_leaves_the_cache_as_it_was(where):
    model, cache = random_model(), KVCache(**SIZES)
    model.logits([1, 2, 3], cache=cache)

    def interrupt(name, x):
        if name == where:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.logits([4, 5], cache=cache, hook=interrupt)
    assert [layer.length for layer in cache.layers] == [3, 3]
    np.testing.assert_allclose(model.logits([4], cache=cache)[-1], model.logits([1, 2, 3, 4])[-1], atol=1e-4)
