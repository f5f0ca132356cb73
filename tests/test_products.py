"""Faster arithmetic: the same numbers as the plain formulas."""
import numpy as np
import pytest

import gpt2 as gpt2_module
from backend import cores, passes, products, team
from backend.attention import head_by_head
from generation.hooks import no_hook
from gpt2 import attention, causal_mask


@pytest.mark.parametrize("n_threads", [0, 1, 3])
@pytest.mark.parametrize("kernels", ["AVX-512", "AVX2", ""])
@pytest.mark.parametrize("n_seq", [0, 1, 2, 7, 8, 10, 16, 28, 64, 100])
@pytest.mark.parametrize("order", ["F", "C"])
def test_matmul(monkeypatch, n_threads, kernels, n_seq, order):
    monkeypatch.setattr(products, "kernels", lambda: kernels)
    monkeypatch.setattr(passes, "n_cores", lambda: n_threads)
    monkeypatch.setattr(cores, "are_idle", lambda: False)
    rng = np.random.default_rng(0)

    def check():
        assert team.n_threads() == n_threads
        for n_in, n_out in ((64, 192), (768, 1400), (3072, 67), (8, 3), (1, 1)):
            x = rng.standard_normal((n_seq, n_in), dtype=np.float32)
            w = np.array(rng.standard_normal((n_in, n_out), dtype=np.float32), order=order)
            result = products.matmul(x, w)
            assert result.dtype == np.float32
            expected = np.einsum("si,io->so", x, w, dtype=np.float64)  # without a BLAS
            np.testing.assert_allclose(result, expected, atol=1e-3)

    passes.run_on_cores(check, n_seq=2, n_layer=1, n_embd=1024)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("kernels", ["AVX-512", "AVX2", ""])
@pytest.mark.parametrize("n_seq, n_inner, order", [(64, 768, "F"), (64, 767, "C"), (10, 768, "F"),
                                                    (200, 767, "F"), (200, 60, "F")])
def test_units_shared_out(monkeypatch, n_threads, kernels, n_seq, n_inner, order):
    monkeypatch.setattr(products, "kernels", lambda: kernels)
    monkeypatch.setattr(passes, "n_cores", lambda: n_threads)
    monkeypatch.setattr(cores, "are_idle", lambda: False)
    rng, n_units = np.random.default_rng(0), []
    x = rng.standard_normal((n_seq, 192), dtype=np.float32)
    c_fc, c_proj = ({"w": np.array(rng.standard_normal((n_in, n_out), dtype=np.float32), order=order),
                     "b": rng.standard_normal(n_out, dtype=np.float32)}
                    for n_in, n_out in ((192, n_inner), (n_inner, 192)))
    monkeypatch.setattr(gpt2_module, "gelu", lambda x: n_units.append(x.shape[1]) or np.tanh(x))
    result = passes.run_on_cores(lambda: gpt2_module.ffn(x, c_fc, c_proj), n_seq, n_layer=1, n_embd=1024)
    expected = np.tanh(x @ c_fc["w"] + c_fc["b"]) @ c_proj["w"] + c_proj["b"]
    np.testing.assert_allclose(result, expected, atol=1e-3)
    n_shares = {10: 1, 64: n_threads, 200: max(2, n_threads)}[n_seq] if n_inner > 64 else 1
    assert sum(n_units) == n_inner and len(n_units) == n_shares


@pytest.mark.parametrize("kernels, numbers, n_out", [
    ("AVX2", (1, 2, 3), 1100),
    ("AVX-512", (2, 3), 1152),  # the BLAS's threads need equal shares for that
])
def test_a_single_row_is_rounded_the_same_with_any_number_of_threads(monkeypatch, kernels, numbers, n_out):
    if kernels == "AVX-512" and products.kernels() != kernels:  # there the BLAS multiplies single rows
        pytest.skip("this processor or BLAS has no AVX-512")
    for module in (products, passes):  # where two tokens nearly tie, the row alone decides
        monkeypatch.setattr(module, "kernels", lambda: kernels)
    rng, results = np.random.default_rng(0), set()
    x, w = rng.standard_normal((1, 1024), dtype=np.float32), rng.standard_normal((n_out, 1024), dtype=np.float32).T
    for n in numbers:
        monkeypatch.setattr(passes, "n_cores", lambda n=n: n)
        for _ in range(4):  # with 2 and 3 cores, the tuner tries both numbers
            passes.run_on_cores(lambda: results.add(products.matmul(x, w).tobytes()), 1, n_layer=n, n_embd=1024)
        monkeypatch.setitem(passes.taken, "cores", None)  # the pass of another thread has them
        passes.run_on_cores(lambda: results.add(products.matmul(x, w).tobytes()), 1, n_layer=n, n_embd=1024)
        passes.taken.clear()
    assert len(results) == 1


@pytest.mark.parametrize("n_query, n_key", [(1, 1), (1, 5), (4, 4), (3, 7), (7, 3), (8, 9), (300, 512)])
def test_masks_that_share_their_memory(n_query, n_key):
    mask = causal_mask(n_query, n_key)
    np.testing.assert_array_equal(mask, causal_mask.__wrapped__(n_query, n_key))
    assert mask.dtype == np.float32 and not mask.flags.writeable
    assert np.shares_memory(mask, causal_mask(1, max(n_query, n_key)))


@pytest.mark.parametrize("n_query, n_key", [(300, 300), (64, 600), (1, 600)])
def test_head_by_head(n_query, n_key):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((12, n_query, 8), dtype=np.float32)
    k, v = rng.standard_normal((2, 12, n_key, 8), dtype=np.float32)
    mask, seen, shapes = causal_mask(n_query, n_key), {}, []
    expected = attention.__wrapped__(q, k, v, mask)

    @head_by_head
    def watched(q, k, v, mask, *, hook=no_hook):
        shapes.append((*q.shape[:-1], k.shape[-2]))
        return attention.__wrapped__(q, k, v, mask, hook=hook)

    np.testing.assert_allclose(watched(q, k, v, mask), expected, atol=1e-5)
    assert shapes == {1: [(12, 1, 600)], 64: 12 * [(64, 600)], 300: 12 * [(256, 256)] + 12 * [(44, 300)]}[n_query]
    for other in (0, mask[-1:]):  # the same for all queries
        result = watched(q, k, v, other)
        np.testing.assert_allclose(result, attention.__wrapped__(q, k, v, other), atol=1e-5)
        assert result.dtype == np.float32
    shapes.clear()
    hook = lambda name, x: seen.setdefault(name, x)
    np.testing.assert_array_equal(watched(q, k, v, mask, hook=hook), expected)
    assert seen["attn.pattern"].shape == (12, n_query, n_key)
