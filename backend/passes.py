"""Passes: how each uses the cores, whether the machine is idle or busy.

A BLAS shares each product out among its threads, and in each of the 50 products of a pass they wait for one another.
That costs twice. Between the products a single core works. And when another program takes a core, the BLAS thread that
ran there holds up all others: next to four busy processes, a token took 255 ms instead of 10.

So the work is shared out in larger pieces, each computed with one BLAS thread:

- A long prompt is cut into one or two chunks of rows for each core. Each chunk goes through all layers in one thread
  (`backend.chunks`).
- For fewer rows, each weight matrix is cut into panels, or the feed-forward network into groups of hidden units, and a
  thread takes the next one when it is free (`backend.products`). A thread that gets no core leaves its panel to the
  others. Next to two busy processes on four cores, 128 tokens took 625 ms with the BLAS's threads and 95 ms with
  panels. With more than two cores, the BLAS's threads are faster on an idle machine, so they are used while nothing
  else runs.
- A single row, the next token, is computed with the number of threads that has been fastest lately (`backend.tuner`).
  They are the BLAS's, or with AVX2, where its product of a matrix and a vector is slow, those of the pass.

The BLAS has one number of threads for the whole process, so this is for one pass at a time. Passes that run meanwhile,
in other threads of the program, are each computed by their own thread alone. Where the BLAS never uses more than one
thread, the pass shares out everything, a single row too.
"""
import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from backend import cores
from backend.blas import blas
from backend.chunks import min_rows_for_chunks
from backend.memory import keep_freed_memory
from backend.products import kernels
from backend.team import Team, this_thread
from backend.tuner import tuner_for
from generation.hooks import no_hook

MIN_SHARED_WORK = 2**20  # multiplications: a product of fewer is over before another thread could help

Result = TypeVar("Result")
taken: dict[str, "Pass"] = {}  # "cores": the pass that uses them all


def on_the_cores(forward: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A decorator of a forward pass, whose arguments are those of `gpt2.gpt2`: it uses the cores as described above."""

    @functools.wraps(forward)
    def run(inputs: np.ndarray, wte: np.ndarray, wpe: np.ndarray, blocks: list[Any], *arguments: Any, hook: Any,
            **options: Any) -> np.ndarray:
        go = functools.partial(forward, inputs, wte, wpe, blocks, *arguments, hook=hook, **options)
        return run_on_cores(go, len(inputs), len(blocks), wte.shape[1], hook is not no_hook)

    return run


def run_on_cores(go: Callable[[], Result], n_seq: int, n_layer: int, n_embd: int, has_hook: bool = False) -> Result:
    """go(), a pass over n_seq rows of a model of this size, which uses the cores as described above.

    A hook is always called in the caller's thread, with whole arrays.
    """
    keep_freed_memory()
    n = n_cores()
    if n == 0:  # everything is left to the BLAS
        return go()
    this_pass = Pass()
    try:
        try:
            return this_pass.run(go, n, n_seq, n_layer, n_embd, has_hook)
        finally:
            this_pass.end()
    finally:
        this_pass.end()  # Ctrl-C may have come before or within the first one


def n_cores() -> int:
    """How many cores a pass may use: no more than the BLAS may; 0 leaves everything to the BLAS."""
    return min(cores.n_available(), blas.n_threads())


class Pass:
    """The cores and threads of a pass. `end` gives them back, whenever Ctrl-C comes; it may be called twice."""

    def __init__(self) -> None:
        self.team: Team | None = None
        self.thread = threading.get_ident()
        self.outer_team = getattr(this_thread, "team", None)  # of a pass whose hook makes this one

    def run(self, go: Callable[[], Result], n: int, n_seq: int, n_layer: int, n_embd: int, has_hook: bool) -> Result:
        """go() on n cores, in the fastest of the ways described above."""
        this_thread.n_cores = n
        is_first = taken.setdefault("cores", self) is self  # in one step, even for Ctrl-C
        is_small = n_seq > 1 and n_seq * n_embd**2 < MIN_SHARED_WORK  # a layer's smallest product
        if not is_first or n == 1 or is_small:
            return self.with_team(1, go)
        is_short = n_seq < min_rows_for_chunks(n)
        is_bound = is_short and not has_hook  # a thread or a process that a hook starts would be bound, too
        if blas.has_one_thread:
            return self.with_team(n, go, is_bound)
        if n_seq == 1:
            tuner = tuner_for(n_layer, n_embd, n, has_hook)
            choice = tuner.next()
            start = time.perf_counter()
            if kernels() == "AVX2":  # never the BLAS's threads: a row is rounded the same with any number of threads
                result = self.with_team(tuner.choices[choice], go, is_bound)
            else:
                blas.use(tuner.choices[choice], self)
                result = go()
            tuner.learn(choice, time.perf_counter() - start)
            return result
        if n > 2 and is_short and cores.are_idle():
            return go()
        return self.with_team(n, go, is_bound)

    def with_team(self, n: int, go: Callable[[], Result], is_bound: bool = False) -> Result:
        blas.use(1, self)
        self.team = Team(n, is_bound)
        self.team.start()
        this_thread.team = self.team
        return go()

    def end(self) -> None:
        this_thread.team = self.outer_team
        blas.release(self)
        if taken.get("cores") is self:
            del taken["cores"]
        if self.team:
            self.team.stop()


def after_fork() -> None:
    """In a forked process: the helpers do not exist here, nor the passes of other threads."""
    here = [one for one in {*blas.wanted, *taken.values()} if one.thread == threading.get_ident()]
    blas.after_fork(here)
    if taken.get("cores") not in here:
        taken.clear()
    for one in here:
        if one.team:
            one.team.n_helpers = 0  # so that nobody waits for them


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)
