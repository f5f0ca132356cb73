"""Held under load: many generations of different lengths in one process, and the memory that it takes.

    python benchmarks/soak.py [--quick] [--model_size shakespeare] [--models_dir models]

Prints the resident memory as it goes, and exits with status 1 where the last is more than 5% above that after the
tenth generation. Linux only: it reads /proc.
"""
import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpt2 import generate  # noqa: E402
from utils import BUNDLED_MODEL, load_encoder_hparams_and_params  # noqa: E402

FIRST, MOST_GROWTH = 10, 0.05


def resident():
    """The resident memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status tells no VmRSS")


def soak(model_size, models_dir, n):
    """Run n generations; returns the resident memory (bytes) after the tenth and after the last."""
    load = f"import utils; utils.load_encoder_hparams_and_params({str(model_size)!r}, {str(models_dir)!r})"
    # A conversion would leave its memory in this process, beside which no leak shows.
    subprocess.run([sys.executable, "-c", load], cwd=ROOT, check=True)
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    rng, begun, n_tokens = np.random.default_rng(0), time.perf_counter(), 0
    half = hparams["n_ctx"] // 2
    for i in range(1, n + 1):
        # The first fills the context, so that what the longest one needs belongs to the first figure.
        n_prompt, n_new = (half, half) if i == 1 else rng.integers(1, half + 1, 2).tolist()
        ids = rng.integers(0, hparams["n_vocab"], n_prompt).tolist()
        text = encoder.decode(generate(ids, params, hparams["n_head"], n_new, temperature=1.0, seed=i))
        encoder.encode(text)
        n_tokens += n_new
        if i == FIRST:
            first = resident()
        if i % max(FIRST, n // 10) == 0 or i in (FIRST, n):
            print(f"{i:4} generations, {n_tokens:6} tokens, {time.perf_counter() - begun:6.1f} s: "
                  f"{resident() / 2**20:7.1f} MiB")
    return first, resident()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 generations instead of 200")
    parser.add_argument("--model_size", default=BUNDLED_MODEL)
    parser.add_argument("--models_dir", type=lambda path: Path(path).resolve(), default=ROOT / "models")
    arguments = parser.parse_args()
    first, last = soak(arguments.model_size, arguments.models_dir, 20 if arguments.quick else 200)
    growth = last / first - 1
    held = growth <= MOST_GROWTH
    print(f"{growth:+.1%} since the tenth ({first / 2**20:.1f} MiB to {last / 2**20:.1f} MiB): "
          f"{'held' if held else 'NOT held'} (at most {MOST_GROWTH:+.0%})")
    sys.exit(not held)


if __name__ == "__main__":
    main()
