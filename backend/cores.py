"""The cores: how many this process may use, whether others use them now, and on which of them a thread begins."""
import contextlib
import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any


def n_available() -> int:
    """The number of cores that this process may use: those it is bound to, within the CPU limit of its container."""
    return int(min(len(allowed()) or os.cpu_count() or 1, cpu_limit()))


@functools.cache
def cpu_limit(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """The number of cores that the CPU limits of this process's control groups amount to, rounded up.

    The process is bound by the limit of its group and by those of all groups around it. A container sees its own group
    as the root of the tree.

    Args:
        root: where the control groups are mounted.
        membership: the file that names the groups of this process, lines of "hierarchy:controllers:/path".

    Returns:
        float, infinity where there is no limit.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not on Linux
        return float("inf")
    limits = [float("inf")]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tree, files = root, ["cpu.max"]  # cgroup v2
        elif "cpu" in controllers.split(","):
            tree, files = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]  # cgroup v1
        else:
            continue
        groups = path.strip("/").split("/")
        for depth in range(len(groups) + 1):
            group = tree.joinpath(*groups[:depth])
            try:
                quota, period = " ".join((group / file).read_text() for file in files).split()
                if int(quota) > 0:  # cgroup v1 has -1 for no limit
                    limits.append(-(-int(quota) // int(period)))
            except (OSError, ValueError):  # no such group here, or "max": no limit
                continue
    return min(limits)


def current() -> set[int]:
    """The core on which this thread runs now; none if the system does not say."""
    getcpu = c_function("sched_getcpu")
    return {getcpu()} if sys.platform == "linux" and getcpu else set()


def allowed() -> set[int]:
    """The cores on which this thread may run; none if the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@functools.cache
def c_function(name: str) -> Any:
    """A function of the C library, or None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def bind_to(cores: set[int]) -> None:
    """Let this thread run on these cores only, from now on."""
    if sys.platform == "linux" and cores:
        with contextlib.suppress(OSError):  # they are not there any more, or binding is not allowed
            os.sched_setaffinity(0, cores)


def are_idle() -> bool:
    """Whether nothing but this process runs on the machine now; False where the system does not say."""
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        for task in os.listdir("/proc/self/task"):  # a BLAS thread goes on waiting for work for a while, and runs
            running -= Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:  # not on Linux, or a thread has just ended
        return False
    return running <= 0
