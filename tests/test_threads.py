"""Threads: the same results whatever their number, and nothing left behind, whatever happens."""
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import threadpoolctl
from helpers import ROOT, in_threads, random_model, read_json, wait_for

import gpt2 as gpt2_module
from backend import chunks, threads
from generation.kv_cache import KVCache
from many_texts.batches import side_by_side

MODEL, LONG = random_model(n_embd=64), np.random.default_rng(1).integers(0, 211, 600)
WHOLE = MODEL.logits(LONG, hook=lambda name, x: None)  # with a hook, the whole text goes through each layer at once


def blas_limits():
    return [library["num_threads"] for library in threadpoolctl.threadpool_info()]


@pytest.fixture
def use(monkeypatch):
    """use(n): let each pass have n threads, on however many cores."""
    def use(n):
        monkeypatch.setattr(threads, "n_cores", lambda: n)
        monkeypatch.setattr(threads, "idle", lambda: False)  # so that nothing is left to the BLAS

    return use


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before, limits = threading.active_count(), blas_limits()
    yield
    assert threading.active_count() == before
    assert blas_limits() == limits
    assert not threads.turn.locked()


# --- the same results ---


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("n_logits", [None, 1, 400])
def test_chunks_give_the_logits_of_the_whole(use, n, n_logits):
    use(n)
    cache = KVCache(n_layer=2, n_head=4, n_ctx=600, n_embd=64)
    MODEL.logits(LONG[:37], cache=cache)
    logits = MODEL.logits(LONG[37:], cache=cache, n_logits=n_logits)
    np.testing.assert_allclose(logits, WHOLE[-len(logits) :], atol=1e-4 * np.abs(WHOLE).max())
    assert [layer.length for layer in cache.layers] == [600, 600]
    cache.length = 500  # what the chunks wrote is good to go on from
    np.testing.assert_allclose(MODEL.logits(LONG[500:], cache=cache), WHOLE[500:], atol=1e-4 * np.abs(WHOLE).max())


