"""What the files of an official model look like, so that nothing else is taken for them."""
import json
import re
from pathlib import Path
from typing import Any

from model_files.tensor_bundle import MAGIC

HPARAMS = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")


def check_checkpoint(path: Path) -> None:
    """ValueError unless the file is the Saver's text file that names the weights model.ckpt."""
    if not re.search(rb'^model_checkpoint_path:\s*"(.*[/\\])?model\.ckpt"', path.read_bytes(), re.MULTILINE):
        raise ValueError('it has no line model_checkpoint_path: "model.ckpt"')


def read_hparams(path: Path) -> dict[str, Any]:
    """The sizes in an hparams.json, checked, and whatever else it has. ValueError (without the path) if it is wrong."""
    try:
        hparams = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None
    if not isinstance(hparams, dict):
        raise ValueError(f"it must be an object with the model's sizes, not a {type(hparams).__name__}")
    return check_sizes(hparams)


def check_sizes(hparams: dict[str, Any]) -> dict[str, Any]:
    """`hparams` itself; ValueError if a size is missing or out of range."""
    limits = dict(zip(HPARAMS, (10**7, 10**7, 10**6, 10**4, 10**3)))
    for name, high in [*limits.items(), *([("n_inner", 10**7)] if "n_inner" in hparams else [])]:
        if name not in hparams:
            raise ValueError(f"it has no {name}")
        if type(hparams[name]) is not int or not 1 <= hparams[name] <= high:
            raise ValueError(f"{name} must be a whole number from 1 to {high}, not {hparams[name]!r}")
    if hparams["n_embd"] % hparams["n_head"]:
        raise ValueError(f"n_embd = {hparams['n_embd']} is not divisible by n_head = {hparams['n_head']}")
    return hparams


def check_index(path: Path) -> None:
    """ValueError unless the file ends as a LevelDB table does.

    The table's footer is written last, so a file that has it was not cut short, and is no text. Which tensors it lists,
    and whether each has the checksum that it states, is found out when they are read.
    """
    if not path.read_bytes().endswith(MAGIC):
        raise ValueError("it is not a TensorFlow index, or not all of one")


def check_graph(path: Path) -> None:
    """ValueError if the file cannot be a MetaGraphDef, which begins with the tag of its first field, meta_info_def.

    Nothing reads this file: it is downloaded because it belongs to the model.
    """
    with open(path, "rb") as file:
        if file.read(1) != b"\n":
            raise ValueError("it is not a TensorFlow graph")


# The vocabulary needs no check: its SHA-256 is known for all sizes. Nor does the file of weights: its length is known,
# four bytes for each parameter, and the index has its checksums.
CHECKS = {"checkpoint": check_checkpoint, "hparams.json": read_hparams, "model.ckpt.index": check_index,
          "model.ckpt.meta": check_graph}
