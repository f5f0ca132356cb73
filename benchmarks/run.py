"""How fast is it, next to the engines that people would pick instead? One command answers:

    pip install -r benchmarks/requirements.txt
    python benchmarks/run.py            # a quarter of an hour; --help lists the options

All engines run the same random weights of the 124M's shapes in float32, each in a process of its own, one after the
other in rounds, so that a drift of the machine's speed meets them all. Figures are medians over the rounds; ratios are
medians of the ratios within a round.
"""
import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from engines import ROOT  # noqa: E402
from passes import beside_busy_processes, few_rows, generation, growth, looking_up  # noqa: E402
from report import machine, plot_cores, plot_prompts  # noqa: E402
from start import make_random_model, official_sizes, start  # noqa: E402
from tokenizer import tokenizer  # noqa: E402


def main(*, quick: bool = False, sizes: bool = False, keep_environment: bool = False) -> None:
    """Measure everything, and write RESULTS.md and two plots beside this file.

    Args:
        quick: a tiny model, in seconds, and nothing is written: does everything still run?
        sizes: also the four official sizes (20 GB of disk, 14 GB of memory).
        keep_environment: keep the variables that limit NumPy's BLAS to an older processor's instructions.
    """
    bound = {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}
    if bound and not keep_environment:  # NumPy is loaded with them already: begin again without
        free = {key: value for key, value in os.environ.items() if key not in bound}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**free, "BENCHMARK_UNBOUND": json.dumps(bound)})
    unbound = json.loads(os.environ.get("BENCHMARK_UNBOUND", "{}"))
    said = "; ".join(f"{name}={value}" for name, value in (bound or unbound).items())
    head = ["# Measured", "", machine()]
    if unbound:
        head.append(f"The shell's {said}, which limits NumPy's BLAS to an older processor's instructions while the "
                    "peers use this one's, was taken out of the environment (`--keep_environment` leaves it).")
    elif bound:
        head.append(f"With {said} in the environment, which limits NumPy's BLAS to an older processor's instructions.")
    print("\n".join(head), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        models_dir = Path(temporary) if quick else ROOT / "models"
        folder = models_dir / ("random-tiny" if quick else "random-124M")
        make_random_model("tiny" if quick else "124M", folder)
        tables = start(folder, quick)
        made, prompts, cores = generation(folder, quick)
        tables = made + beside_busy_processes(folder, quick) + few_rows(folder, quick) + growth(folder, quick) + tables
        tables += tokenizer(folder, quick) + looking_up(folder, quick)
        if sizes:
            tables += official_sizes(models_dir)
        if not quick:
            suffix = "_environment" if bound else ""
            lines = "\n\n".join(["\n".join(head), *("\n".join(table.lines) for table in tables)])
            (HERE / f"RESULTS{suffix.upper()}.md").write_text(lines + "\n", encoding="utf-8")
            plot_prompts(prompts, HERE / f"prompt_length{suffix}.png")
            plot_cores(cores, HERE / f"cores{suffix}.png")


if __name__ == "__main__":
    from cli.terminal import run_command_line

    run_command_line(main)
