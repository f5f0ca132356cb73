"""What several test files use: paths, random models, pictures, threads, the text of errors."""
import json
import shutil
import struct
import threading
import time
import zlib
from pathlib import Path

from benchmarks.random_model import official_vocabulary, random_params, random_tensors, write_checkpoint  # noqa: F401
from utils import Model

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
MODELS = ROOT / "models"
BUNDLED = ("--model_size", "shakespeare")
SIZES = {"n_vocab": 1024, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2}  # of `make_model`

TEXT = "First Citizen:\nSpeak.\n\nSecond Citizen:\nNo.\n\nFirst"
KOREAN = "안녕 $x$ 🤖\t\n"


def random_model(std=0.25, seed=0, **hparams):
    """A `Model` with random weights, by default larger than a new GPT-2's: a wrong position or head shows."""
    hparams = {"n_vocab": 211, "n_ctx": 600, "n_embd": 32, "n_head": 4, "n_layer": 2, **hparams}
    return Model(None, hparams, random_params(hparams, std, seed))


def without_head(layer, head):
    """A hook that sets a head's output to 0, written without `inside.interventions`."""
    def hook(name, x):
        if name == f"blocks.{layer}.attn.z":
            x = x.copy()
            x[:, head] = 0
            return x

    return hook


def make_model(folder, change=None, sizes=SIZES, seed=0):
    """Write a random model with the bundled model's vocabulary; `change` may alter its {name: array} first."""
    tensors = dict(random_tensors(sizes, std=0.3, seed=seed))
    if change:
        change(tensors)
    write_checkpoint(folder, sizes, tensors)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(MODELS / "shakespeare" / name, folder)
    return folder


def read_json(name):
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def read_png(data):
    """(width, height, number of different bytes of the pixels) of a PNG; every checksum in it is checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, []
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        chunks.append((kind, body))
        place += 12 + length
    assert chunks[-1][0] == b"IEND"
    pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    return *struct.unpack(">II", chunks[0][1][:8]), len(set(pixels))


def in_threads(n, work):
    """Run work(i) in n threads at once and return the results in order."""
    results, barrier = [None] * n, threading.Barrier(n)

    def run(i):
        barrier.wait()
        results[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.005)


def error_line(result, status=1):
    """The one line on stderr with which a process failed; before it, a download may have been announced."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    announcement, found, line = result.stderr.partition("error: ")
    assert not announcement or announcement.startswith("downloading ") and announcement.count("\n") == 1, result.stderr
    assert found and line.count("\n") == 1, result.stderr
    return "error: " + line