@pytest.mark.parametrize("n", [0, 2, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_the_same_greedy_ids_with_any_number_of_threads(use, monkeypatch, shakespeare, tiny, n):
    use(n)
    monkeypatch.setattr(threads, "MIN_CHUNK_ROWS", 8)  # so that short texts are cut into chunks, too
    for case in read_json("shakespeare-greedy.json"):
        assert shakespeare.generate(case["prompt_ids"], len(case["greedy_ids"])) == case["greedy_ids"]
    model, expected = tiny
    for i in range(6):
        assert model.generate(expected[f"prompt_{i}"], 24) == expected[f"greedy_{i}"].tolist()
        np.testing.assert_allclose(model.logits(expected[f"ids_{i}"]), expected[f"logits_{i}"], atol=1e-4)


class Watched(np.ndarray):
    """An array that refuses products of two transposed matrices, as do all that are computed from it."""

    n_products = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if ufunc is np.matmul:
            Watched.n_products += 1
            first, second = ((x.strides[-1] != x.itemsize and min(x.shape[-2:]) > 1) for x in inputs)
            assert not (first and second), [(x.shape, x.strides) for x in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(x) for x in out)
        result = getattr(ufunc, method)(*(np.asarray(x) for x in inputs), **options)
        return np.asarray(result).view(Watched) if isinstance(result, (np.ndarray, np.generic)) else result


@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_no_product_of_two_transposed_matrices(use, n, order):
    """In threads, OpenBLAS computes it wrong: see `backend.products.untransposed`."""
    def watched(x):
        if isinstance(x, np.ndarray):
            return np.array(x, order=order).view(Watched)
        return {name: watched(x[name]) for name in x} if isinstance(x, dict) else [watched(one) for one in x]

    use(n)
    n_head, params = MODEL.hparams["n_head"], watched(MODEL.params)
    before = Watched.n_products
    for n_seq in (2, 12, 100, 600):
        for hook in (None, lambda name, x: None):
            cache = KVCache(n_layer=2, n_head=4, n_ctx=600, n_embd=64)
            gpt2_module.gpt2(LONG[: n_seq // 2], **params, n_head=n_head, cache=cache, hook=hook)
            gpt2_module.gpt2(LONG[n_seq // 2 : n_seq], **params, n_head=n_head, cache=cache, n_logits=1, hook=hook)
        for caches in (None, [KVCache(2, 4, 600, 64) for _ in range(2)]):
            side_by_side([LONG[:n_seq], LONG[:n_seq]], caches, **params, n_head=n_head)
    assert Watched.n_products > before


def test_a_blas_that_threadpoolctl_does_not_know(monkeypatch):
    class Nothing:
        lib_controllers = []

        def select(self, **_):
            return self

    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", Nothing)
    monkeypatch.setattr(threads, "blas", threads.Blas())
    assert threads.n_cores() == 0
    np.testing.assert_allclose(MODEL.logits(LONG), WHOLE, atol=1e-4 * np.abs(WHOLE).max())
    assert len(MODEL.generate(LONG[:9], 5)) == 5


def test_a_hook_sees_whole_arrays_in_the_thread_that_called(use):
    use(4)
    seen = {}

    def hook(name, x):
        assert threading.current_thread() is threading.main_thread()
        seen[name] = x.shape

    MODEL.logits(LONG, hook=hook)
    assert seen["blocks.0.attn.pattern"] == (4, 600, 600)
    assert seen["blocks.1.mlp.post"] == (600, 256)


def test_an_error_in_one_panel_ends_the_pass(use):
    use(3)
    done = []

    def work(i):
        done.append(i)
        if i == 1:
            raise MemoryError("no more")
        time.sleep(0.002)

    with pytest.raises(MemoryError, match="no more"), threads.cores_for(2, 1, 1024):
        threads.share(work, range(1000))
    assert len(done) < 50


def test_a_hook_may_make_a_pass_of_its_own(use):
    use(3)
    teams = []

    def hook(name, x):
        if name in ("blocks.0.resid_pre", "blocks.1.resid_pre"):
            teams.append(threads.n_threads())
            np.testing.assert_allclose(MODEL.logits(LONG), WHOLE, atol=1e-4 * np.abs(WHOLE).max())

    logits = MODEL.logits(LONG, hook=hook)
    np.testing.assert_allclose(logits, WHOLE, atol=1e-4 * np.abs(WHOLE).max())
    assert teams == [3, 3]


@pytest.mark.parametrize("seed", range(5))
def test_a_chunk_waits_for_all_chunks_before_it(use, seed):
    use(5)
    pauses = np.random.default_rng(seed).uniform(0, 0.004, (5, 3))  # of each chunk in each layer
    cache = KVCache(n_layer=4, n_head=1, n_ctx=300, n_embd=100)

    @chunks.in_chunks
    def layers(x, caches, n_wanted, blocks, n_head):
        i = int(x[0, 0] // 60)
        for layer, pause in zip(caches[:-1], pauses[i]):  # in the last layer, rows that are not wanted need not wait
            time.sleep(pause)
            k, v = layer.extend(x[None], -x[None])
            np.testing.assert_array_equal(k[0, :, 0], np.arange(k.shape[1]))
            np.testing.assert_array_equal(v, -k)
        assert k.shape[1] == x[-1, 0] + 1
        return x[len(x) - n_wanted :]

    x = np.repeat(np.arange(300, dtype=np.float32)[:, None], 100, axis=1)
    with threads.cores_for(300, cache.n_layer, cache.n_embd):
        assert threads.n_threads() == 5
        np.testing.assert_array_equal(layers(x, cache.layers, 130, None, 1), x[170:])


@pytest.mark.parametrize("n_seq, n, idle, n_threads", [
    (64, 2, True, 2), (65, 2, True, 0), (65, 2, False, 2), (128, 2, True, 2),
    (8, 4, True, 0), (8, 4, False, 4), (255, 4, True, 0), (256, 4, True, 4),
    (8, 1, True, 1), (1, 4, True, 0),
])
def test_few_rows_are_left_to_the_blas_where_nothing_else_runs(use, monkeypatch, n_seq, n, idle, n_threads):
    use(n)
    monkeypatch.setattr(threads, "idle", lambda: idle)
    with threads.cores_for(n_seq, 1, 1024):
        assert threads.n_threads() == n_threads


@pytest.mark.parametrize("n_past, n_seq, n", [(0, 1023, 4), (0, 512, 2), (700, 323, 3), (0, 250, 64)])
def test_chunks_are_equal_work(n_past, n_seq, n):
    cuts = chunks.equal_work(n_past, n_seq, n)
    assert cuts[0] == 0 and cuts[-1] == n_seq and len(cuts) == n + 1
    work = [sum(1 + (n_past + i) / 2000 for i in range(a, b)) for a, b in zip(cuts, cuts[1:])]
    assert max(work) - min(work) < 4


# --- when it goes wrong ---


@pytest.mark.parametrize("n_seq, call", [(600, 0), (600, 1), (600, 4), (300, 4), (180, 0), (16, 1)])
def test_an_error_in_one_thread_ends_the_pass(use, monkeypatch, n_seq, call):
    use(3)
    calls, gelu = [], gpt2_module.gelu

    def failing(x):
        calls.append(x)
        if len(calls) == call + 1:
            raise MemoryError("no more")
        time.sleep(0.001)
        return gelu(x)

    monkeypatch.setattr(gpt2_module, "gelu", failing)
    cache = KVCache(n_layer=2, n_head=4, n_ctx=600, n_embd=64)
    with pytest.raises(MemoryError, match="no more"):
        MODEL.logits(LONG[:n_seq], cache=cache)
    assert cache.length == 0
    monkeypatch.setattr(gpt2_module, "gelu", gelu)
    np.testing.assert_allclose(MODEL.logits(LONG[:n_seq], cache=cache), WHOLE[:n_seq], atol=1e-3)


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_ctrl_c_ends_a_pass_at_once(use, monkeypatch, in_main_thread):
    use(3)
    monkeypatch.setattr(gpt2_module, "gelu", lambda x: time.sleep(0.002) or interrupt() or x)
    calls = []

    def interrupt():
        is_main = threading.current_thread() is threading.main_thread()
        calls.append(is_main)
        if calls.count(in_main_thread) == 2 and is_main == in_main_thread:
            os.kill(os.getpid(), signal.SIGINT)

    model = random_model(n_embd=64, n_layer=60)
    with pytest.raises(KeyboardInterrupt):
        model.logits(LONG)
    assert len(calls) < 60


def test_numpys_error_settings_hold_in_all_threads(use):
    use(3)
    params = {**MODEL.params, "wte": MODEL.params["wte"].copy()}
    params["wte"][LONG] = 3e38
    with np.errstate(all="ignore"):
        model = MODEL._replace(params=params)
        model.logits(LONG)  # a warning would be an error here
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        model.logits(LONG)


def test_eight_threads_of_the_program_at_once(use):
    use(3)
    expected = MODEL.generate(LONG[:50], 20)

    def work(i):
        for _ in range(3):
            if i % 2:
                np.testing.assert_allclose(MODEL.logits(LONG), WHOLE, atol=1e-4 * np.abs(WHOLE).max())
            else:
                assert MODEL.generate(LONG[:50], 20) == expected
        return "right"

    assert in_threads(8, work) == ["right"] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_computes_too():
    # in a process of its own, because pytest's has other threads
    script = """
import os, sys
sys.path[:0] = ["tests", "."]
import numpy as np
from helpers import random_model
from backend import chunks, threads
threads.n_cores = lambda: 3
model, ids = random_model(n_embd=64), list(range(200)) * 3
expected, limit = model.logits(ids), threads.blas.allowed()
with threads.blas.limited(1):  # as while another thread is in a pass
    pid = os.fork()
    if pid == 0:
        same = np.allclose(model.logits(ids), expected, atol=1e-3) and len(model.generate(ids[:9], 9)) == 9
        os._exit(0 if same and threads.blas.allowed() == limit else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_blas_has_one_thread_while_passes_overlap():
    limit, seen = blas_limits(), []
    with threads.blas.limited(2):
        seen += blas_limits()
        thread = threading.Thread(target=lambda: hold.__enter__() and None)
        hold = threads.blas.limited(3)
        thread.start()
        thread.join()
        seen += blas_limits()
    seen += blas_limits()  # the other pass is not over
    hold.__exit__(None, None, None)
    assert seen == [2, 1, 1] and blas_limits() == limit


# --- what there is ---


def test_the_number_of_cores_is_bounded(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: float("inf"))
    for limit in (1, 2, 3):
        with threadpoolctl.threadpool_limits(limit):
            assert threads.n_cores() == limit
    with threadpoolctl.threadpool_limits(3):
        monkeypatch.setattr(threads, "cpu_quota", lambda: 2)
        assert threads.n_cores() == 2


@pytest.mark.skipif(not os.path.exists("/proc/loadavg"), reason="only Linux tells what runs")
def test_a_busy_process_is_seen():
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        wait_for(lambda: not any(threads.idle() for _ in range(20)))
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.parametrize("variable", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_environment_bounds_the_number_of_cores(variable):
    script = "from backend import threads; print(threads.n_cores())"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**environment, variable: "1"},
                            capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


@pytest.mark.parametrize("files, n", [
    ({}, float("inf")),
    ({"cpu.max": "max 100000\n"}, float("inf")),
    ({"cpu.max": "150000 100000\n"}, 2),
    ({"cpu.max": "50000 100000\n"}, 1),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
    ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
])
def test_a_containers_cpu_limit(tmp_path, files, n):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.cpu_quota(tmp_path) == n


# --- the tuner ---

MILLISECONDS = {0: (18.3, 12.1, 9.5, 12), 1: (19, 14.4, 15.2, 36), 4: (20.9, 20.5, 67, 255)}  # busy processes: threads


def tokens(tuner, busy, n):
    """Mean milliseconds of n tokens, with a spread of 20%."""
    rng, times = np.random.default_rng(0), []
    for _ in range(n):
        choice = tuner.next()
        times.append(MILLISECONDS[busy][tuner.choices[choice] - 1] * rng.uniform(0.9, 1.1))
        tuner.learn(choice, times[-1])
    return np.mean(times)


@pytest.mark.parametrize("busy", MILLISECONDS)
def test_the_tuner_finds_the_fastest_number_of_threads_and_looks_little(busy):
    tuner = threads.Tuner(4)
    assert tokens(tuner, busy, 40) < 1.3 * min(MILLISECONDS[busy])
    assert tokens(tuner, busy, 400) < 1.12 * min(MILLISECONDS[busy])


def test_the_tuner_follows_a_load_that_comes_and_goes():
    tuner = threads.Tuner(4)
    tokens(tuner, 0, 100)
    tokens(tuner, 4, 100)
    assert tokens(tuner, 4, 100) < 1.15 * min(MILLISECONDS[4])
    tokens(tuner, 0, 200)
    assert tokens(tuner, 0, 100) < 1.12 * min(MILLISECONDS[0])


@pytest.mark.parametrize("n, choices", [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (7, [1, 2, 3, 4, 6, 7]),
                                        (20, [1, 2, 3, 4, 6, 8, 12, 16, 20])])
def test_the_tuners_choices(n, choices):
    assert threads.Tuner(n).choices == choices
