"""Threads: the same results whatever their number, and nothing left behind, whatever happens."""
import _thread
import contextlib
import ctypes
import math
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from helpers import ROOT, in_threads, random_model, read_json, wait_for

import gpt2 as gpt2_module
from backend import blas as blas_module
from backend import chunks, cores, passes, products, team
from backend.blas import Blas, blas
from backend.tuner import Tuner
from generation.kv_cache import KVCache
from many_texts.batches import side_by_side

MODEL, LONG = random_model(n_embd=64), np.random.default_rng(1).integers(0, 211, 600)
WHOLE = MODEL.logits(LONG, hook=lambda name, x: None)  # with a hook, the whole text goes through each layer at once


def blas_limits():
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def use(monkeypatch):
    """use(n): let each pass have n threads, on however many cores."""
    def use(n):
        monkeypatch.setattr(passes, "n_cores", lambda: n)
        monkeypatch.setattr(cores, "are_idle", lambda: False)  # so that nothing is left to the BLAS

    return use


def n_threads_known():
    """How many threads `threading` knows of, without the dummies that old Pythons keep for others that they met."""
    return sum(not isinstance(thread, threading._DummyThread) for thread in threading.enumerate())


def n_threads_unknown():
    return _thread._count() - (n_threads_known() - 1)


NOT_OURS = n_threads_unknown()  # those of pytest-xdist


def nothing_is_taken():
    """Whether no pass has helpers, limits the BLAS or keeps others from the cores."""
    return n_threads_unknown() == NOT_OURS and not blas.wanted and blas.before is None and not passes.taken


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before, limits, allowed = n_threads_known(), blas_limits(), cores.allowed()
    yield
    wait_for(nothing_is_taken)
    assert n_threads_known() <= before  # those of earlier tests may end meanwhile
    assert blas_limits() == limits
    assert cores.allowed() == allowed


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
    monkeypatch.setattr(chunks, "MIN_CHUNK_ROWS", 8)  # so that short texts are cut into chunks, too
    for case in read_json("shakespeare-greedy.json"):
        assert shakespeare.generate(case["prompt_ids"], len(case["greedy_ids"])) == case["greedy_ids"]
    model, expected = tiny
    for i in range(6):
        assert model.generate(expected[f"prompt_{i}"], 24) == expected[f"greedy_{i}"].tolist()
        np.testing.assert_allclose(model.logits(expected[f"ids_{i}"]), expected[f"logits_{i}"], atol=1e-4)


def is_transposed(x):
    """Whether its rows do not lie one after the other in memory."""
    return x.strides[-1] != x.itemsize and min(x.shape[-2:]) > 1


class Watched(np.ndarray):
    """An array that refuses products of two transposed matrices, as do all that are computed from it."""

    n_products = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if ufunc is np.matmul:
            Watched.n_products += 1
            by_column = out is not None and is_transposed(out[0])  # then NumPy lets the BLAS compute second.T @ first.T
            first, second = (is_transposed(x.swapaxes(-1, -2) if by_column else x) for x in inputs)
            assert not (first and second), [(x.shape, x.strides) for x in [*inputs, *(out or [])]]
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


@pytest.mark.parametrize("has_one_thread", [True, False])
def test_a_blas_that_threadpoolctl_does_not_know(monkeypatch, has_one_thread):
    """One that multiplies in the thread that calls it has its work shared out; any other is left alone."""
    monkeypatch.setattr(blas_module, "multiplying", lambda controllers: [])
    monkeypatch.setattr(blas_module, "multiplies_in_one_thread", lambda: has_one_thread)
    monkeypatch.setattr(passes, "blas", Blas())
    monkeypatch.setattr(cores, "n_available", lambda: 3)
    for name in blas_module.LIMITS:
        monkeypatch.delenv(name, raising=False)
    seen, gelu = [], gpt2_module.gelu

    def watched(x):
        seen.append(threading.get_ident())
        time.sleep(0.001)
        return gelu(x)

    monkeypatch.setattr(gpt2_module, "gelu", watched)
    np.testing.assert_allclose(MODEL.logits(LONG), WHOLE, atol=1e-4 * np.abs(WHOLE).max())
    assert len(set(seen)) == (3 if has_one_thread else 1)
    assert len(MODEL.generate(LONG[:9], 5)) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert passes.n_cores() == (2 if has_one_thread else 0)


