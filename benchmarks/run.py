"""How fast is it, next to the engines that people would pick instead? One command answers:

    pip install -r benchmarks/requirements.txt
    python benchmarks/run.py            # ten minutes; writes RESULTS.md and two plots beside this file
    python benchmarks/run.py --quick    # seconds, a tiny model: does everything still run?
    python benchmarks/run.py --sizes    # also the four official sizes (20 GB of disk, 14 GB of memory)

All engines run the same random weights of the 124M's shapes in float32 on all cores, each in a process of its own, one
after the other in rounds, so that a drift of the machine's speed meets them all. Figures are medians over the rounds;
ratios are medians of the ratios within a round.
"""
import functools
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engines import ENGINES, N_THREADS, ROOT, Worker  # noqa: E402
from random_model import HPARAMS, official_vocabulary  # noqa: E402

HERE = Path(__file__).resolve().parent
PAUSE = 0.25  # seconds between two engines: an OpenMP thread spins for 0.2 s after its work


class Table:
    """A Markdown table that is printed as it grows."""

    def __init__(self, title, *columns):
        self.lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        print("\n" + "\n".join(self.lines), flush=True)

    def row(self, *cells):
        self.lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(self.lines[-1], flush=True)

    def note(self, text):
        self.lines += ["", text]
        print("\n" + text, flush=True)


