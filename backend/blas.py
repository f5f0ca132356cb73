"""The BLAS with which NumPy multiplies: which one it is, and how many threads it uses."""
import _thread
import ctypes
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# the names that the product of two float32 matrices may have, and the variables that limit a BLAS's threads
PRODUCTS = ("scipy_cblas_sgemm64_", "scipy_cblas_sgemm", "cblas_sgemm64_", "cblas_sgemm_64", "cblas_sgemm")
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Blas:
    """The number of threads that the BLAS uses, in the whole process.

    Each running pass asks for a number. If several passes overlap, it is one: the cores are busy anyway. After the
    last pass the BLAS has again the number that it had before the first.

    Ctrl-C may come between any two steps. `release` undoes whatever `use` has done by then, and if it was cut short
    itself, calling it again does the rest.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted: dict[Any, int] = {}  # by the passes that are running
        self.before: list[int] | None = None  # the numbers to give back; None if nothing was changed
        self.is_waiting = False  # to give them back

    @functools.cached_property
    def libraries(self) -> list[Any]:
        """The library with which NumPy multiplies, as threadpoolctl's controllers; empty if unknown there."""
        import threadpoolctl  # with its search for libraries it takes 5 ms

        return multiplying(threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers)

    @property
    def has_one_thread(self) -> bool:
        """Whether it computes each product in the thread that calls it, and not because somebody limits it.

        The reference BLAS always does, BLIS unless it is told otherwise, Apple's Accelerate may use other threads.
        """
        if self.libraries:
            return (all(library.internal_api == "blis" and library.num_threads == 1 for library in self.libraries)
                    and environment_limit() == sys.maxsize)
        return self._was_seen_in_one_thread

    @functools.cached_property
    def _was_seen_in_one_thread(self) -> bool:
        """By a majority of three, since other threads of the program may run meanwhile."""
        return sum(multiplies_in_one_thread() for _ in range(3)) >= 2

    def n_threads(self) -> int:
        """The number of threads that a pass may use: as many as the BLAS has when no pass limits it.

        It is set by OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and the like, or with threadpoolctl. A BLAS that has one
        thread anyway leaves as many to the pass as the environment allows. One that threadpoolctl does not know, and
        that uses threads, leaves 0: they and those of the pass would be in each other's way.
        """
        if self.has_one_thread:
            return environment_limit()
        if not self.libraries:
            return 0
        if self.before is not None and not self.wanted:  # an earlier pass could not give them back
            undisturbed(self._update)
        before = self.before
        return max(self._numbers() if before is None or not self.wanted else before)

    def use(self, n: int, user: object) -> None:
        """From now on, until its `release`, a pass wants the BLAS to use n threads."""
        self.wanted[user] = n
        undisturbed(self._update)

    def release(self, user: object) -> None:
        """The pass is over."""
        if self.wanted.pop(user, None) or self.before is not None and not self.wanted:  # else it was released before
            undisturbed(self._update)

    def _update(self) -> None:
        with self.lock:
            self._apply()
            if not self.wanted and self.before is not None and not self.is_waiting:
                self.is_waiting = True
                _thread.start_new_thread(self._give_back_later, ())

    def _apply(self) -> None:
        """Let the BLAS have the number of threads that the passes want, or what it had before."""
        if wanted := list(self.wanted.values()):
            numbers = [wanted[0] if len(wanted) == 1 else 1] * len(self.libraries)
            if self.before is None:
                before = self._numbers()
                if before == numbers:
                    return
                self.before = before
                self._set(numbers)
                if self._numbers() == before:  # another thread limits it, and will give back what it found
                    self.before = None
            else:
                self._set(numbers)
        elif self.before is not None:
            self._set(self.before)
            if self._numbers() == self.before:
                self.before = None

    def _give_back_later(self) -> None:
        """Give the numbers back when another thread, which has begun to limit the BLAS meanwhile, lets us.

        When its `threadpool_limits` ends, it sets the number that it found, which was that of the pass.
        """
        for i in range(20):
            time.sleep(2**i / 1000)  # in all for 17 minutes; after that, the next pass does it
            with self.lock:
                if not self.wanted:
                    self._apply()
                if self.wanted or self.before is None:
                    break
        self.is_waiting = False

    def _numbers(self) -> list[int]:
        return [library.num_threads for library in self.libraries]

    def _set(self, numbers: list[int]) -> None:
        for library, n in zip(self.libraries, numbers):
            library.set_num_threads(n)  # ignored while another thread limits it
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread()  # else no other thread could set it

    def after_fork(self, users: list[object]) -> None:
        """In a forked process, where only these passes go on: the other threads do not exist here."""
        self.lock, self.is_waiting = threading.Lock(), False
        self.wanted = {user: n for user, n in self.wanted.items() if user in users}
        self._apply()


blas = Blas()


def undisturbed(step: Callable[[], None]) -> None:
    """Run step(); if Ctrl-C comes meanwhile, raise it at the end.

    Python raises it in the main thread between any two steps. In Python 3.14 that may be between taking a lock and the
    `with` block that gives it back, here or in threadpoolctl: then everybody who needs the lock would wait for ever.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        step()
        return
    came: list[tuple[Any, Any]] = []
    try:
        signal.signal(signal.SIGINT, lambda *signal_and_frame: came.append(signal_and_frame))
        step()
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[-1])


# --- which BLAS it is -----------------------------------------------------------------------------


class DlInfo(ctypes.Structure):
    """Dl_info of dlfcn.h: where a function comes from."""

    _fields_ = [("fname", ctypes.c_char_p), ("fbase", ctypes.c_void_p), ("sname", ctypes.c_char_p),
                ("saddr", ctypes.c_void_p)]


def address(library: ctypes.CDLL, name: str) -> int | None:
    """Where a library or one of those that it needs has a function; None if none has it."""
    function = getattr(library, name, None)
    return function and ctypes.cast(function, ctypes.c_void_p).value


def multiplying(controllers: list[Any]) -> list[Any]:
    """Those of the BLAS libraries that NumPy multiplies with: others may be loaded, for LAPACK or by other packages.

    Debian's libblas.so.3 may be a library of its own that needs libopenblas.so. So this looks where NumPy's sgemm comes
    from, and which of the libraries that one is or needs.
    """
    if os.name != "posix":  # Windows does not say; NumPy brings one library along there
        return controllers
    module = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    numpy_itself, info = ctypes.CDLL(module.__file__), DlInfo()
    sgemm = next(filter(None, (address(numpy_itself, name) for name in PRODUCTS)), None)
    if not sgemm or not ctypes.CDLL(None).dladdr(ctypes.c_void_p(sgemm), ctypes.byref(info)):
        return []  # Accelerate's has another name
    blas = ctypes.CDLL(os.fsdecode(info.fname))
    return [controller for controller in controllers
            if any(address(blas, name) == address(controller.dynlib, name) is not None
                   for name in controller.check_symbols)]


def multiplies_in_one_thread() -> bool:
    """Whether a product takes no processor time of this process but that of this thread. It takes 20 ms."""
    a = np.ones((512, 512), np.float32)
    a @ a  # starts its threads
    process, thread = time.process_time(), time.thread_time()
    while (in_this := time.thread_time() - thread) < 0.02:
        a @ a
    return time.process_time() - process - in_this < 0.1 * in_this


def environment_limit() -> int:
    """The smallest number of threads that the environment sets for a BLAS of any kind."""
    values = [os.environ.get(name, "") for name in LIMITS]
    return min((int(value) for value in values if value.isdecimal() and int(value) > 0), default=sys.maxsize)