def test_blis_has_one_thread_by_default(monkeypatch):
    """Then the pass shares the work out, unless the environment says that one is meant."""
    blis = Blas()
    blis.libraries = [types.SimpleNamespace(internal_api="blis", num_threads=1)]
    monkeypatch.setattr(passes, "blas", blis)
    monkeypatch.setattr(cores, "n_available", lambda: 3)
    for name in blas_module.LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert passes.n_cores() == 3
    assert passes.run_on_cores(team.n_threads, n_seq=100, n_layer=1, n_embd=1024) == 3
    monkeypatch.setenv("BLIS_NUM_THREADS", "1")
    assert passes.n_cores() == 1


def test_a_blas_is_measured_where_nothing_says_what_it_does():
    """NumPy's own, with one thread and with its threads."""
    if not blas.libraries or max(blas_limits()) == 1:
        pytest.skip("this BLAS has one thread")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert any(blas_module.multiplies_in_one_thread() for _ in range(50))  # other threads may run meanwhile
    assert not all(blas_module.multiplies_in_one_thread() for _ in range(20))


@pytest.mark.skipif(os.name != "posix", reason="Windows does not say")
def test_of_two_blas_libraries_the_one_is_tuned_that_numpy_multiplies_with():
    class OfAnotherPackage:
        dynlib, check_symbols = ctypes.CDLL(np.random._mt19937.__file__), ["PyInit__mt19937"]

    known = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    assert OfAnotherPackage not in blas_module.multiplying([OfAnotherPackage, *known])
    multiplying = blas_module.multiplying(known)
    assert blas_module.multiplying([*known, OfAnotherPackage, *known]) == [*multiplying, *multiplying]
    if "scipy-openblas" in np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]:  # NumPy from PyPI
        assert ["numpy" in library.filepath for library in multiplying] == [True]


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

    with pytest.raises(MemoryError, match="no more"):
        passes.run_on_cores(lambda: team.share(work, range(1000)), n_seq=2, n_layer=1, n_embd=1024)
    assert len(done) < 50


def test_a_hook_may_make_a_pass_of_its_own(use):
    use(3)
    teams = []

    def hook(name, x):
        if name in ("blocks.0.resid_pre", "blocks.1.resid_pre"):
            teams.append(team.n_threads())
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
    def forward():
        assert team.n_threads() == 5
        np.testing.assert_array_equal(layers(x, cache.layers, 130, None, 1), x[170:])

    passes.run_on_cores(forward, 300, cache.n_layer, cache.n_embd)


@pytest.mark.parametrize("others_run", [True, False])
def test_where_others_run_no_thread_waits_for_one_that_gets_no_core(use, monkeypatch, others_run):
    """On an idle machine, the BLAS's own threads are faster for few rows; they wait for one another."""
    use(4)
    monkeypatch.setattr(Blas, "has_one_thread", False)
    monkeypatch.setattr(cores, "are_idle", lambda: not others_run)
    assert passes.run_on_cores(team.n_threads, n_seq=100, n_layer=1, n_embd=1024) == (4 if others_run else 0)


@pytest.mark.parametrize("n_past, n_seq, n", [(0, 1023, 4), (0, 512, 2), (700, 323, 3), (0, 260, 4)])
def test_chunks_are_equal_work(n_past, n_seq, n):
    cuts = chunks.equal_work(n_past, n_seq, n)
    assert cuts[0] == 0 and cuts[-1] == n_seq and len(cuts) == n + 1
    work = [sum(1 + (n_past + i) / 2000 for i in range(a, b)) for a, b in zip(cuts, cuts[1:])]
    assert max(work) - min(work) < 8 * work[-1] / (cuts[-1] - cuts[-2])
    assert not any(cut % 4 for cut in cuts[:-1])  # 4 rows are multiplied at a time


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
    kinds = set()
    with np.errstate(all="call", call=lambda kind, flag: kinds.add(kind)):
        model.logits(LONG)
    assert "overflow" in kinds


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