def machine():
    """One paragraph: processor, system, versions, and what the environment imposes on the BLAS."""
    import numpy as np

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = []
    for name in ("torch", "transformers", "ctranslate2", "tiktoken"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return (f"{model}, {N_THREADS} cores, {platform.system()}, Python {platform.python_version()}, NumPy "
            f"{np.__version__} with {blas['name']} {blas['version']}; {', '.join(versions)}.")


def rounds(workers, n_rounds, request):
    """{engine: [value of each round]}: request(worker) is made of each in turn; the first round warms up."""
    values = {name: [] for name in workers}
    for i in range(n_rounds + 1):
        for name, worker in workers.items():
            time.sleep(PAUSE)
            value = request(worker)
            if i:
                values[name].append(value)
    return values


def ratio(values, a, b):
    return statistics.median(x / y for x, y in zip(values[a], values[b]))


def compare(table, what, values, unit, scale):
    """A row: our median, each engine's median, and our ratio to it."""
    ours = statistics.median(values["NumPy"])
    cells = [what, f"**{ours * scale:.4g} {unit}**"]
    for name in list(ENGINES)[1:]:
        cells.append(f"{statistics.median(values[name]) * scale:.4g} {unit} (**{ratio(values, 'NumPy', name):.2f}**)"
                     if name in values else "missing")
    table.row(*cells)


def text_ids(n, n_vocab):
    return [(7919 * i + 13) % (n_vocab - 1) for i in range(n)]


def run(command, **options):
    """(seconds, peak resident MB) of a process, which must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed: {errors.decode()}")
    return seconds, usage.ru_maxrss / (1024 if platform.system() == "Linux" else 2**20)


def generation(folder, quick):
    """Prompt and decode speed against the peers, and how both grow."""
    n_vocab = HPARAMS[folder.name.removeprefix("random-")]["n_vocab"]
    missing = {name: Worker.missing(name) for name in ENGINES}
    workers = {name: Worker(name, folder) for name in ENGINES if not missing[name]}
    table = Table("Generation", "", *(engine.name for engine in ENGINES.values()))
    n_rounds = 1 if quick else 9
    points = {}
    for n in (10, 32, 100) if quick else (10, 16, 32, 64, 128, 256, 512, 1023):
        points[n] = rounds(workers, n_rounds, lambda worker, n=n: worker("prompt", text_ids(n, n_vocab))[0])
        compare(table, f"prompt of {n}, to the first logits", points[n], "ms", 1000)
    n_new = 4 if quick else 32
    for n in (10,) if quick else (10, 512):
        values = rounds(workers, n_rounds, lambda worker, n=n: worker("decode", text_ids(n, n_vocab), n_new)[1])
        compare(table, f"a new token after a prompt of {n}", values, "ms", 1000)
    table.note("In brackets: our time over theirs (below 1: we are faster)." + "".join(
        f" {ENGINES[name].name} was not run: {', '.join(packages)} not installed." for name, packages in missing.items()
        if packages))
    answers = {name: worker("prompt", text_ids(100, n_vocab))[1] for name, worker in workers.items()
               if name != "Products"}
    if len(set(answers.values())) > 1:
        raise RuntimeError(f"the engines do not agree on the first token: {answers}")

    growth = Table("A new token's cost by its position", "position", "ms")
    ours = {"NumPy": workers["NumPy"]}
    for n in (16, 64) if quick else (16, 128, 256, 512, 768, 1000):
        values = rounds(ours, n_rounds, lambda worker, n=n: worker("decode", text_ids(n - 8, n_vocab), 16)[1])
        growth.row(n, f"{1000 * statistics.median(values['NumPy']):.2f}")
    for worker in workers.values():
        worker.close()
    return [table, growth], points


def plot(points, path):
    """Time to the first logits against the prompt's length, a line an engine."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, style in zip(ENGINES, ("o-", "k:", "s-", "^-")):
        lengths = [n for n, values in points.items() if name in values]
        if lengths:
            axes.plot(lengths, [1000 * statistics.median(points[n][name]) for n in lengths], style,
                      label=ENGINES[name].name)
    axes.set(xscale="log", yscale="log", xlabel="prompt length (tokens)", ylabel="time to the first logits (ms)",
             title="GPT-2 124M, float32")
    axes.set_xticks(list(points), labels=list(map(str, points)))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


NAIVE = """
import sys; sys.path.insert(0, sys.argv[1])
import tensorflow, utils
from encoder import get_encoder
from gpt2 import generate
folder = sys.argv[2] + "/" + sys.argv[3]
hparams = utils.load_hparams(folder)
params = utils.load_gpt2_params_from_tf_ckpt(folder + "/model.ckpt", hparams)
encoder = get_encoder(sys.argv[3], sys.argv[2])
print(encoder.decode(generate(encoder.encode("Alan Turing theorized"), params, hparams["n_head"], 1)))
"""
IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import utils, tensorflow"
CONVERT = ("import sys; sys.path.insert(0, sys.argv[1]); import utils; folder = sys.argv[2] + '/' + sys.argv[3]; "
           "utils.load_params(folder, utils.load_hparams(folder))")


def weights_mb(size):
    from utils import parameter_shapes

    tensors = [4 * math.prod(shape) for shape in parameter_shapes(HPARAMS[size]).values()]
    return sum(tensors) / 2**20, max(tensors) / 2**20


def start(folder, quick):
    """Cold start and memory, as whole processes."""
    size = folder.name.removeprefix("random-")
    total, largest = weights_mb(size)
    table = Table("Start and memory, as whole processes", "", "", "reach")
    arguments = [str(ROOT), str(folder.parent), folder.name]
    ours = [sys.executable, str(ROOT / "gpt2.py"), "Alan Turing theorized", "1", "--model_size", folder.name,
            "--models_dir", str(folder.parent)]
    naive = [sys.executable, "-c", NAIVE, *arguments]
    run(ours)
    pairs = [(run(ours), run(naive)) for _ in range(1 if quick else 7)]
    seconds = statistics.median(a[0] for a, _ in pairs)
    table.row("from nothing to the first token", f"{seconds:.2f} s", "0.7 s")
    table.row("the same, over the naive way (import TensorFlow, read the checkpoint, run)",
              f"{statistics.median(a[0] / b[0] for a, b in pairs):.3f} (naive: "
              f"{statistics.median(b[0] for _, b in pairs):.1f} s)", "0.167")
    peak = statistics.median(a[1] for a, _ in pairs)
    table.row("its peak resident memory", f"{peak:.0f} MB: {peak / total:.2f} of the weights' {total:.0f} MB", "1.25")
    _, imported = run([sys.executable, "-c", IMPORT, *arguments])
    convert(table, folder, imported, largest)
    return [table], imported


def convert(table, folder, imported, largest):
    for path in folder.glob("params-*.npy"):
        path.unlink()
    seconds, peak = run([sys.executable, "-c", CONVERT, str(ROOT), str(folder.parent), folder.name])
    table.row(f"first conversion of {folder.name}: {seconds:.1f} s, peak memory beyond TensorFlow's own import",
              f"{peak - imported:.0f} MB: {(peak - imported) / largest:.2f} of the largest tensor's {largest:.0f} MB",
              "3")


def mixed_text(n_bytes):
    """English, code, numbers, and what is not ASCII, in turn: from Python's own files, so that everyone has it."""
    import argparse
    import inspect
    import pydoc_data.topics
    import typing

    parts = [Path(pydoc_data.topics.__file__).read_text(encoding="utf-8")]
    parts += [Path(module.__file__).read_text(encoding="utf-8") for module in (argparse, inspect, typing)]
    parts.append("안녕하세요. 오늘 날씨가 참 좋네요. naïve café — “quotes” 🤖👩‍💻 東京 1,234.56\t\n   ü" * 800)
    pieces = [part[i : i + 3000] for i in range(0, 60_000, 3000) for part in parts]
    text = "".join(pieces)
    return (text * (n_bytes // len(text.encode()) + 1))[:n_bytes]


class RescanningEncoder:
    """Byte-pair encoding as it was first published for GPT-2: every merge looks at all pairs of the word again."""

    def __init__(self, vocabulary, merges):
        import regex

        from encoder import bytes_to_unicode

        self.vocabulary, self.ranks, self.cache = vocabulary, {pair: i for i, pair in enumerate(merges)}, {}
        self.characters = bytes_to_unicode()
        self.pattern = regex.compile(
            r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")

    def merged(self, word):
        if word in self.cache:
            return self.cache[word]
        parts = tuple(word)
        while len(parts) > 1:
            best = min(set(zip(parts, parts[1:])), key=lambda pair: self.ranks.get(pair, float("inf")))
            if best not in self.ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                if parts[i : i + 2] == best:
                    joined.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    joined.append(parts[i])
                    i += 1
            parts = tuple(joined)
        self.cache[word] = parts
        return parts

    def encode(self, text):
        ids = []
        for piece in self.pattern.findall(text):
            word = "".join(self.characters[byte] for byte in piece.encode("utf-8"))
            ids.extend(self.vocabulary[part] for part in self.merged(word))
        return ids


def seconds_of(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def tokenizer(folder, quick):
    """Encoder.encode against tiktoken and the algorithm as it was published."""
    import random

    from encoder import get_encoder

    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    merges = [tuple(line.split(" ")) for line in lines if line]
    text = mixed_text(200_000 if quick else 1_500_000)
    megabytes = len(text.encode()) / 1e6
    encoder = get_encoder(folder.name, folder.parent)
    table = Table("Tokenizer", f"{megabytes:.1f} MB of mixed text", "", "reach")
    first, theirs = [], []
    for _ in range(1 if quick else 5):
        fresh, published = get_encoder(folder.name, folder.parent), RescanningEncoder(vocabulary, merges)
        seconds, ids = seconds_of(fresh.encode, text)
        first.append(seconds)
        seconds, published_ids = seconds_of(published.encode, text)
        theirs.append(seconds)
        if ids != published_ids:
            raise RuntimeError("the encoders do not agree")
    table.row("first pass over new text", f"{megabytes / statistics.median(first):.1f} MB/s: "
              f"{statistics.median(b / a for a, b in zip(first, theirs)):.2f} times the published algorithm", "1.5")
    encoder.encode(text)
    try:
        import tiktoken

        pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
        peer = tiktoken.Encoding("gpt2", pat_str=pattern,
                                 mergeable_ranks={encoder.token_bytes(i): i for i in range(encoder.n_vocab - 1)},
                                 special_tokens={"<|endoftext|>": encoder.n_vocab - 1})
    except ImportError:
        peer = None
        table.row("warm", "tiktoken is not installed", "0.7")
    if peer:
        pairs = []
        for _ in range(2 if quick else 15):
            ours, ids = seconds_of(encoder.encode, text)
            rust, rust_ids = seconds_of(peer.encode_ordinary, text)
            pairs.append((ours, rust))
            if ids != rust_ids:
                raise RuntimeError("tiktoken gives other ids")
        table.row("warm", f"{megabytes / statistics.median(a for a, _ in pairs):.1f} MB/s: "
                  f"{statistics.median(b / a for a, b in pairs):.2f} of tiktoken's (Rust, one thread)", "0.7")
    for n in (5000, 10_000) if quick else (50_000, 100_000, 200_000):
        word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=n))
        seconds, _ = seconds_of(encoder.encode, word)
        table.row(f"one word of {n:,} random letters", f"{seconds:.2f} s", "seconds, linear")
    table.note("The vocabulary is " + ("OpenAI's." if official_vocabulary() else "made up: OpenAI's was not at hand."))
    return [table]


def looking_up(folder, quick):
    """Greedy decoding with and without looking up what repeats."""
    import numpy as np

    from gpt2 import generate
    from utils import load_encoder_hparams_and_params

    _, hparams, params = load_encoder_hparams_and_params(folder.name, folder.parent)
    # Without positions a random model soon goes in circles, as the trained GPT-2 does; with them it hardly does.
    circling = {**params, "wpe": np.zeros_like(params["wpe"])}
    table = Table("Greedy decoding with looking up", "", "tokens/s", "plain", "ratio", "ids")
    n_new = 40 if quick else 300
    for what, weights in (("text that repeats itself", circling), ("text that hardly does", params)):
        ratios, speeds, plain_speeds = [], [], []
        for seed in range(1 if quick else 5):
            ids = np.random.default_rng(seed).integers(0, hparams["n_vocab"], 12).tolist()
            arguments = ids, weights, hparams["n_head"], n_new
            plain, plain_ids = seconds_of(functools.partial(generate, lookup=False), *arguments)
            ours, new_ids = seconds_of(generate, *arguments)
            if new_ids != plain_ids:
                raise RuntimeError("looking up changed the ids")
            ratios.append(plain / ours)
            speeds.append(n_new / ours)
            plain_speeds.append(n_new / plain)
        table.row(what, f"{statistics.median(speeds):.1f}", f"{statistics.median(plain_speeds):.1f}",
                  f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", "the same")
    return [table]


def sizes(models_dir, imported):
    """The four official sizes: decoding against the products alone, peak memory, conversion."""
    table = Table("The four official sizes", "", "", "reach")
    for size in ("124M", "355M", "774M", "1558M"):
        folder = models_dir / f"random-{size}"
        subprocess.run([sys.executable, str(HERE / "random_model.py"), size, str(folder)], check=True,
                       stderr=subprocess.DEVNULL)
        convert(table, folder, imported, weights_mb(size)[1])
        workers = {name: Worker(name, folder) for name in ("NumPy", "Products")}
        values = rounds(workers, 5, lambda worker: worker("decode", text_ids(16, 50257), 16)[1])
        for worker in workers.values():
            worker.close()
        table.row(f"{size}: a new token", f"{1000 * statistics.median(values['NumPy']):.1f} ms: "
                  f"{ratio(values, 'NumPy', 'Products'):.2f} of its matrix-vector products alone", "1.2")
        _, peak = run([sys.executable, str(ROOT / "gpt2.py"), "Alan Turing theorized", "40", "--model_size",
                       folder.name, "--models_dir", str(models_dir)])
        total, _ = weights_mb(size)
        table.row(f"{size}: peak memory of 40 tokens",
                  f"{peak:.0f} MB: {peak / total:.2f} of the weights' {total:.0f} MB", "1.25")
    return [table]


def main(quick=False, all_sizes=False, keep_environment=False):
    bound = {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}
    if bound and not keep_environment:  # NumPy is loaded with them already: begin again without
        free = {key: value for key, value in os.environ.items() if key not in bound}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**free, "BENCHMARK_UNBOUND": json.dumps(bound)})
    unbound = json.loads(os.environ.get("BENCHMARK_UNBOUND", "{}"))
    said = "; ".join(f"{name}={value}" for name, value in (bound or unbound).items())
    head = ["# Measured", "", machine()]
    if unbound:
        head.append(f"The shell's {said}, which holds NumPy's BLAS to an older processor's instructions while the "
                    "peers use this one's, was taken out of the environment (`--keep_environment` leaves it).")
    elif bound:
        head.append(f"With {said} in the environment, which holds NumPy's BLAS to an older processor's instructions.")
    print("\n".join(head), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        models_dir = Path(temporary) if quick else ROOT / "models"
        folder = models_dir / ("random-tiny" if quick else "random-124M")
        size = folder.name.removeprefix("random-")
        subprocess.run([sys.executable, str(HERE / "random_model.py"), size, str(folder)], check=True,
                       stderr=subprocess.DEVNULL)
        tables, imported = start(folder, quick)
        made, points = generation(folder, quick)
        tables = made + tables + tokenizer(folder, quick) + looking_up(folder, quick)
        if all_sizes:
            tables += sizes(models_dir, imported)
        if not quick:
            suffix = "_environment" if bound else ""
            lines = "\n\n".join(["\n".join(head), *("\n".join(table.lines) for table in tables)])
            (HERE / f"RESULTS{suffix.upper()}.md").write_text(lines + "\n", encoding="utf-8")
            plot(points, HERE / f"prompt_length{suffix}.png")


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - {"--quick", "--sizes", "--keep_environment"}
    if unknown:
        sys.exit(f"error: unknown option {', '.join(sorted(unknown))}: the options are --quick, --sizes, "
                 "--keep_environment")
    main(*(option in sys.argv for option in ("--quick", "--sizes", "--keep_environment")))
