"""A model's folder, from OpenAI's files to nested dicts of NumPy arrays.

A model is a folder with the files in which OpenAI published GPT-2: hparams.json (the sizes), encoder.json and vocab.bpe
(the vocabulary), and a TensorFlow checkpoint (the weights); or with those of Hugging Face
(`model_files/hugging_face.py`). `load_encoder_hparams_and_params` finds it by its name, downloads it where it is not
there yet, and reads it.

The weights are kept beside the checkpoint as one plain NumPy file, which later runs map into memory in a millisecond
(`model_files/weights.py`).

What people should know meanwhile (a download, a conversion, a wait) is logged as a warning, which Python's `logging`
prints to stderr as a plain line, unless it is told otherwise.
"""
from __future__ import annotations

import errno
import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoder import Encoder, get_encoder
from model_files import hub, hugging_face, weights
from model_files import tf_checkpoint as checkpoint
from model_files.download import download, without_password
from model_files.lock import locked
from model_files.official_files import CHECKS, HPARAMS, read_hparams

logger = logging.getLogger(__name__)

MODELS_DIR = Path(__file__).resolve().parent / "models"  # wherever the program is started from
DEFAULT_MODEL, BUNDLED_MODEL = "124M", "shakespeare"
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

# --- download -----------------------------------------------------------------------------------


def download_gpt2_files(model_size: str, model_dir: str | os.PathLike[str]) -> None:
    """Download the official files of a model into `model_dir`, those that are not there yet.

    A file appears under its name only when it is complete and verified: by its SHA-256 where that is known (all files
    of the 124M; the vocabulary, which all sizes share), else by its length and its format. Until then it grows in
    `NAME.part`, from which an interrupted download resumes. If two processes do this at once, one waits.

    Args:
        model_size: "124M", "355M", "774M" or "1558M".
        model_dir: the folder, made where it is missing.

    Raises:
        ValueError: no such model.
        ConnectionError: the server cannot be reached, or keeps failing.
        OSError: the server refuses a file or sends something else, or the disk is full.
    """
    if model_size not in MODEL_SIZES:
        raise ValueError(f"there is no official model {model_size!r}: choose one of {', '.join(MODEL_SIZES)}")
    model_dir = Path(model_dir)
    base_url = (os.environ.get("GPT2_BASE_URL") or BASE_URL).rstrip("/")
    with locked(model_dir):
        missing = [name for name in FILES if not (model_dir / name).exists()]
        if missing:
            logger.warning(f"downloading {model_size} from {without_password(base_url)} to {model_dir}")
        for name in missing:
            n_bytes, max_bytes = None, 2**24
            if name == DATA_FILE:  # float32, and nothing but the weights
                n_bytes = 4 * sum(math.prod(shape) for shape in parameter_shapes(load_hparams(model_dir)).values())
                max_bytes = LARGEST_DATA_FILE
            download(f"{base_url}/{model_size}/{name}", model_dir / name, length=n_bytes, max_length=max_bytes,
                     sha256=SHA256[name] if model_size == "124M" or name in VOCABULARY_FILES else None,
                     check=CHECKS.get(name))


# --- a model's folder ---------------------------------------------------------------------------


class Model(NamedTuple):
    """A model as it was loaded: (encoder, hparams, params), and the calls that are made of them most.

    >>> model = load_encoder_hparams_and_params("shakespeare")
    >>> model.decode(model.generate(model.encode("O Romeo, Romeo! wherefore art thou"), 3))
    ' Romeo?'
    """

    encoder: Encoder  # or None: such a model takes ids, no text
    hparams: dict[str, Any]
    params: dict[str, Any]

    @property
    def n_head(self) -> int:
        return int(self.hparams["n_head"])

    @property
    def n_layer(self) -> int:
        return int(self.hparams["n_layer"])

    def encode(self, text: str) -> list[int]:
        """The ids of a text; <|endoftext|>, which begins a new text, where it is empty."""
        return self._encoder.encode(text) or self._encoder.new_text()

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoder.decode(ids)

    def logits(self, ids: Sequence[int] | np.ndarray, **options: Any) -> np.ndarray:
        """float32 [n_seq, n_vocab]; the options are those of `gpt2.gpt2`: cache, n_logits, hook."""
        from gpt2 import gpt2  # here: gpt2.py imports this module

        return gpt2(ids, **self.params, n_head=self.n_head, **options)

    def generate(self, ids: Sequence[int] | np.ndarray, n_tokens_to_generate: int, **options: Any) -> list[int]:
        """The ids that follow; the options are those of `gpt2.generate`: temperature, seed, stop_id, hook, ..."""
        from gpt2 import generate

        return generate(ids, self.params, self.n_head, n_tokens_to_generate, **options)

    @property
    def _encoder(self) -> Encoder:
        if self.encoder is None:
            raise TypeError("this model has no tokenizer (encoder is None): give token ids, not text")
        return self.encoder

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={self.hparams[name]}" for name in HPARAMS)
        return f"Model({getattr(self.encoder, 'name', None)!r}, {sizes})"


