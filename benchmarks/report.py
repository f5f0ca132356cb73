"""What the benchmark prints: tables in Markdown, the machine, plots."""
import importlib.metadata
import platform
import statistics
from pathlib import Path

from engines import CORES, ENGINES, PEERS


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
    """One paragraph: processor, system, versions."""
    import numpy as np

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = []
    for name in ("torch", "transformers", "ctranslate2", "llama-cpp-python", "tiktoken"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return (f"{model}, {len(CORES)} cores, {platform.system()}, Python {platform.python_version()}, NumPy "
            f"{np.__version__} with {blas['name']} {blas['version']}; {', '.join(versions)}.")


STYLES = dict(zip(ENGINES, ("o-", "k:", "s-", "^-", "v-", "v:")))


def plot_prompts(points, path):
    """Time to the first logits against the prompt's length, a line an engine; points: {length: {engine: [seconds]}}."""
    import matplotlib.figure
    import matplotlib.ticker

    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    _lines(axes, points)
    axes.set(xscale="log", yscale="log", xlabel="prompt length (tokens)", ylabel="time to the first logits (ms)",
             title=f"GPT-2 124M, float32, {len(CORES)} cores")
    axes.set_xticks(list(points), labels=list(map(str, points)))
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def plot_cores(points, path):
    """Time against the number of cores, a line an engine; points: {what: {cores: {engine: [seconds]}}}."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (what, by_cores) in zip(figure.subplots(1, len(points)), points.items()):
        _lines(axes, by_cores)
        axes.set(title=what, xlabel="cores", ylim=(0, None), xticks=list(by_cores))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle("GPT-2 124M, float32")
    figure.savefig(path, dpi=110)


def _lines(axes, points):
    for name in ("NumPy", "Products", *PEERS):
        places = [place for place, values in points.items() if name in values]
        if places:
            axes.plot(places, [1000 * statistics.median(points[place][name]) for place in places], STYLES[name],
                      label=ENGINES[name].name)
