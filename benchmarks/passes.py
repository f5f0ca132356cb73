"""Prompts and new tokens beside the other engines: on two cores and on all, idle and busy, and for a few rows."""
import contextlib
import functools
import statistics

from engines import CORES, ENGINES, PEERS, Worker
from measure import busy, ratio, rounds, seconds_of
from random_model import HPARAMS
from report import Table

TARGET = "below 1.00 of each"


def text_ids(n, n_vocab):
    return [(7919 * i + 13) % (n_vocab - 1) for i in range(n)]


def n_vocab_of(folder):
    return HPARAMS[folder.name.removeprefix("random-")]["n_vocab"]


@contextlib.contextmanager
def workers_for(folder, names, n_cores=None):
    """{engine: Worker} of the engines that are installed."""
    workers = {name: Worker(name, folder, n_cores) for name in names if not Worker.missing(name)}
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def compare(table, what, values, target=""):
    """A row: our median in ms, the median of each engine with our ratio to it, the target."""
    cells = [what, f"**{1000 * statistics.median(values['NumPy']):.4g}**"]
    for name in list(ENGINES)[1:]:
        cells.append(f"{1000 * statistics.median(values[name]):.4g} (**{ratio(values, 'NumPy', name):.2f}**)"
                     if name in values else "")
    table.row(*cells, target)


def generation(folder, quick):
    """Prompts and new tokens on one, two and all cores: ([tables], points of the prompt plot, of the cores plot)."""
    n_vocab, prompts = n_vocab_of(folder), {}
    cores = {"prompt of 512": {}, "prompt of 1023": {}, "a new token": {}}
    tables, numbers = [], sorted({1, min(2, len(CORES)), len(CORES)})
    for n_cores in numbers[-1:] if quick else numbers:
        every = n_cores == len(CORES)
        n_rounds = 1 if quick else 5 if every else 3 if n_cores > 1 else 2
        lengths = (10, 32, 128, 512, 1023) if n_cores > 1 else (512, 1023)
        lengths = (10, 100) if quick else (10, 32, 64, 128, 256, 512, 1023) if every else lengths
        table = Table(f"Milliseconds on {n_cores} core{'s' * (n_cores > 1)}", "",
                      *(engine.name for engine in ENGINES.values()), "target")
        with workers_for(folder, ENGINES if n_cores > 1 else list(ENGINES)[:-1], n_cores) as workers:
            for n in lengths:
                values = rounds(workers, n_rounds, lambda worker, n=n: worker("prompt", text_ids(n, n_vocab))[0])
                compare(table, f"prompt of {n}, to the first logits", values, TARGET)
                if every:
                    prompts[n] = values
                if f"prompt of {n}" in cores:
                    cores[f"prompt of {n}"][n_cores] = values
            for n in (10,) if quick else (10, 512):
                values = rounds(workers, n_rounds,
                                lambda worker, n=n: worker("decode", text_ids(n, n_vocab), 4 if quick else 24)[1])
                compare(table, f"a new token after a prompt of {n}", values, TARGET)
                if n == 10:
                    cores["a new token"][n_cores] = values
            if every:
                check_agreement(workers, n_vocab)
        table.note("In brackets: our time over theirs (below 1: we are faster), the median of the ratios within "
                   "a round, which need not be the ratio of the medians. All but the last compute in float32; "
                   "the last has no target." + "".join(
                       f" {ENGINES[name].name} was not run: {', '.join(packages)} not installed."
                       for name in ENGINES if (packages := Worker.missing(name))))
        tables.append(table)
    return tables, prompts, cores


def check_agreement(workers, n_vocab):
    answers = {name: worker("prompt", text_ids(100, n_vocab))[1] for name, worker in workers.items()
               if name in ("NumPy", *PEERS)}
    if len(set(answers.values())) > 1:
        raise RuntimeError(f"the engines do not agree on the first token: {answers}")


def beside_busy_processes(folder, quick):
    """A new token while other processes keep cores busy, against our own idle time and the peers'."""
    n_vocab, n_all = n_vocab_of(folder), len(CORES)
    table = Table(f"A new token beside busy processes, milliseconds on {n_all} cores", "busy processes",
                  *(ENGINES[name].name for name in ("NumPy", *PEERS)), "over our idle time", "target")
    idle = None
    with workers_for(folder, ("NumPy", *PEERS)) as workers:
        for n in (0, 1) if quick else sorted({0, 1, 2, n_all}):
            with busy(n):
                values = rounds(workers, 1 if quick else 3,
                                lambda worker: worker("decode", text_ids(10, n_vocab), 4 if quick else 16)[1])
            medians = {name: statistics.median(times) for name, times in values.items()}
            idle = idle or medians["NumPy"]
            target = {0: 1.0, 1: 1.6, 2: 2.0, n_all: 3.5}[n]
            table.row(n, f"**{1000 * medians['NumPy']:.4g}**",
                      *(f"{1000 * medians[name]:.4g}" if name in medians else "missing" for name in PEERS),
                      f"{medians['NumPy'] / idle:.2f}", f"{target}, below each peer" if n else "")
    return [table]


def few_rows(folder, quick):
    """What prompt lookup pays: a pass over several rows, against a pass over one."""
    counts = (1, 2, 8) if quick else (1, 2, 4, 8, 16, 32, 64)
    numbers = [len(CORES)] if quick else sorted({1, min(2, len(CORES)), len(CORES)})
    table = Table("A pass over several rows, against one row", "cores", *(f"{n} rows" for n in counts), "target")
    for n_cores in numbers:
        with workers_for(folder, ["NumPy"], n_cores) as workers:
            rounds_of = [[workers["NumPy"]("rows", n)[1] for n in counts] for _ in range(2 if quick else 8)][1:]
        first = f"{1000 * statistics.median(times[0] for times in rounds_of):.4g} ms"
        table.row(n_cores, first, *(f"{statistics.median(times[i] / times[0] for times in rounds_of):.2f}"
                                    for i in range(1, len(counts))), "8 rows: 2.0" if n_cores == 2 else "")
    return [table]


def growth(folder, quick):
    """How a new token's cost grows with its position."""
    table = Table("A new token's cost by its position", "position", "ms")
    with workers_for(folder, ["NumPy"]) as workers:
        for n in (16, 64) if quick else (16, 128, 256, 512, 768, 1000):
            values = rounds(workers, 1 if quick else 5, lambda worker, n=n: worker(
                "decode", text_ids(n - 8, n_vocab_of(folder)), 16)[1], pause=0)
            table.row(n, f"{1000 * statistics.median(values['NumPy']):.2f}")
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