def load_encoder_hparams_and_params(model_size: str | os.PathLike[str] | None = None,
                                    models_dir: str | os.PathLike[str] | None = None) -> Model:
    """Load a model by its name. One that is not on disk is downloaded, if it is official or on the Hugging Face Hub.

    Args:
        model_size: "124M", "355M", "774M", "1558M" (or "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "shakespeare"
            for the bundled model; the name of any folder in `models_dir` with a model in OpenAI's layout or in Hugging
            Face's; "owner/name", a model on the Hub; or the path of a folder, as in "./mine". None is the 124M, or the
            bundled model if the 124M is not on disk and cannot be downloaded.
        models_dir: the folder of models; None is the folder `models` beside this file.

    Returns:
        `Model`, the named tuple (encoder, hparams, params): an `encoder.Encoder`; a dict with n_vocab, n_ctx, n_embd,
        n_head, n_layer; the weights as `load_gpt2_params_from_tf_ckpt` gives them, mapped from disk (changes stay in
        this process).

    Raises:
        FileNotFoundError: there is no such model, or a file of it is missing.
        ValueError: the name is not that of a model, a file is damaged, files do not belong together, or the model is
            not a GPT-2.
        ImportError: as `load_gpt2_params_from_tf_ckpt`; or a package is missing.
        OSError: as `download_gpt2_files` and `hub.download`.
    """
    name = DEFAULT_MODEL if model_size is None else model_size
    model_dir, on_hub = find_model(name, models_dir), _is_hub_name(name)
    missing = missing_files(model_dir)
    if models_dir is not None and not Path(models_dir).is_dir() and model_dir.parent == MODELS_DIR:
        logger.warning(f"the folder {models_dir} does not exist: using the bundled model in {MODELS_DIR}")
    if missing and on_hub:
        model_dir = hub.download(str(name))
        missing = missing_files(model_dir)
    elif missing and model_dir.name in MODEL_SIZES and not hugging_face.recognizes(model_dir):
        if not model_dir.parent.is_dir():
            logger.warning(f"the folder {model_dir.parent} does not exist: making it for the {model_dir.name} model")
        try:
            download_gpt2_files(model_dir.name, model_dir)
        except OSError as error:
            offline = isinstance(error, ConnectionError) or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            if model_size is not None and isinstance(error, ConnectionError):
                raise ConnectionError(f"{error}; the model {BUNDLED_MODEL} needs no network") from None
            if model_size is not None or not offline:
                raise
            logger.warning(f"the {DEFAULT_MODEL} model is not in {model_dir.parent} and could not be downloaded "
                           f"({error}): using the small bundled model, {BUNDLED_MODEL}, instead")
            model_dir = MODELS_DIR / BUNDLED_MODEL
        missing = missing_files(model_dir)
    if hugging_face.recognizes(model_dir):
        hugging_face.check_files(model_dir, missing)
        hparams = load_hparams(model_dir)
        encoder = hugging_face.get_encoder(model_dir, str(name) if on_hub else model_dir.name, hparams["n_vocab"])
        return Model(encoder, hparams, load_params(model_dir, hparams))
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing: a model is a folder with checkpoint, encoder.json, "
                                "hparams.json, vocab.bpe and the files that checkpoint names, or with Hugging Face's "
                                "config.json, model.safetensors and tokenizer.json")
    hparams = load_hparams(model_dir)
    encoder = get_encoder(model_dir.name, model_dir.parent)
    if encoder.n_vocab != hparams["n_vocab"]:
        raise ValueError(f"{model_dir}: encoder.json has {encoder.n_vocab} tokens, but hparams.json says n_vocab = "
                         f"{hparams['n_vocab']}: they belong to different models")
    return Model(encoder, hparams, load_params(model_dir, hparams))


