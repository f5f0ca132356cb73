"""The benchmark runs: its quick form, with whichever engines are installed, and the engines agree."""
import re
import subprocess
import sys

from helpers import ROOT


def test_the_benchmarks_quick_form():
    result = subprocess.run([sys.executable, "benchmarks/run.py", "--quick"], cwd=ROOT, capture_output=True, text=True,
                            timeout=200)
    assert result.returncode == 0, result.stderr
    for row in ("prompt of 10, to the first logits", "a new token after a prompt of 10",
                "from nothing to the first token",
                "first conversion of random-tiny", "first pass over new text", "text that repeats itself"):
        assert re.search(rf"^\| {row}.*\d", result.stdout, re.M), row
