"""Measuring: rounds in which all engines take turns, whole processes, busy processes beside them."""
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time

PAUSE = 0.25  # seconds between two engines: an OpenMP thread spins for 0.2 s after its work


def rounds(workers, n_rounds, request, pause=PAUSE):
    """{engine: [value of each round]}: request(worker) is made of each in turn; the first round warms up."""
    values = {name: [] for name in workers}
    for i in range(n_rounds + 1):
        for name, worker in workers.items():
            time.sleep(pause)
            value = request(worker)
            if i:
                values[name].append(value)
    return values


def ratio(values, a, b):
    """The median of the ratios within a round."""
    return statistics.median(x / y for x, y in zip(values[a], values[b]))


def seconds_of(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def run(command, **options):
    """(seconds, peak resident MB, stdout) of a process, which must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    errors, output = process.stderr.read(), process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed: {errors.decode()}")
    return seconds, usage.ru_maxrss / (1024 if platform.system() == "Linux" else 2**20), output.decode()


@contextlib.contextmanager
def busy(n):
    """n processes that do nothing but keep a core busy, while the context lasts."""
    processes = []
    try:
        for _ in range(n):
            processes.append(subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]))
        time.sleep(0.2 if n else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
