"""What the files of an official model look like, so that nothing else is taken for them."""
import json
import re
from pathlib import Path

from model_files.tensor_bundle import MAGIC

HPARAMS = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")


def check_checkpoint(path: Path) -> None:
    """ValueError unless the file is the Saver's text file that names the weights model.ckpt."""
    if not re.search(rb'^model_checkpoint_path:\s*"(.*[/\\])?model\.ckpt"', path.read_bytes(), re.MULTILINE):
        raise ValueError('it has no line model_checkpoint_path: "model.ckpt"')


def check_hparams(path: Path) -> None:
    """ValueError unless the file is a JSON object with the five sizes."""
    try:
        hparams = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    for name in HPARAMS:
        if not isinstance(hparams, dict) or type(hparams.get(name)) is not int:
            raise ValueError(f"it is not an object with a whole number {name}")


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
CHECKS = {"checkpoint": check_checkpoint, "hparams.json": check_hparams, "model.ckpt.index": check_index,
          "model.ckpt.meta": check_graph}
