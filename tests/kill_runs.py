"""Kill the download or the conversion of a model at random moments, and run it again after each.

    python kill_runs.py JOB FOLDER N [SHA256]      (JOB is download or convert; SHA256: JSON of the files' checksums)

Each run is a process of its own, killed with SIGKILL. The processes are forks of this one, which has imported what a
run needs but used none of it; so TensorFlow is imported once, not 50 times. The moments are spread over the time of an
undisturbed run. The output is a line of JSON: how many runs were still working when killed, and what suffixes the files
had that they left.
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
import requests  # noqa: E402, F401
import tqdm  # noqa: E402, F401

import utils  # noqa: E402


def start(job, folder):
    """Start a process that does the job; returns its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    status = 1
    try:
        if job == "download":
            utils.download_gpt2_files("355M", folder)
        else:
            utils.load_params(folder, utils.load_hparams(folder))
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def whole_run(job, folder):
    """Seconds that an undisturbed run takes."""
    begun = time.perf_counter()
    if os.waitpid(start(job, folder), 0)[1]:
        sys.exit("an undisturbed run failed")
    return time.perf_counter() - begun


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def main(job, folder, n):
    folder, rng = Path(folder), random.Random(0)
    if job == "convert":
        import tensorflow  # noqa: F401

        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    seconds = whole_run(job, folder)
    wanted, n_killed, left = contents(folder), 0, set()
    for i in range(n):
        for path in folder.iterdir():  # what the run before made
            if job == "download" or path.name.startswith("params-"):
                path.unlink()
        process = start(job, folder)
        time.sleep(seconds * (i + rng.random()) / n)
        os.kill(process, signal.SIGKILL)
        n_killed += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        after = contents(folder)
        left |= {Path(name).suffix for name in after if name not in wanted}
        for name, data in after.items():
            if name in wanted and data != wanted[name]:
                sys.exit(f"{name} had its name before it was whole")
        seconds = min(seconds, whole_run(job, folder))  # the first one takes longer: nothing is cached yet
        if contents(folder) != wanted:
            sys.exit(f"the run after kill {i} made other files")
    shutil.rmtree(folder)
    print(json.dumps({"killed": n_killed, "left": sorted(left)}))


if __name__ == "__main__":
    if len(sys.argv) > 4:
        utils.SHA256 = json.loads(sys.argv[4])
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
