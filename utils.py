"""A model's folder, from OpenAI's files to nested dicts of NumPy arrays.

A model is a folder with the files in which OpenAI published GPT-2: hparams.json (the sizes), encoder.json and vocab.bpe
(the vocabulary), and a TensorFlow checkpoint (the weights); or with those of Hugging Face
(`model_files/hugging_face.py`). `load_encoder_hparams_and_params` finds it by its name, downloads it if it is not
there yet, and reads it.

The weights are kept beside the checkpoint as one plain NumPy file, which later runs map into memory in a millisecond
(`model_files/weights.py`).

Downloads, conversions and waits are announced as warnings of Python's `logging`, which prints them to stderr unless it
is configured otherwise.
"""
import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoder import Encoder, get_encoder
from model_files import folders, hub, weights
from model_files import tf_checkpoint as checkpoint
from model_files.folders import BUNDLED_MODEL as BUNDLED_MODEL  # "as": can be imported from here, too
from model_files.folders import DEFAULT_MODEL, is_hub_name
from model_files.folders import MODELS_DIR as MODELS_DIR
from model_files.folders import available_models as available_models
from model_files.folders import find_model as find_model
from model_files.folders import load_hparams as load_hparams
from model_files.folders import missing_files as missing_files
from model_files.official_files import HPARAMS, MODEL_SIZES
from model_files.official_files import download_gpt2_files as download_gpt2_files
from model_files.official_files import parameter_shapes as parameter_shapes

logger = logging.getLogger(__name__)


# --- a model's folder ---------------------------------------------------------------------------


class Model(NamedTuple):
    """A loaded model: (encoder, hparams, params), with methods for what people do with it most.

    >>> model = load_encoder_hparams_and_params("shakespeare")
    >>> model.decode(model.generate(model.encode("O Romeo, Romeo! wherefore art thou"), 3))
    ' Romeo?'
    """

    encoder: Encoder  # None for a model that takes ids, not text
    hparams: dict[str, Any]
    params: dict[str, Any]

    @property
    def n_head(self) -> int:
        return int(self.hparams["n_head"])

    @property
    def n_layer(self) -> int:
        return int(self.hparams["n_layer"])

    def encode(self, text: str) -> list[int]:
        """The ids of a text; those that begin a new text ([<|endoftext|>]) if it is empty."""
        return self._encoder.encode(text) or self._encoder.new_text()

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoder.decode(ids)

    def logits(self, ids: Sequence[int] | np.ndarray, **options: Any) -> np.ndarray:
        """float32 [n_seq, n_vocab]; the options are those of `gpt2.gpt2`: cache, n_logits, hook."""
        from gpt2 import gpt2  # here: when run as a program, gpt2.py imports this module

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
    model_dir, on_hub = find_model(name, models_dir), is_hub_name(name)
    missing = missing_files(model_dir)
    if models_dir is not None and not Path(models_dir).is_dir() and model_dir.parent == folders.MODELS_DIR:
        logger.warning(f"the folder {models_dir} does not exist: using the bundled model in {model_dir.parent}")
    if missing and on_hub:
        model_dir = hub.download(str(name))
        missing = missing_files(model_dir)
    elif missing and model_dir.name in MODEL_SIZES and not folders.is_hugging_face(model_dir):
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
            model_dir = folders.MODELS_DIR / BUNDLED_MODEL
        missing = missing_files(model_dir)
    if folders.is_hugging_face(model_dir):
        from model_files import hugging_face

        hugging_face.check_files(model_dir, missing)
        hugging_face.say_what_is_ignored(model_dir)
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
    """The weights of the model in `model_dir`, mapped from their converted copy, which is made if it is missing.

    Returns and raises as `load_gpt2_params_from_tf_ckpt`.
    """
    model_dir, shapes = Path(model_dir), parameter_shapes(hparams)
    if folders.is_hugging_face(model_dir):
        from model_files import hugging_face

        return nested(weights.load(model_dir, lambda: hugging_face.fingerprint(model_dir), shapes,
                                   lambda: hugging_face.read_tensors(model_dir, shapes)), hparams)
    prefix = checkpoint.latest_checkpoint(model_dir)
    index = checkpoint.index_file(prefix)
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing: without it the checkpoint cannot be read")
    return nested(weights.load(model_dir, lambda: checkpoint.fingerprint(prefix), shapes,
                               lambda: checkpoint.read_tensors(prefix, shapes)), hparams)


def nested(arrays: Iterable[tuple[str, np.ndarray]], hparams: dict[str, Any]) -> dict[str, Any]:
    """(name, array) pairs as the nested dict of `load_gpt2_params_from_tf_ckpt`: h3/ln_1/g -> blocks[3].ln_1.g"""
    params = Params(blocks=Blocks((Params() for _ in range(hparams["n_layer"])), hparams["n_head"]))
    for name, array in arrays:
        *path, leaf = name.split("/")
        group: Any = params
        if path and re.fullmatch(r"h\d+", path[0]):
            group, path = params["blocks"][int(path[0][1:])], path[1:]
        for key in path:
            group = group.setdefault(key, Params())
        group[leaf] = array
    return params


class Params(dict[str, Any]):
    """Weights by their names, nested. They print as one line: all their numbers would fill pages."""

    def arrays(self) -> Iterator[np.ndarray]:
        """All arrays, also those of the dicts and blocks within."""
        for value in self.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Params):
                    yield from part.arrays()
                else:
                    yield part

    def __repr__(self) -> str:
        arrays = list(self.arrays())
        return f"<{len(arrays)} arrays, {sum(array.size for array in arrays):,} numbers: {', '.join(self)}>"


class Blocks(list[dict[str, Any]]):
    """The list of a model's blocks, with their n_head: no weight's shape shows it, and a wrong one gives garbage."""

    def __init__(self, blocks: Iterable[dict[str, Any]], n_head: int) -> None:
        super().__init__(blocks)
        self.n_head = n_head

    def __repr__(self) -> str:
        return f"<{len(self)} blocks>"
