"""Threads: how a pass uses the cores, whether the machine is idle or busy.

A BLAS shares each product out among its threads, and in each of the 50 products of a pass they wait for one another.
That costs twice. Between the products a single core works: on four cores, 1,023 tokens took 2.8 times as long as their
products. And when another program takes a core, the BLAS thread that ran there holds up all others: beside four busy
processes, a token took 255 ms instead of 10.

So the work is shared out in larger pieces, each computed with one BLAS thread:

- A long prompt is cut into one or two chunks of rows for each core. Each chunk goes through all layers in one thread
  (`in_chunks`).
- For fewer rows, each weight matrix is cut into panels, and a thread takes the next one when it is free (`share`). A
  thread that gets no core leaves its panel to the others. Beside two busy processes on four cores, 128 tokens took
  625 ms with the BLAS's threads and 95 ms with panels. On an idle machine, the BLAS's threads are the faster ones for
  more than 64 rows, and with more than two cores for any number (32 rows on four cores: 23 ms, and 35 with panels). So
  they do it where nothing else runs.
- A single row, the next token, is too little work for that. The BLAS computes it, with the number of threads that has
  been fastest lately (`Tuner`).

The BLAS has one number of threads for the whole process, so this is for one pass at a time. Passes that run meanwhile,
in other threads of the program, are each computed by their own thread alone.
"""
import contextlib
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from backend.memory import keep_freed_memory
from generation.hooks import no_hook

MAX_PANEL_ROWS = 64  # up to so many rows, panels are faster than the BLAS's threads on two cores
MIN_CHUNK_ROWS = 64  # a chunk of fewer rows multiplies slowly
MAX_ROWS_IN_ONE = 256  # from so many rows on, chunks are faster, with any number of threads

turn = threading.Lock()  # held by the pass that uses the cores
this_thread = threading.local()  # .team: the threads with which this one shares its work


@contextlib.contextmanager
def cores_for(n_seq: int, n_layer: int, n_embd: int, has_hook: bool = False) -> Iterator[None]:
    """Within this context, a pass over n_seq rows of a model of this size uses the cores as described above.

    A hook is always called in the thread that called, with whole arrays.
    """
    n = n_cores()
    if n == 0:
        yield
        return
    outer = getattr(this_thread, "team", None)  # of a pass whose hook makes a pass
    alone = turn.acquire(blocking=False)
    try:
        if not alone or n == 1 or 1 < n_seq < 2**20 / n_embd**2:  # the last: over before others could help
            with blas.limited(1), Team(1) as this_thread.team:
                yield
        elif n_seq == 1:
            with tuner(n_layer, n_embd, n, has_hook).timed() as n_fastest, blas.limited(n_fastest):
                yield
        elif n_seq < min_rows_for_chunks(n) and (n > 2 or n_seq > MAX_PANEL_ROWS) and idle():
            yield
        else:
            with blas.limited(1), Team(n) as this_thread.team:
                yield
    finally:
        this_thread.team = outer
        if alone:
            turn.release()


def on_the_cores(forward: Callable) -> Callable:
    """A decorator of a forward pass, whose arguments are those of `gpt2.gpt2`: it uses the cores as described above."""

    @functools.wraps(forward)
    def run(inputs, wte, wpe, blocks, *arguments, hook, **options):
        keep_freed_memory()
        with cores_for(len(inputs), len(blocks), wte.shape[1], hook is not no_hook):
            return forward(inputs, wte, wpe, blocks, *arguments, hook=hook, **options)

    return run


def min_rows_for_chunks(n: int) -> int:
    """From how many rows on a pass with n threads goes in chunks: with two cores 128 do, with four 256."""
    return min(n * MIN_CHUNK_ROWS, MAX_ROWS_IN_ONE)


# --- what there is ------------------------------------------------------------------------------


def n_cores() -> int:
    """How many threads a pass may use: the cores of this process, and no more than the BLAS was allowed.

    The BLAS knows OPENBLAS_NUM_THREADS, OMP_NUM_THREADS, and what the program set with threadpoolctl. With a BLAS that
    threadpoolctl does not know, such as Apple's Accelerate, it is 0: the threads would be in each other's way.
    """
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n = int(min(n, cpu_quota()))
    return min(n, blas.allowed())


def idle() -> bool:
    """Whether nothing but this process runs on the machine now; False where the system does not say."""
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        for task in os.listdir("/proc/self/task"):  # a BLAS thread goes on waiting for work for a while, and runs
            running -= Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:  # not on Linux, or a thread has just ended
        return False
    return running <= 0


