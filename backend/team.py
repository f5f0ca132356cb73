"""A team: the threads that share out the work of one pass."""
import _thread
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from backend import cores

# .team: the threads with which this one shares its work; .n_cores: of its pass; .rows_alone: `products.each_row_alone`
this_thread = threading.local()


def share(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call work(item) for each item: begun in order, by all threads of the pass, or in this one if it has no others.

    An exception ends it: no item is begun after it, and it is raised here.
    """
    team = getattr(this_thread, "team", None)
    if team is None:
        for item in items:
            work(item)
        return
    this_thread.team = alone  # a share is not shared out again
    try:
        team.share(work, items)
    finally:
        this_thread.team = team


def n_threads() -> int:
    """How many threads `share` uses here; 0 if the work is left to the BLAS and its threads."""
    team = getattr(this_thread, "team", None)
    return team.n if team else 0


def has_one_core() -> bool:
    """Whether a single core is all that a pass of this thread may use, even if nothing else runs."""
    return getattr(this_thread, "n_cores", None) == 1


class Team:
    """n threads for the time of one pass: this one and n - 1 helpers, which wait for jobs.

    After a pause, Linux runs a thread that waits for another on the core of that one, where they get into each other's
    way: a token took 27 ms instead of 22, 10 tokens 62 instead of 52 (two cores). So the helpers begin on other cores.
    If the team is bound, they stay there, and this thread stays on its own core until the end: after a pause, 2 to 32
    tokens take 0.85 of the time (two cores, AVX-512).

    Ctrl-C may come between any two steps of `start` and `stop`. `stop` undoes whatever `start` has done by then, and
    if it was cut short itself, calling it again does the rest. threading.Thread does not allow that: its `start` may be
    left with a thread that cannot be waited for.
    """

    def __init__(self, n: int, is_bound: bool = False):
        self.n, self.is_bound = n, is_bound
        self.jobs: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in range(n - 1)]  # of each helper
        self.n_helpers = 0
        self.ended: list[bool] = []  # one for each helper that has ended
        self.one_has_ended: SimpleQueue[None] = SimpleQueue()
        self.cores: set[int] = set()  # on which this thread may run
        self.bound_to: set[int] = set()  # those of them to which it is bound now

    def start(self) -> None:
        self.cores, here = cores.allowed(), cores.current()
        for jobs in self.jobs:
            _thread.start_new_thread(self.help, (jobs, self.cores - here))
            self.n_helpers += 1
        if self.is_bound and self.jobs:
            self.bound_to = here
            cores.bind_to(here)

    def stop(self) -> None:
        """End the helpers and wait until they have ended."""
        if self.bound_to and cores.allowed() == self.bound_to:  # nobody has bound it to others meanwhile
            cores.bind_to(self.cores)
        for jobs in self.jobs:
            jobs.put(None)
        while len(self.ended) < self.n_helpers:
            with contextlib.suppress(Empty):
                self.one_has_ended.get(timeout=0.1)  # limited, because Ctrl-C may have come just after the last one

    def help(self, jobs: "SimpleQueue[Job | None]", other_cores: set[int]) -> None:
        """What a helper does: work off jobs until there is None."""
        cores.bind_to(other_cores)  # Linux would begin it on the core of the thread that starts it
        if not self.is_bound:
            cores.bind_to(self.cores)
        this_thread.team = alone
        while job := jobs.get():
            with np.errstate(**job.errstate):
                job.work_off()
        self.ended.append(True)
        self.one_has_ended.put(None)

    def share(self, work: Callable[[Any], None], items: Iterable[Any]) -> None:
        job = Job(work, items)
        try:
            for jobs in self.jobs:
                jobs.put(job)
            job.work_off()
            for _ in range(job.n_items):
                if error := job.results.get():
                    raise error
        finally:
            job.items.clear()  # after Ctrl-C nobody begins another


alone = Team(1)  # of a thread that has no others


class Job:
    """Items of work, of which each thread takes the next one when it is free."""

    def __init__(self, work: Callable[[Any], None], items: Iterable[Any]):
        self.work, self.items = work, deque(items)
        self.n_items = len(self.items)
        self.results: SimpleQueue[BaseException | None] = SimpleQueue()  # of each item: None, or what went wrong
        self.errstate: Any = {**np.geterr(), "call": np.geterrcall()}

    def work_off(self) -> None:
        while self.items:
            try:
                item = self.items.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                self.work(item)
                self.results.put(None)
            except BaseException as error:  # Ctrl-C, too: it is raised where the results are awaited
                self.items.clear()  # nobody begins another
                self.results.put(error)
                return
