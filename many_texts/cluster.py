"""Dask: the workers, and the blocks that they work on."""
import concurrent.futures
import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cli.terminal import notice

PATIENCE = 60  # seconds to wait for the first worker of a cluster
ROUTES = "scheduler.prometheus", "scheduler.info", "scheduler.json", "health", "statics"  # all of Dask's but its proxy
N_STARTS = 3  # of the local workers
N_SECONDS = 0.5  # between two reports of a block's progress
TOPIC = "gpt2-progress"
IN_CLONE = "in a clone of this project, with the packages of many_texts/requirements.txt, as docs/many-texts.md says"
START_WORKER = "python -m dask worker {} --nthreads 1 --memory-limit 0"


@contextlib.contextmanager
def connected(scheduler: str | None, n_workers: int | None) -> Iterator[Any]:
    """A `distributed.Client`: of a running scheduler, or of a local cluster of one process a core that ends with it.

    Args:
        scheduler: its address, tcp://host:8786 or tls://host:8786, or None.
        n_workers: how many local processes; None is one for each core.

    Raises:
        ConnectionError: there is no such scheduler, it has no workers, or the local ones do not start.
    """
    import dask
    import distributed

    for name in ("distributed", *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker that dies is replaced; errors are raised as well
    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
    # Dask keeps its last 1,000 messages, which hold texts: 200 MB. Its profiler takes 3% of the workers' time, and what
    # it measures of itself up to 50 times a second another 2 to 3%.
    settings = {"distributed.admin.low-level-log-length": 10, "distributed.worker.profile.enabled": False,
                "distributed.admin.tick.interval": "2s", "distributed.admin.system-monitor.interval": "2s",
                "distributed.scheduler.http.routes": [f"distributed.http.{name}" for name in ROUTES]}
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if scheduler is None:
            cluster = out_of_reach(lambda: local_cluster(n_workers or dask.system.CPU_COUNT))
            stack.callback(out_of_reach, cluster.close)
        try:
            client = stack.enter_context(distributed.Client(cluster if scheduler is None else scheduler, timeout=10))
        except (OSError, ValueError, TypeError) as error:  # TypeError: there is no certificate
            advice = ("docs/many-texts.md says how to set the certificates" if str(scheduler).startswith("tls:") else
                      "start one with: python -m dask scheduler")
            raise ConnectionError(f"there is no Dask scheduler at {scheduler}: {error}; {advice}") from None
        if scheduler is not None and not client.nthreads():
            advice = f"start one {IN_CLONE}: {START_WORKER.format(scheduler)}"
            notice(f"waiting up to {PATIENCE} s for a worker to come to {scheduler}; {advice}")
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except distributed.TimeoutError:  # in Python 3.10 not the builtin one
                raise ConnectionError(f"no worker has come to {scheduler} within {PATIENCE} s; {advice}") from None
        yield client


def dashboard_of(client) -> str | None:
    """The address of the scheduler's dashboard; None where there is none, as after --no-dashboard."""
    import requests

    link = client.dashboard_link  # Dask gives one in any case
    with contextlib.suppress(requests.RequestException):  # unreachable from here, but perhaps not from elsewhere
        if requests.head(link, timeout=1).status_code == 404:
            return None
    return link


def local_cluster(n_workers: int) -> Any:
    """Worker processes on this machine, which only this process can give work to: they ask for its certificate."""
    import distributed

    security = distributed.Security.temporary()
    for n_left in reversed(range(N_STARTS)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the dashboard's port is taken: another one is
                # Dask measures mapped weights as each worker's own memory, and would kill it for them.
                return distributed.LocalCluster(n_workers=n_workers, threads_per_worker=1, memory_limit=0,
                                                security=security, dashboard_address="127.0.0.1:0",
                                                silence_logs=logging.CRITICAL, preload=["many_texts.work"])
        except RuntimeError as error:  # a worker died while it started
            if not n_left:
                raise ConnectionError(f"the worker processes do not start ({N_STARTS} attempts): {error}") from None


def out_of_reach(function: Callable[[], Any]) -> Any:
    """What `function()` returns. Ctrl-C interrupts the wait for it, not the function, nor the processes it starts."""
    future: concurrent.futures.Future = concurrent.futures.Future()

    def work():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    with without_interrupts():  # threads and processes begin with the signals blocked that are blocked here
        threading.Thread(target=work, daemon=True).start()
    try:
        return future.result()
    except KeyboardInterrupt:
        future.add_done_callback(close_unwanted)
        concurrent.futures.wait([future], timeout=0.5)  # a process that has just begun reads from this one what to do
        raise


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the end of this `with`. Windows cannot do this: there `work.dask_setup` has to suffice."""
    if sys.platform == "win32":  # where signal has no pthread_sigmask
        yield
        return
    start_resource_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_resource_tracker():
    """Start the process that tidies up after multiprocessing: when Dask did, it would let Ctrl-C through again.

    After Ctrl-C there is something left to tidy up, which that process would give a warning about.
    """
    from multiprocessing import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def close_unwanted(future):
    """Close a cluster that becomes ready when nobody is waiting for it any more."""
    if future.exception() is None and future.result() is not None:
        future.result().close()


def on_all(client, function: Callable, *arguments) -> Any:
    """What `function(*arguments)` returns on each worker: the same on all of them, or ValueError.

    Raises what it raises; ValueError where a worker does not have this project.
    """
    try:
        answers = client.run(function, *arguments)
    except Exception as error:
        if type(error) is not Exception:  # what the function raised
            raise
        raise ValueError(f"a worker cannot run this ({error}): start the workers {IN_CLONE}") from None
    if len(set(answers.values())) > 1:
        raise ValueError("the workers do not have the same model: " + ", ".join(f"{worker} has {answer}" for worker,
                                                                                 answer in answers.items()))
    return next(iter(answers.values()))


def reporter() -> Callable[[float], None]:
    """For a worker: a function that tells the client how many texts of this task are done, parts of texts too."""
    import distributed

    try:
        worker = distributed.get_worker()
    except ValueError:  # called without Dask
        return lambda n: None
    task, last = worker.get_current_task(), time.monotonic()

    def report(n):
        nonlocal last
        if time.monotonic() - last >= N_SECONDS:
            last = time.monotonic()
            worker.log_event(TOPIC, (task, n))

    return report


def finished(client, function: Callable, blocks: Iterable[tuple[int, list]],
             on_progress: Callable[[int], object] = lambda n: None) -> Iterator[tuple[int, list, list]]:
    """The blocks as they are finished: (place, texts, results), where the results are `function(texts)`.

    Only a few blocks a worker are under way at a time, so that memory does not grow with their number. When a worker
    dies, Dask gives its blocks to others. A block that was there when several workers died is run again with nothing
    beside it: so a text that is to blame is found, by halves, and only that one gets an error.

    Args:
        client: a `distributed.Client`.
        function: callable list of texts -> list of `journal.Result`s, one for each.
        blocks: (place of the first text, list of `work.Text`).
        on_progress: called, by another thread, with the number of texts done in the blocks under way (`reporter`).
    """
    import distributed

    under_way: dict[int, tuple[list, list]] = {}  # place -> (texts, results)
    parts: dict[Any, tuple[int, slice]] = {}  # future -> (place, which of its texts)
    suspects: list[tuple[int, slice]] = []
    done: dict[str, float] = {}  # key of a future -> number of its texts that are done
    futures, blocks, alone = distributed.as_completed(), iter(blocks), False

    def submit(place, part):
        future = client.submit(function, under_way[place][0][part], pure=False)
        done[future.key] = 0
        parts[future] = place, part
        futures.add(future)

    def take_note(event):
        key, n = event[1]
        if key in done:
            done[key] = n
            on_progress(int(sum(done.copy().values())))

    client.subscribe_topic(TOPIC, take_note)
    try:
        while True:
            room = 2 * sum(client.nthreads().values()) + 2 - len(under_way)
            for place, texts in itertools.islice(blocks, 0 if alone else max(room, 0)):
                under_way[place] = texts, [None] * len(texts)
                submit(place, slice(0, len(texts)))
            if not parts and suspects:
                submit(*suspects.pop())
                alone = True
            if not parts:
                return
            future = next(futures)
            place, part = parts.pop(future)
            del done[future.key]
            texts, results = under_way[place]
            try:
                results[part] = future.result()
            except distributed.scheduler.KilledWorker as error:
                middle = (part.start + part.stop) // 2
                if not alone:
                    suspects.append((place, part))
                elif middle > part.start:
                    suspects += (place, slice(part.start, middle)), (place, slice(middle, part.stop))
                else:
                    results[part] = [{"error": f"the worker died, {error.allowed_failures + 1} times: is there enough "
                                               "memory for this text?"}]
            except ModuleNotFoundError as error:
                raise ValueError(f"a worker cannot run this ({error}): start the workers {IN_CLONE}") from None
            alone = False
            if None not in results:
                del under_way[place]
                yield place, texts, results
    except (concurrent.futures.CancelledError, distributed.comm.CommClosedError):
        raise ConnectionError("the scheduler is gone") from None