FORKS = """
import os, sys, threading
sys.path[:0] = ["tests", "."]
import numpy as np
from helpers import random_model
from backend import blas, passes
passes.n_cores = lambda: 3
model, ids = random_model(n_embd=64), list(range(200)) * 3
expected, limit = model.logits(ids), blas.blas.n_threads()

def fork():
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pid

def is_as_ever():
    same = np.allclose(model.logits(ids), expected, atol=1e-3) and len(model.generate(ids[:9], 9)) == 9
    return same and blas.blas.n_threads() == limit and not passes.taken and not blas.blas.wanted
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("script", [
    """
# while another thread is in a pass
in_a_pass, has_forked = threading.Event(), threading.Event()
other = lambda: passes.run_on_cores(lambda: in_a_pass.set() or has_forked.wait(), 600, 1, 64)
thread = threading.Thread(target=other)
thread.start()
in_a_pass.wait()
pid = fork()
if pid == 0:
    os._exit(0 if is_as_ever() else 1)
has_forked.set()
thread.join()
""", """
# in a hook, whose pass goes on in both processes
pids = []
hook = lambda name, x: pids.append(fork()) if name == "blocks.0.resid_mid" else None
same = np.allclose(model.logits(ids, hook=hook), expected, atol=1e-3) and is_as_ever()
if 0 in pids:
    os._exit(0 if same else 1)
