"""OpenAI's layout of a model; the official models' files: their names, their formats, their download."""
import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

from model_files import tf_checkpoint as checkpoint
from model_files import weights
from model_files.lock import locked
from model_files.tensor_bundle import MAGIC

logger = logging.getLogger(__name__)

HPARAMS = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
MODEL_SIZES = ("124M", "355M", "774M", "1558M")  # OpenAI's names, and those that Hugging Face gave them:
MODEL_ALIASES = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
VOCABULARY_FILES = ("encoder.json", "vocab.bpe")
DATA_FILE = "model.ckpt.data-00000-of-00001"  # the weights; it comes after hparams.json, which says how many they are
LARGEST_DATA_FILE = 6_230_444_800  # bytes: that of the 1558M; none of the other files has more than 2 MB
FILES = ("checkpoint", "encoder.json", "hparams.json", DATA_FILE, "model.ckpt.index", "model.ckpt.meta", "vocab.bpe")
BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # GPT2_BASE_URL in the environment replaces it
SHA256 = {  # of the 124M's files; the vocabulary is the same for all four sizes
    "checkpoint": "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "hparams.json": "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318",
    DATA_FILE: "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
    "model.ckpt.index": "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
    "model.ckpt.meta": "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def parameter_shapes(hparams: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The model's tensors in order: dict {name in the checkpoint, without "model/": shape without the leading 1}."""
    n, n_inner = hparams["n_embd"], hparams.get("n_inner", 4 * hparams["n_embd"])
    shapes: dict[str, tuple[int, ...]] = {"wte": (hparams["n_vocab"], n), "wpe": (hparams["n_ctx"], n)}
    for i in range(hparams["n_layer"]):
        for name, n_in, n_out in (("attn/c_attn", n, 3 * n), ("attn/c_proj", n, n),
                                  ("mlp/c_fc", n, n_inner), ("mlp/c_proj", n_inner, n)):
            shapes[f"h{i}/{name}/w"], shapes[f"h{i}/{name}/b"] = (n_in, n_out), (n_out,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h{i}/{name}/g"] = shapes[f"h{i}/{name}/b"] = (n,)
    return shapes | {"ln_f/g": (n,), "ln_f/b": (n,)}


def missing_files(model_dir: Path) -> list[Path]:
    """Which of the files that a model needs are not in `model_dir`.

    The checkpoint's data file may be missing if the converted weights are there: a model can be shipped with
    params-*.npy and model.ckpt.index alone.
    """
    missing = [model_dir / name for name in ("checkpoint", "hparams.json", *VOCABULARY_FILES)
               if not (model_dir / name).is_file()]
    if missing:
        return missing
    prefix = checkpoint.latest_checkpoint(model_dir)
    missing = checkpoint.missing_files(prefix)
    if missing and checkpoint.index_file(prefix) not in missing:
        shapes = parameter_shapes(read_hparams(model_dir / "hparams.json"))
        if weights.find(model_dir, checkpoint.fingerprint(prefix), shapes) is not None:
            return []
    return missing


# --- what the files look like -------------------------------------------------------------------


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


# --- the download -------------------------------------------------------------------------------


def download_gpt2_files(model_size: str, model_dir: str | os.PathLike[str]) -> None:
    """Download the official files of a model into `model_dir`, those that are not there yet.

    A file appears under its name only when it is complete and verified: by its SHA-256 where that is known (all files
    of the 124M; the vocabulary, which all sizes share), else by its length and its format. Until then it grows in
    `NAME.part`, from which an interrupted download resumes. If two processes do this at once, one waits.

    Args:
        model_size: "124M", "355M", "774M" or "1558M".
        model_dir: the folder, made if it is missing.

    Raises:
        ValueError: no such model.
        ConnectionError: the server cannot be reached, or keeps failing.
        OSError: the server refuses a file or sends something else, or the disk is full.
    """
    from model_files.download import download, without_password  # not at each start

    if model_size not in MODEL_SIZES:
        raise ValueError(f"there is no official model {model_size!r}: choose one of {', '.join(MODEL_SIZES)}")
    model_dir = Path(model_dir)
    base_url = (os.environ.get("GPT2_BASE_URL") or BASE_URL).rstrip("/")
    with locked(model_dir):
        missing = [name for name in FILES if not (model_dir / name).exists()]
        if missing:
            logger.warning(f"downloading the {model_size} model from {without_password(base_url)} to {model_dir}")
        for name in missing:
            n_bytes, max_bytes = None, 2**24
            if name == DATA_FILE:  # float32, and nothing but the weights
                shapes = parameter_shapes(read_hparams(model_dir / "hparams.json"))
                n_bytes = 4 * sum(math.prod(shape) for shape in shapes.values())
                max_bytes = LARGEST_DATA_FILE
            download(f"{base_url}/{model_size}/{name}", model_dir / name, length=n_bytes, max_length=max_bytes,
                     sha256=SHA256[name] if model_size == "124M" or name in VOCABULARY_FILES else None,
                     check=CHECKS.get(name))
