"""Dask: the workers, and the blocks that they work on."""
import concurrent.futures
import contextlib
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PATIENCE = 60  # seconds to wait for the first worker of a cluster
WITHOUT_PROJECT = ("a worker cannot run this ({}): start the workers in a clone of this project, with the packages of "
                   "many_texts/requirements.txt, as docs/many-texts.md says")


@contextlib.contextmanager
def connected(scheduler: str | None, n_workers: int | None) -> Iterator[Any]:
    """A `distributed.Client`: of a running scheduler, or of a local cluster of one process a core that ends with it.

    Args:
        scheduler: its address, tcp://host:8786, or None.
        n_workers: how many local processes; None is one for each core.
    """
    import dask
    import distributed

    for name in ("distributed", *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker that dies is replaced; errors are raised as well
    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
    # Dask keeps its last 1,000 messages, which hold texts: 200 MB. Its profiler takes 3% of the workers' time.
    settings = {"distributed.admin.low-level-log-length": 10, "distributed.worker.profile.enabled": False}
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if scheduler is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the dashboard's port is taken: another one is
                # Dask measures mapped weights as each worker's own memory, and would kill it for them.
                address = stack.enter_context(distributed.LocalCluster(
                    n_workers=n_workers or dask.system.CPU_COUNT, threads_per_worker=1, memory_limit=0,
                    dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL, preload=["many_texts.work"]))
        else:
            address = scheduler
        try:
            client = stack.enter_context(distributed.Client(address, timeout=10))
        except (OSError, ValueError) as error:
            raise ConnectionError(f"there is no Dask scheduler at {scheduler}: {error}; start one with: dask "
                                  "scheduler") from None
        if scheduler is not None:
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError:
                raise ConnectionError(f"no worker has come to {scheduler} within {PATIENCE} s; start one with: "
                                      f"dask worker {scheduler} --nthreads 1 --memory-limit 0") from None
        yield client


def on_all(client, function: Callable, *arguments) -> Any:
    """What `function(*arguments)` returns on each worker: the same on all of them, or ValueError.

    Raises what it raises; ValueError where a worker does not have this project.
    """
    try:
        answers = client.run(function, *arguments)
    except Exception as error:
        if type(error) is not Exception:  # what the function raised
            raise
        raise ValueError(WITHOUT_PROJECT.format(error)) from None
    if len(set(answers.values())) > 1:
        raise ValueError("the workers do not have the same model: " + ", ".join(f"{worker} has {answer}" for worker,
                                                                                 answer in answers.items()))
    return next(iter(answers.values()))


def finished(client, function: Callable, blocks: Iterable[tuple[int, list]]) -> Iterator[tuple[int, list, list]]:
    """The blocks as they are finished: (number, texts, rows), where the rows are `function(texts)`.

    Only a few blocks a worker are under way at a time, so that memory does not grow with their number. When a worker
    dies, Dask gives its blocks to others. A block that was there when several workers died is run again with nothing
    beside it: so a text that is to blame is found, by halves, and only that one gets an error.

    Args:
        client: a `distributed.Client`.
        function: callable list of texts -> list of rows (dicts), one for each.
        blocks: (number, list of `work.Text`).
    """
    import distributed

    under_way: dict[int, tuple[list, list]] = {}  # number -> (texts, rows)
    parts: dict[Any, tuple[int, slice]] = {}  # future -> (number, which of its texts)
    suspects: list[tuple[int, slice]] = []
    futures, blocks, alone = distributed.as_completed(), iter(blocks), False

    def submit(number, part):
        future = client.submit(function, under_way[number][0][part], pure=False)
        parts[future] = number, part
        futures.add(future)

    try:
        while True:
            room = 2 * sum(client.nthreads().values()) + 2 - len(under_way)
            for number, texts in itertools.islice(blocks, 0 if alone else max(room, 0)):
                under_way[number] = texts, [None] * len(texts)
                submit(number, slice(0, len(texts)))
            if not parts and suspects:
                submit(*suspects.pop())
                alone = True
            if not parts:
                return
            future = next(futures)
            number, part = parts.pop(future)
            texts, rows = under_way[number]
            try:
                rows[part] = future.result()
            except distributed.scheduler.KilledWorker as error:
                middle = (part.start + part.stop) // 2
                if not alone:
                    suspects.append((number, part))
                elif middle > part.start:
                    suspects += (number, slice(part.start, middle)), (number, slice(middle, part.stop))
                else:
                    rows[part] = [{"error": f"the worker died, {error.allowed_failures + 1} times: is there enough "
                                            "memory for this text?"}]
            except ModuleNotFoundError as error:
                raise ValueError(WITHOUT_PROJECT.format(error)) from None
            alone = False
            if None not in rows:
                del under_way[number]
                yield number, texts, rows
    except (concurrent.futures.CancelledError, distributed.comm.CommClosedError):
        raise ConnectionError("the scheduler is gone") from None
