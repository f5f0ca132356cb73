"""Killed downloads."""
import hashlib
import json
import os
import subprocess
import sys

import pytest
from file_server import FileServer
from helpers import ROOT

from utils import FILES

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


def kill(job, folder, *arguments, **env):
    python = subprocess.run([sys.executable, str(ROOT / "tests" / "kill_runs.py"), job, str(folder), *arguments],
                            capture_output=True, text=True, timeout=100, env={**os.environ, **env})
    assert python.returncode == 0, python.stderr[-2000:]
    return json.loads(python.stdout)


@posix
def test_killed_at_any_moment_of_a_download_the_next_run_works(tmp_path):
    files = {name: hashlib.shake_256(name.encode()).digest(600_000 if "data" in name else 500) for name in FILES}
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    with FileServer({f"355M/{name}": data for name, data in files.items()}) as server:
        server.delay = 0.005
        result = kill("download", tmp_path, "25", json.dumps(sha256), GPT2_BASE_URL=server.url)
        resumed = sum(span is not None for _, span in server.requests)
    assert result["killed"] >= 15 and ".part" in result["left"]
    assert resumed >= 5
