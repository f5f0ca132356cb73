"""How many parameters does each part have?"""
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from inside.command import check_out, show
from inside.model import check_model, model_name
from inside.pictures import bars
from inside.result import table_of, titled, with_title
from utils import Model, load_encoder_hparams_and_params


@titled
class Parameters(NamedTuple):
    """The model's parts in order: names, shapes (str), counts int [n_part] over all layers; their sum, the total."""

    names: list[str]
    shapes: list[str]
    counts: np.ndarray
    total: int


def parameters(model: Model) -> Parameters:
    """The number of parameters of each part of the model, added up over the layers.

    The token embeddings are the output layer's weights too (Press & Wolf, https://arxiv.org/abs/1608.05859): they are
    counted once.

    Args:
        model: as in `tokens`.

    Returns:
        Parameters.

    >>> f"{parameters(model).total:,}"
    '2,915,328'
    """
    params = check_model(model)[2]
    parts: dict[str, list] = {}  # name -> [shapes of one layer, count, number of layers]

    def add(name, arrays):
        part = parts.setdefault(name, [", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()), 0, 0])
        part[1] += sum(array.size for array in arrays.values())
        part[2] += 1

    add("wte", {"w": params["wte"]})
    add("wpe", {"w": params["wpe"]})
    for block in params["blocks"]:
        for group in ("ln_1", "attn", "ln_2", "mlp"):
            if group.startswith("ln"):
                add(f"blocks.*.{group}", block[group])
            else:
                for name, arrays in block[group].items():
                    add(f"blocks.*.{group}.{name}", dict(sorted(arrays.items(), reverse=True)))  # w before b
    add("ln_f", params["ln_f"])
    names = [name.replace("*", f"0-{n - 1}" if n > 1 else "0") for name, (_, _, n) in parts.items()]
    shapes = [part[0] for part in parts.values()]
    counts = np.array([part[1] for part in parts.values()])
    return with_title(Parameters(names, shapes, counts, int(counts.sum())),
                      f"{model_name(model)}: {counts.sum():,} parameters")


@table_of(Parameters)
def table_parameters(result) -> Table:
    """`Parameters` as a table."""
    return Table("<<>>", ["part", "shape", "parameters", "share"],
                 [[name, shape, f"{n:,}", f"{n / result.total:.1%}"]
                  for name, shape, n in zip(result.names, result.shapes, result.counts, strict=True)]
                 + [["total", "", f"{result.total:,}", "100.0%"]])


def plot_parameters(result: Any, ax: Any = None) -> Any:
    """Draw `Parameters` as bars, in the order of the model."""
    ax = bars(ax, result.names, result.counts, [f"{n:,} ({n / result.total:.1%})" for n in result.counts],
              "parameters", "part", result.title)
    from matplotlib.ticker import EngFormatter

    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    return ax


def show_parameters(*, out: str | None = None, model_size: str | None = None, models_dir: str | None = None) -> None:
    """The number of parameters of each part of the model, added up over the layers."""
    check_out(out)
    model = load_encoder_hparams_and_params(model_size, models_dir)
    show(lambda: parameters(model), plot_parameters, out)
