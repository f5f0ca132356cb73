"""The cost of a sweep: every head of a model taken out, one at a time, against as many plain passes.

    python benchmarks/sweep.py [124M] [15]        # the size, and the number of tokens
"""
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.random_model import HPARAMS, random_params  # noqa: E402
from gpt2 import gpt2  # noqa: E402
from lens import sweep, zero  # noqa: E402


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(size="124M", n_tokens=15, rounds=5):
    hparams, params = HPARAMS[size], random_params(HPARAMS[size])
    ids = np.random.default_rng(0).integers(0, hparams["n_vocab"], int(n_tokens))
    heads = [zero(layer, head) for layer in range(hparams["n_layer"]) for head in range(hparams["n_head"])]
    one_pass = lambda: gpt2(ids, **params, n_head=hparams["n_head"])
    one_sweep = lambda: sweep(ids, (None, hparams, params), heads, lambda logits: logits[-1, 0])
    one_pass()
    ratios = []
    for _ in range(rounds):  # passes before and after each sweep, because other programs share the machine
        plain = [seconds(one_pass) for _ in range(10)]
        swept = seconds(one_sweep)
        plain = statistics.median(plain + [seconds(one_pass) for _ in range(10)])
        ratios.append(swept / (len(heads) * plain))
        print(f"sweep over {len(heads)} heads {swept:.2f} s, {len(heads)} plain passes {len(heads) * plain:.2f} s: "
              f"{ratios[-1]:.2f}")
    print(f"median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
