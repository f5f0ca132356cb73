"""Kill the conversion of a model at random moments, and run it again after each.

    python kill_runs.py FOLDER N

Each run is a process of its own, killed with SIGKILL. The processes are forks of this one, which has imported what a
run needs but used none of it; so they convert from their first moment on. The moments are spread over the time of an
undisturbed run. The output is a line of JSON: how many runs were still working when killed, and the suffixes of the
files that they left.
"""
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import filelock  # noqa: E402, F401
import tqdm  # noqa: E402, F401

import utils  # noqa: E402


def start(folder):
    """Start a process that converts; returns its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    status = 1
    try:
        utils.load_params(folder, utils.load_hparams(folder))
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def whole_run(folder):
    """The seconds that an undisturbed run takes."""
    begun = time.perf_counter()
    if os.waitpid(start(folder), 0)[1]:
        sys.exit("an undisturbed run failed")
    return time.perf_counter() - begun


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def main(folder, n):
    folder, rng = Path(folder), random.Random(0)
    seconds = whole_run(folder)
    wanted, n_killed, left = contents(folder), 0, set()
    for i in range(n):
        for path in folder.iterdir():  # what the run before made
            if path.name.startswith("params-"):
                path.unlink()
        process = start(folder)
        time.sleep(seconds * (i + rng.random()) / n)
        os.kill(process, signal.SIGKILL)
        n_killed += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        after = contents(folder)
        left |= {Path(name).suffix for name in after if name not in wanted}
        for name, data in after.items():
            if name in wanted and data != wanted[name]:
                sys.exit(f"{name} had its name before it was whole")
        seconds = min(seconds, whole_run(folder))  # the first one takes longer: nothing is cached yet
        if contents(folder) != wanted:
            sys.exit(f"the run after kill {i} made other files")
    shutil.rmtree(folder)
    print(json.dumps({"killed": n_killed, "left": sorted(left)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