def find_model(model_size: str | os.PathLike[str], models_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a model by its name, as `load_encoder_hparams_and_params` takes it.

    A path is the folder itself, and must be there. "owner/name" is a folder in the Hugging Face Hub's cache. Else it is
    one in `models_dir`: a folder of exactly that name comes first, then other names of the official models, then names
    that differ in case. A model that can be downloaded need not be on disk.
    """
    models_dir = MODELS_DIR if models_dir is None else Path(models_dir)
    path = _path(model_size)
    if path is not None:
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder {str(model_size)!r}, which names the model as a path")
        return Path(os.path.abspath(path))
    if _is_hub_name(model_size):
        return hub.cached(str(model_size))
    if not isinstance(model_size, str) or not re.fullmatch(r"[^/\\:\0]+", model_size):
        raise ValueError(f"{model_size!r} is not a model's name: give that of a folder in {models_dir}, such as 124M, "
                         "owner/name for one on the Hugging Face Hub, or a folder's path, such as ./mine")
    names = [*_folders(models_dir), *MODEL_SIZES, BUNDLED_MODEL]
    same = [name for name in names if name.casefold() == model_size.casefold()]
    if model_size in names:
        name = model_size
    elif model_size.lower() in MODEL_ALIASES:
        name = MODEL_ALIASES[model_size.lower()]
    elif same:
        name = same[0]
    elif (models_dir / model_size).is_dir():  # in a folder that cannot be listed
        name = model_size
    else:
        import difflib

        available = available_models(models_dir)
        close = difflib.get_close_matches(model_size, [*available, *MODEL_SIZES, *MODEL_ALIASES], n=1)
        where = f"{models_dir}{'' if models_dir.is_dir() else ', which is not a folder'}"
        raise FileNotFoundError(f"there is no model {model_size!r} in {where}"
                                f"{f' (did you mean {close[0]!r}?)' if close else ''}; available: "
                                f"{', '.join(available)}; can be downloaded: {', '.join(MODEL_SIZES)}, and owner/name "
                                "from the Hugging Face Hub")
    bundled = name == BUNDLED_MODEL and not (models_dir / name).is_dir()
    return (MODELS_DIR if bundled else models_dir) / name


def _path(model_size: object) -> Path | None:
    """The path that names a model's folder: one that is absolute or begins with . or ~, or that of a folder that is
    there; None where it is a name."""
    if isinstance(model_size, os.PathLike):
        return Path(model_size)
    if not isinstance(model_size, str):
        return None
    first, *more = re.split("[/" + re.escape(os.sep) + "]", model_size)
    path = os.path.expanduser(model_size) if more else model_size
    return Path(path) if os.path.isabs(path) or first in (".", "..") or more and os.path.isdir(path) else None


def _is_hub_name(model_size: object) -> bool:
    return isinstance(model_size, str) and _path(model_size) is None and hub.is_hub_name(model_size)


def available_models(models_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """The names of the models that can be loaded without a download: those in `models_dir`, the bundled one, and those
    from the Hugging Face Hub that are in its cache."""
    models_dir = MODELS_DIR if models_dir is None else Path(models_dir)
    names = {BUNDLED_MODEL}
    for name in [*_folders(models_dir), *hub.cached_models()]:
        try:
            folder = hub.cached(name) if "/" in name else models_dir / name
            if not missing_files(folder) and load_hparams(folder):
                names.add(name)
        except (OSError, ValueError):  # not readable, damaged, or not a GPT-2
            continue
    return [*(name for name in MODEL_SIZES if name in names), *sorted(names.difference(MODEL_SIZES))]


def _folders(models_dir: Path) -> list[str]:
    """The names of the folders in `models_dir`; none where it does not exist or cannot be listed."""
    try:
        return sorted(name for name in os.listdir(models_dir) if os.path.isdir(models_dir / name))
    except OSError:
        return []


def missing_files(model_dir: str | os.PathLike[str]) -> list[Path]:
    """Which of the files that a model needs are not in `model_dir`.

    The checkpoint's data file may be missing if the converted weights are there: a model can be shipped with
    params-*.npy and model.ckpt.index alone.
    """
    model_dir = Path(model_dir)
    if hugging_face.recognizes(model_dir):
        return hugging_face.missing_files(model_dir)
    missing = [model_dir / name for name in ("checkpoint", "hparams.json", *VOCABULARY_FILES)
               if not (model_dir / name).is_file()]
    if missing:
        return missing
    prefix = checkpoint.latest_checkpoint(model_dir)
    missing = checkpoint.missing_files(prefix)
    if missing and checkpoint.index_file(prefix) not in missing:
        shapes = parameter_shapes(load_hparams(model_dir))
        if weights.find(model_dir, checkpoint.fingerprint(prefix), shapes) is not None:
            return []
    return missing


def load_hparams(model_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The sizes of a model from its hparams.json, or Hugging Face's config.json, checked.

    Returns:
        dict with n_vocab, n_ctx, n_embd, n_head, n_layer (int), and whatever else hparams.json has.

    Raises:
        ValueError: the file is not JSON, a size is missing or out of range, or a setting in config.json is not GPT-2's.
    """
    model_dir = Path(model_dir)
    if hugging_face.recognizes(model_dir):
        return hugging_face.load_hparams(model_dir)
    try:
        return read_hparams(model_dir / "hparams.json")
    except ValueError as error:
        raise ValueError(f"{model_dir / 'hparams.json'}: {error}") from None


# --- the weights --------------------------------------------------------------------------------


def load_gpt2_params_from_tf_ckpt(tf_ckpt_path: str | os.PathLike[str], hparams: dict[str, Any]) -> dict[str, Any]:
    """The weights of a TensorFlow checkpoint as nested dicts of NumPy arrays, read into memory.

    Args:
        tf_ckpt_path: path of the checkpoint without .index and .data-..., as TensorFlow names it.
        hparams: dict of sizes, against which every tensor is checked.

    Returns:
        dict with wte [n_vocab, n_embd], wpe [n_ctx, n_embd], blocks (a `Blocks`, a list of n_layer dicts with
        attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj, each w [n_in, n_out] and b [n_out], and ln_1, ln_2, each g and
        b [n_embd]) and ln_f (g and b), all float32.

    Raises:
        ValueError: a tensor is missing, has another shape or type, belongs to no layer, or is damaged; it is named.
        FileNotFoundError: there is no such checkpoint.
        ImportError: the checkpoint is one that only TensorFlow reads, and TensorFlow cannot be imported.
    """
    return nested(weights.ordered(checkpoint.read_tensors(Path(tf_ckpt_path), parameter_shapes(hparams))), hparams)


def load_params(model_dir: str | os.PathLike[str], hparams: dict[str, Any]) -> dict[str, Any]:
    """The weights of the model in `model_dir`, mapped from their converted copy, which is made where it is missing.

    Returns and raises as `load_gpt2_params_from_tf_ckpt`.
    """
    model_dir, shapes = Path(model_dir), parameter_shapes(hparams)
    if hugging_face.recognizes(model_dir):
        return nested(weights.load(model_dir, lambda: hugging_face.fingerprint(model_dir), shapes,
                                   lambda: hugging_face.read_tensors(model_dir, shapes)), hparams)
    prefix = checkpoint.latest_checkpoint(model_dir)
    index = checkpoint.index_file(prefix)
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing: without it the checkpoint cannot be read")
    return nested(weights.load(model_dir, lambda: checkpoint.fingerprint(prefix), shapes,
                               lambda: checkpoint.read_tensors(prefix, shapes)), hparams)


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


def nested(arrays: Iterable[tuple[str, np.ndarray]], hparams: dict[str, Any]) -> dict[str, Any]:
    """(name, array) pairs as the nested dict of `load_gpt2_params_from_tf_ckpt`: h3/ln_1/g -> blocks[3].ln_1.g"""
    params: dict[str, Any] = {"blocks": Blocks(({} for _ in range(hparams["n_layer"])), hparams["n_head"])}
    for name, array in arrays:
        *path, leaf = name.split("/")
        group: Any = params
        if path and re.fullmatch(r"h\d+", path[0]):
            group, path = params["blocks"][int(path[0][1:])], path[1:]
        for key in path:
            group = group.setdefault(key, {})
        group[leaf] = array
    return params


class Blocks(list[dict[str, Any]]):
    """The list of a model's blocks, with their n_head: no weight's shape tells it, and a wrong one gives garbage."""

    def __init__(self, blocks: Iterable[dict[str, Any]], n_head: int) -> None:
        super().__init__(blocks)
        self.n_head = n_head