"""])
def test_a_forked_process_computes_too(script):
    # in a process of its own, because pytest's has other threads
    script = FORKS + script + "assert is_as_ever()"
    result = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", script], cwd=ROOT,
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and not result.stderr, result.stderr


def interrupt_passes(n, seed):
    """Interrupt n passes at random moments, and check after each that nothing is left of it."""
    rng, handler = random.Random(seed), signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    cache = KVCache(n_layer=2, n_head=4, n_ctx=600, n_embd=64)
    n_interrupts, seconds = 0, dict.fromkeys((600, 300, 100, 20, 1), 0.003)
    limits = blas_limits()
    try:
        while n_interrupts < n:
            n_seq, hook = rng.choice(list(seconds)), rng.choice([None, None, lambda name, x: None])
            start = time.perf_counter()
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 1.2) * seconds[n_seq])
                    MODEL.logits(LONG[:n_seq], cache=cache, hook=hook)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                seconds[n_seq] = time.perf_counter() - start  # of a whole pass
                assert cache.length == n_seq
            except KeyboardInterrupt:
                n_interrupts += 1
                wait_for(nothing_is_taken)  # helpers that begin just now end at once
                assert blas_limits() == limits
                assert cache.length in (0, n_seq)  # all or nothing
            cache.length = 0
            if n_interrupts % 50 == 0:
                logits = MODEL.logits(LONG, cache=cache)
                np.testing.assert_allclose(logits, WHOLE, atol=1e-4 * np.abs(WHOLE).max())
                cache.length = 0
    finally:
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer on this system")
@pytest.mark.parametrize("n", [50, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernels", ["AVX-512", "AVX2", ""])
def test_nothing_is_left_of_a_pass_that_ctrl_c_ended(use, monkeypatch, n, kernels):
    use(3)
    for module in (products, passes):
        monkeypatch.setattr(module, "kernels", lambda: kernels)
    interrupt_passes(n, seed=len(kernels))


def test_blas_has_one_thread_while_passes_overlap():
    if not blas.libraries or max(blas_limits()) == 1:
        pytest.skip("this BLAS has one thread")
    limit, seen = blas_limits(), []
    blas.use(2, "one pass")
    seen += blas_limits()
    thread = threading.Thread(target=blas.use, args=(3, "another"))
    thread.start()
    thread.join()
    seen += blas_limits()
    blas.release("one pass")
    seen += blas_limits()
    blas.release("another")
    assert seen == [2, 1, 3] and blas_limits() == limit


@pytest.mark.parametrize("first", ["the pass", "the program's limit"])
def test_a_limit_of_the_program_that_overlaps_another_threads_pass(first):
    """Whichever begins first: after both, the BLAS has its threads again."""
    def in_a_pass(begun, end):
        passes.run_on_cores(lambda: begun.set() or end.wait(30), n_seq=600, n_layer=1, n_embd=64)

    limit, begun, end = blas_limits(), threading.Event(), threading.Event()
    thread = threading.Thread(target=in_a_pass, args=(begun, end))
    if first == "the pass":
        thread.start()
        begun.wait()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        if first == "the pass":
            end.set()
            thread.join()
            time.sleep(0.02)
            assert set(blas_limits()) <= {1}
        else:
            thread.start()
            begun.wait()
    end.set()
    thread.join()
    wait_for(lambda: blas_limits() == limit)
    assert blas_limits() == limit


# --- what there is ---


def test_the_number_of_cores_is_bounded(monkeypatch):
    if not blas.libraries:
        pytest.skip("threadpoolctl does not know this BLAS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(cores, "cpu_limit", lambda: float("inf"))
    for limit in (1, 2, 3):
        with threadpoolctl.threadpool_limits(limit):
            assert passes.n_cores() == limit
    with threadpoolctl.threadpool_limits(3):
        monkeypatch.setattr(cores, "cpu_limit", lambda: 2)
        assert passes.n_cores() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds threads to cores")
@pytest.mark.parametrize("ids, hook, taken_elsewhere, this_threads, helpers", [
    (LONG[:100], None, False, [{7}, {0, 7, 8}], [{0, 8}]),
    (LONG[:100], None, True, [{7}, {8}], [{0, 8}]),
    (LONG[:100], lambda name, x: None, False, [], [{0, 8}, {0, 7, 8}]),
    (LONG, None, False, [], [{0, 8}, {0, 7, 8}]),
], ids=["short", "bound to others meanwhile", "hook", "long"])
def test_short_passes_keep_their_threads_on_their_cores(use, monkeypatch, ids, hook, taken_elsewhere, this_threads,
                                                        helpers):
    bound, here, few_rows = {}, threading.get_ident(), products.few_rows
    monkeypatch.setattr(cores, "current", lambda: {7})
    monkeypatch.setattr(cores, "allowed", lambda: [{0, 7, 8}, *bound.get(threading.get_ident(), [])][-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, to: bound.setdefault(threading.get_ident(), []).append(to))
    monkeypatch.setattr(passes, "MIN_SHARED_WORK", 0)

    def multiply(*arguments):
        if taken_elsewhere and threading.get_ident() == here and len(bound[here]) == 1:
            os.sched_setaffinity(0, {8})  # as `taskset` does
        few_rows(*arguments)

    monkeypatch.setattr(products, "few_rows", multiply)
    use(3)
    MODEL.logits(ids, hook=hook)
    assert bound.pop(here, []) == this_threads
    assert list(bound.values()) == [helpers] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds threads to cores")
def test_cores_that_there_are_not():
    before = os.sched_getaffinity(0)
    assert len(cores.current()) == 1 and cores.current() <= cores.allowed() == before
    cores.bind_to({10**6})
    cores.bind_to(set())
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not os.path.exists("/proc/loadavg"), reason="only Linux tells what runs")
def test_a_busy_process_is_seen():
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        wait_for(lambda: not any(cores.are_idle() for _ in range(20)))
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.parametrize("variable", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_environment_bounds_the_number_of_cores(variable):
    script = "from backend import passes; print(passes.n_cores())"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**environment, variable: "1"},
                            capture_output=True, text=True, check=True)
    assert result.stdout in ("1\n", "0\n") if not blas.libraries else result.stdout == "1\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
@pytest.mark.parametrize("work", ["measured([list(range(201))] * 4, params, n_head, measure)",
                                  "generate_batch([list(range(200))] * 4, params, n_head, 2)"])
def test_batches_keep_freed_memory_where_the_environment_hands_it_back(work):
    script = f"""