@functools.cache
def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """The number of cores that a container's CPU limit amounts to, rounded up; infinity where there is none."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # cgroup v2, v1
        try:
            quota, period = " ".join((root / file).read_text() for file in files).split()
            if int(quota) > 0:
                return -(-int(quota) // int(period))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return float("inf")


class Blas:
    """The number of threads that the BLAS uses, in the whole process."""

    def __init__(self) -> None:
        self.lock, self.n_users, self.before = threading.Lock(), 0, []  # type: ignore[var-annotated]

    @functools.cached_property
    def libraries(self) -> list:
        """The BLAS libraries that are loaded, each with `num_threads` and `set_num_threads`; those that are known."""
        import threadpoolctl  # with its search for libraries it takes 5 ms

        return threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers

    def allowed(self) -> int:
        """The number of threads that it has when nothing here limits it; 0 if the library is not known."""
        with self.lock:
            return max(self.before if self.n_users else self.numbers(), default=0)

    def numbers(self) -> list[int]:
        return [library.num_threads for library in self.libraries]

    def set(self, numbers: Iterable[int]) -> None:
        for library, n in zip(self.libraries, numbers):
            library.set_num_threads(n)
            if hasattr(library, "clear_controlling_thread"):  # else threadpoolctl 3.8 lets no other thread set it
                library.clear_controlling_thread()

    @contextlib.contextmanager
    def limited(self, n: int) -> Iterator[None]:
        """Within this context it has n threads, or one where contexts overlap: then the cores are busy anyway."""
        with self.lock:
            if self.n_users == 0:
                self.before = self.numbers()
            self.n_users += 1
            self.set([n if self.n_users == 1 else 1] * len(self.libraries))
        try:
            yield
        finally:
            with self.lock:
                self.n_users -= 1
                if self.n_users == 0:
                    self.set(self.before)


blas = Blas()


def after_fork() -> None:
    """In a child that was forked while another thread was in a pass: that thread does not exist here."""
    global turn, blas
    before, turn, blas = blas, threading.Lock(), Blas()
    if before.n_users:
        blas.set(before.before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


# --- sharing work out ---------------------------------------------------------------------------


class Team:
    """n threads for the time of one pass: this one and n - 1 others, which end with the context."""

    def __init__(self, n: int):
        self.n = n
        self.jobs: list[SimpleQueue] = [SimpleQueue() for _ in range(n - 1)]

    def __enter__(self):
        self.threads = [threading.Thread(target=self.help, args=(jobs,), daemon=True) for jobs in self.jobs]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error):
        for jobs in self.jobs:
            jobs.put(None)
        for thread in self.threads:
            if thread.ident:
                thread.join()

    @staticmethod
    def help(jobs):
        while job := jobs.get():
            with np.errstate(**job.errstate):
                job.work_off()

    def share(self, work, items):
        job = Job(work, items)
        for jobs in self.jobs:
            jobs.put(job)
        try:
            job.work_off()
            for _ in range(job.n_items):
                if error := job.done.get():
                    raise error
        finally:
            job.items.clear()  # after Ctrl-C nobody begins another


class Job:
    """Items of work, of which each thread takes the next one when it is free."""

    def __init__(self, work, items):
        self.work, self.items = work, deque(items)
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()
        self.n_items, self.errstate = len(self.items), np.geterr()

    def work_off(self):
        while self.items:
            try:
                item = self.items.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                self.work(item)
                self.done.put(None)
            except BaseException as error:  # Ctrl-C, too: it is raised where the results are awaited
                self.items.clear()  # nobody begins another
                self.done.put(error)
                return


def share(work: Callable[[Any], None], items: Iterable) -> None:
    """Call work(item) for each item: begun in order, by all threads of the pass, or in this one if it has no others.

    An exception ends it: no item is begun after it, and it is raised here.
    """
    team = getattr(this_thread, "team", None)
    if team is None:
        for item in items:
            work(item)
        return
    this_thread.team = None  # a share is not shared out again
    try:
        team.share(work, items)
    finally:
        this_thread.team = team


def n_threads() -> int:
    """How many threads `share` uses here; 0 where the work is left to the BLAS and its threads."""
    team = getattr(this_thread, "team", None)
    return team.n if team else 0


# --- one row ------------------------------------------------------------------------------------


class Tuner:
    """Finds the number of BLAS threads with which a pass over one row is fastest now, and goes on finding it.

    The next token is the same work as the last, so their times can be compared. Every few tokens one is computed with
    more or fewer threads. Beside busy processes such a look may cost as much as 20 tokens, so after a look that cost
    time the next one waits until that was 5% of the time in between.
    """

    LOOKS = 0.05  # of the time
    OFTEN = 8  # passes between two looks that cost nothing

    def __init__(self, n_most: int):
        steps = {2**i * m // 2 for i in range(1, 20) for m in (2, 3)} | {1, n_most}  # 1, 2, 3, 4, 6, 8, 12, ...
        self.choices = sorted(n for n in steps if n <= n_most)
        self.best = (len(self.choices) - 1) // 2  # half of the threads: never far from the fastest
        self.means: dict[int, float] = {}  # running means of seconds
        self.due: dict[int, float] = {}  # when to look at a choice again, on `clock`
        self.clock = 0.0  # the seconds of all passes so far

    @contextlib.contextmanager
    def timed(self):
        choice = self.next()
        start = time.perf_counter()
        yield self.choices[choice]
        self.learn(choice, time.perf_counter() - start)

    def next(self) -> int:
        """The choice for the next pass: the best one, or a neighbour that it is time to look at."""
        if self.best in self.means:
            for neighbour in (self.best + 1, self.best - 1):
                if 0 <= neighbour < len(self.choices) and self.clock >= self.due.get(neighbour, 0):
                    return neighbour
        return self.best

    def learn(self, choice: int, seconds: float) -> None:
        self.clock += seconds
        weight = 1 / 8 if choice == self.best else 1 / 2
        mean = self.means.get(choice, seconds)
        self.means[choice] = mean + weight * (seconds - mean)
        best = self.means[self.best]
        if choice == self.best:
            fewer = self.means.get(choice - 1, float("inf"))
            if fewer < best:  # a load has come, of which fewer threads feel less
                self.best = choice - 1
        elif self.means[choice] < best:
            self.best = choice
        elif seconds >= best:
            self.due[choice] = self.clock + max((seconds - best) / self.LOOKS, self.OFTEN * best)


@functools.lru_cache(maxsize=16)
def tuner(n_layer: int, n_embd: int, n_most: int, has_hook: bool) -> Tuner:
    """The tuner of the models of a size; a hook takes time of its own."""
    return Tuner(n_most)
