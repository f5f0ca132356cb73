"""The benchmark runs: its quick form, with whichever engines are installed, and the engines agree."""
import re
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.slow
def test_the_benchmarks_quick_form():
    result = subprocess.run([sys.executable, "benchmarks/run.py", "--quick"], cwd=ROOT, capture_output=True, text=True,
                            timeout=200)
    assert result.returncode == 0, result.stderr
    rows = ("prompt of 10, to the first logits", "a new token after a prompt of 10", "from nothing to the first token",
            "peak resident memory of a prompt of 127 tokens", "first conversion of random-tiny", "[01] ", "first pass",
            "text that repeats itself")
    for row in rows:
        assert re.search(rf"^\| {row}.*\d", result.stdout, re.M), row
