"""Many at once: threads that generate or encode side by side, and a process that does it for a long time."""
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, in_threads


def test_threads_that_generate_at_once_do_not_disturb_each_other(shakespeare):
    encode = shakespeare.encoder.encode
    prompts = [encode(prompt) for prompt in ("ROMEO:", "JULIET:", "KING:", "To be")]
    alone = [shakespeare.generate(ids, 30, temperature=1, seed=1) for ids in prompts]
    together = in_threads(4, lambda i: shakespeare.generate(prompts[i], 30, temperature=1, seed=1))
    assert together == alone
    logits = in_threads(4, lambda i: shakespeare.logits(prompts[0]))
    assert all(np.array_equal(logits[0], one) for one in logits)
    assert in_threads(4, lambda i: encode(f"O {i} " * 50)) == [encode(f"O {i} " * 50) for i in range(4)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_long_run_does_not_grow(shakespeare):
    soak = subprocess.run([sys.executable, "benchmarks/soak.py", "--quick"], cwd=ROOT, capture_output=True, text=True,
                          timeout=100)
    assert soak.returncode == 0 and "held" in soak.stdout, soak.stdout + soak.stderr
