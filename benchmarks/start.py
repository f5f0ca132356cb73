"""Cold start, memory and conversion, as whole processes, and the four official sizes."""
import importlib.util
import math
import os
import platform
import shutil
import statistics
import sys
from pathlib import Path

from engines import ROOT, Worker
from measure import ratio, rounds, run, seconds_of
from passes import text_ids
from random_model import HPARAMS
from report import Table

NAIVE = """
import sys; sys.path.insert(0, sys.argv[1])
import tensorflow, utils
from encoder import get_encoder
from gpt2 import generate
folder = sys.argv[2] + "/" + sys.argv[3]
hparams = utils.load_hparams(folder)
reader = tensorflow.train.load_checkpoint(folder + "/model.ckpt")
params = utils.nested(((name, reader.get_tensor("model/" + name).reshape(shape))
                       for name, shape in utils.parameter_shapes(hparams).items()), hparams)
encoder = get_encoder(sys.argv[3], sys.argv[2])
print(encoder.decode(generate(encoder.encode("Alan Turing theorized"), params, hparams["n_head"], 1)))
"""
PROMPT = """
import sys; sys.path.insert(0, sys.argv[1])
from gpt2 import generate
from utils import load_encoder_hparams_and_params
_, hparams, params = load_encoder_hparams_and_params(sys.argv[3], sys.argv[2])
generate([1] * int(sys.argv[4]), params, hparams["n_head"], 1)
"""
CONVERT = """
import sys; sys.path.insert(0, sys.argv[1])
import filelock, resource, tqdm, utils
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
folder = sys.argv[2] + "/" + sys.argv[3]
utils.load_params(folder, utils.load_hparams(folder))
"""


def make_random_model(size, folder):
    """In a process of its own, so that its memory does not stay in this one."""
    run([sys.executable, str(Path(__file__).with_name("random_model.py")), size, str(folder)])


def weights_mb(size):
    from utils import parameter_shapes

    tensors = [4 * math.prod(shape) for shape in parameter_shapes(HPARAMS[size]).values()]
    return sum(tensors) / 2**20, max(tensors) / 2**20


def start(folder, quick):
    """Cold start and memory, as whole processes."""
    size = folder.name.removeprefix("random-")
    total, largest = weights_mb(size)
    table = Table("Start and memory, as whole processes", "", "", "target")
    arguments = [str(ROOT), str(folder.parent), folder.name]
    convert(table, folder, largest)
    ours = [sys.executable, str(ROOT / "gpt2.py"), "Alan Turing theorized", "1", "--model_size", folder.name,
            "--models_dir", str(folder.parent)]
    naive = [sys.executable, "-c", NAIVE, *arguments]
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    pairs = [(run(ours), run(naive) if has_tensorflow else None) for _ in range(1 if quick else 7)]
    seconds = statistics.median(a[0] for a, _ in pairs)
    table.row("from nothing to the first token", f"{seconds:.2f} s", "0.7 s")
    table.row("the same, over the naive way (import TensorFlow, read the checkpoint, run)",
              f"{statistics.median(a[0] / b[0] for a, b in pairs):.3f} (naive: "
              f"{statistics.median(b[0] for _, b in pairs):.1f} s)" if has_tensorflow else "not installed", "0.167")
    peak = statistics.median(a[1] for a, _ in pairs)
    table.row("its peak resident memory", f"{peak:.0f} MB: {peak / total:.2f} of the weights' {total:.0f} MB", "1.25")
    n = HPARAMS[size]["n_ctx"] - 1
    prompt = [sys.executable, "-c", PROMPT, *arguments, str(n)]
    peak = statistics.median(run(prompt)[1] for _ in range(1 if quick else 3))
    table.row(f"peak resident memory of a prompt of {n:,} tokens",
              f"{peak:.0f} MB: {peak / total:.2f} of the weights' {total:.0f} MB", "1.30")
    return [table]


def convert(table, folder, largest):
    for path in folder.glob("params-*.npy"):
        path.unlink()
    seconds, peak, before = run([sys.executable, "-c", CONVERT, str(ROOT), str(folder.parent), folder.name])
    peak -= int(before) / (1024 if platform.system() == "Linux" else 2**20)  # what the imports take
    copying, _ = seconds_of(copied, folder / "model.ckpt.data-00000-of-00001")
    table.row(f"first conversion of {folder.name}, as a whole process",
              f"{seconds:.1f} s: {seconds / copying:.1f} times copying its file",
              {"random-124M": "1.5 s", "random-1558M": "3 times"}.get(folder.name, ""))
    table.row("its peak memory beyond that of the imports",
              f"{peak:.0f} MB: {peak / largest:.2f} of the largest tensor's {largest:.0f} MB", "1.1")


def copied(path):
    """Copy a file and have the copy on disk, as a conversion has what it writes."""
    copy = path.with_name("copy")
    try:
        with open(path, "rb") as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target, 2**20)
            os.fsync(target.fileno())
    finally:
        copy.unlink()


def official_sizes(models_dir):
    """The four official sizes: decoding against the products alone, peak memory, conversion."""
    table = Table("The four official sizes", "", "", "target")
    for size in ("124M", "355M", "774M", "1558M"):
        folder = models_dir / f"random-{size}"
        make_random_model(size, folder)
        convert(table, folder, weights_mb(size)[1])
        workers = {name: Worker(name, folder) for name in ("NumPy", "Products")}
        values = rounds(workers, 5, lambda worker: worker("decode", text_ids(16, 50257), 16)[1])
        for worker in workers.values():
            worker.close()
        table.row(f"{size}: a new token", f"{1000 * statistics.median(values['NumPy']):.1f} ms: "
                  f"{ratio(values, 'NumPy', 'Products'):.2f} of its matrix-vector products alone", "1.2")
        _, peak, _ = run([sys.executable, str(ROOT / "gpt2.py"), "Alan Turing theorized", "40", "--model_size",
                       folder.name, "--models_dir", str(models_dir)])
        total, _ = weights_mb(size)
        table.row(f"{size}: peak memory of 40 tokens",
                  f"{peak:.0f} MB: {peak / total:.2f} of the weights' {total:.0f} MB", "1.25")
    return [table]