import resource
from many_texts.batches import generate_batch, measure, measured
from utils import load_encoder_hparams_and_params
_, hparams, params = load_encoder_hparams_and_params("shakespeare")
n_head, faults = hparams["n_head"], []
for _ in range(3):
    {work}
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[2] - faults[1])
"""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask sets it for its workers
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True,
                            check=True)
    assert int(result.stdout) < 1000  # pages that were mapped again, of some 90,000


NO_LIMIT = float("inf")


@pytest.mark.parametrize("membership, files, n", [
    ("0::/", {}, NO_LIMIT),
    ("0::/", {"cpu.max": "max 100000"}, NO_LIMIT),
    ("0::/", {"cpu.max": "150000 100000"}, 2),
    ("0::/", {"cpu.max": "50000 100000"}, 1),
    ("0::/user/run:1.scope", {"user/run:1.scope/cpu.max": "300000 100000"}, 3),
    ("0::/user/run:1.scope", {"user/cpu.max": "100000 100000", "user/run:1.scope/cpu.max": "max 100000"}, 1),
    ("0::/../elsewhere", {"cpu.max": "200000 100000"}, 2),
    ("4:cpuset:/a\n3:cpu,cpuacct:/\n0::/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, NO_LIMIT),
    ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ("3:cpuacct,cpu:/docker/1", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),  # its root
    ("3:cpu:/a/b", {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}, 1),
    (None, {"cpu.max": "50000 100000"}, NO_LIMIT),  # not on Linux
])
def test_a_containers_cpu_limit(tmp_path, membership, files, n):
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text + "\n")
    if membership is not None:
        (tmp_path / "membership").write_text(membership + "\n")
    assert cores.cpu_limit(tmp_path / "root", tmp_path / "membership") == n


@pytest.fixture
def control_group():
    """A control group with a limit of one core, where this process may make one."""
    for folder, quota in (("/sys/fs/cgroup", {"cpu.max": "100000 100000"}),
                          ("/sys/fs/cgroup/cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"})):
        group = Path(folder) / f"gpt2-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
        if all((group / name).exists() for name in quota):
            break
        if group.exists():
            group.rmdir()
    else:
        pytest.skip("no control group with a CPU limit can be made here")
    for name, value in quota.items():
        (group / name).write_text(value)
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_a_process_in_a_control_group(control_group):
    script = f"""
import os
open({str(control_group / "cgroup.procs")!r}, "w").write(str(os.getpid()))
from backend import passes
print(passes.n_cores())
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


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
    tuner = Tuner(4)
    assert tokens(tuner, busy, 40) < 1.3 * min(MILLISECONDS[busy])
    assert tokens(tuner, busy, 400) < 1.12 * min(MILLISECONDS[busy])


def test_an_idle_machine_loses_little_time_to_fewer_threads():
    tuner = Tuner(3)
    tokens(tuner, 0, 40)
    assert tokens(tuner, 0, 400) < 1.025 * min(MILLISECONDS[0])


def test_the_tuner_follows_a_load_that_comes_and_goes():
    tuner = Tuner(4)
    tokens(tuner, 0, 100)
    tokens(tuner, 4, 100)
    assert tokens(tuner, 4, 100) < 1.15 * min(MILLISECONDS[4])
    tokens(tuner, 0, 200)
    assert tokens(tuner, 0, 100) < 1.12 * min(MILLISECONDS[0])


@pytest.mark.parametrize("fastest", [1, 2, 7, 20])
def test_the_tuner_finds_any_number_of_threads(fastest):
    """Twice as many threads, or half, cost 10% and more: within 400 tokens it stays near the fastest."""
    tuner, times = Tuner(20), []
    for _ in range(400):
        choice = tuner.next()
        times.append(1 + 0.1 * abs(math.log2(tuner.choices[choice] / fastest)))
        tuner.learn(choice, times[-1])
    assert np.mean(times[200:]) < 1.08
