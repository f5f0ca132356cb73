"""A model as Hugging Face keeps it: config.json, model.safetensors and the tokenizer's files in one folder.

What such a folder holds is often not quite GPT-2. Each setting that would change a result is checked before anything is
computed, and before the weights are downloaded. Nothing pickled (pytorch_model.bin) is ever opened.
"""
import json
import logging
import math
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoder import Encoder
from model_files import hugging_face_tokenizer as tokenizer
from model_files.hugging_face_tokenizer import not_gpt2, read_object, read_settings, short
from model_files.official_files import check_sizes
from model_files.weights import sha256

logger = logging.getLogger(__name__)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the weights in one file, or a list of shards
SMALL_FILES = ("config.json", "generation_config.json", *tokenizer.FILES)

SIZES = {  # our name: those that config.json may have for it
    "n_vocab": ("vocab_size",),
    "n_ctx": ("n_positions", "max_position_embeddings"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_layer": ("n_layer", "num_hidden_layers"),
}
SETTINGS: dict[str, tuple[Any, ...]] = {  # in config.json: the values that are GPT-2, the first where it says nothing
    "model_type": ("gpt2",),
    # the same tanh form under all its names
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),  # code of its own
}
# If they are not 0, 1 or empty, transformers generates another text with them, greedily too.
OF_GENERATION = ("num_beams", "penalty_alpha", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids",
                 "force_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id",
                 "forced_eos_token_id", "min_length", "min_new_tokens", "guidance_scale", "stop_strings",
                 "encoder_repetition_penalty", "exponential_decay_length_penalty", "watermarking_config")
# Not weights of the language model: the causal masks that old versions saved, and the heads beside it that are trained
# with it (GPT2DoubleHeadsModel's, and the value head of reinforcement learning).
NOT_WEIGHTS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|(multiple_choice_head|v_head)\..*")
LEAVES = {"w": "weight", "g": "weight", "b": "bias"}
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: it is the upper half of a float32


def missing_files(folder: Path) -> list[Path]:
    """Which of the files that are needed are not in `folder`."""
    whole = (folder / "tokenizer.json").is_file() or not (folder / "vocab.json").is_file()
    vocabulary = ("tokenizer.json",) if whole else ("merges.txt",)
    paths = [folder / name for name in ("config.json", *vocabulary)]
    paths += weight_files(folder) if (folder / INDEX).is_file() else [folder / SINGLE]
    return [path for path in paths if not path.is_file()]


def check_files(folder: Path, missing: list[Path]) -> None:
    """FileNotFoundError if files are missing, or ValueError if the weights are there in another format only."""
    if missing:
        check_format(os.listdir(folder), str(folder))
        raise FileNotFoundError(f"{missing[0]} is missing: a model from Hugging Face is a folder with config.json, "
                                "model.safetensors, and tokenizer.json or vocab.json and merges.txt")


def say_what_is_ignored(folder: Path) -> None:
    """A notice of what generation_config.json asks for and `gpt2.generate` does not do; older folders have config.json
    alone."""
    path = folder / "generation_config.json"
    path = path if path.is_file() else folder / "config.json"
    generation = read_settings(path)
    names = [name for name in OF_GENERATION if generation.get(name) not in (None, 0, 1, [], {})]
    if isinstance(ends := generation.get("eos_token_id"), list) and len(ends) > 1:
        names.append(f"eos_token_id (a text ends with {ends[0]} alone)")
    if names:
        logger.warning(f"ignored in {path}: {', '.join(names)}; transformers may generate another text")


def check_format(names: list[str], model: str) -> None:
    """ValueError if a model with these files has its weights in another format only; it says how to convert them."""
    if SINGLE in names or INDEX in names:
        return
    if any(re.fullmatch(r"pytorch_model.*\.bin(\.index\.json)?", name) for name in names):
        target = model if os.path.isdir(model) else "./" + model.rpartition("/")[2]
        program = "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; " + "; ".join(
            f"{kind}.from_pretrained({json.dumps(model)}).save_pretrained({json.dumps(target)})" for kind in "MT")
        raise ValueError(f"{model} has its weights only in pytorch_model.bin, a pickle file, which can run any code "
                         "when it is opened. Convert it once, where torch and transformers are installed: python -c "
                         f"{shlex.quote(program)}" + ("" if target == model else f"; then load {target}"))
    if "adapter_config.json" in names:
        raise ValueError(f"{model} is an adapter (LoRA, ...), not a whole model: merge it into its model with PEFT's "
                         "merge_and_unload(), and save that with save_pretrained")


# --- config.json --------------------------------------------------------------------------------


def load_hparams(folder: Path) -> dict[str, Any]:
    """The sizes of a model from its config.json, checked: n_vocab, n_ctx, n_embd, n_head, n_layer, and n_inner, the
    width of the feed-forward network, if it is not 4 * n_embd.

    Raises:
        ValueError: the file is not JSON, a size is missing or out of range, or a setting is not GPT-2's; it is named.
    """
    path = folder / "config.json"
    config = read_object(path)
    for name, values in SETTINGS.items():
        if config.get(name, values[0]) not in values:
            raise not_gpt2(path, name, config[name], values[0])
    if "GPT2For" in str(config.get("architectures")):
        raise ValueError(f"{path}: architectures is {short(config['architectures'])}, which is no language model: that "
                         "would be GPT2LMHeadModel")
    hparams = {}
    for name, aliases in SIZES.items():
        found = [alias for alias in aliases if alias in config]
        if not found:
            raise ValueError(f"{path}: it has no {aliases[0]}")
        hparams[name] = config[found[0]]
        if config[found[-1]] != config[found[0]]:
            raise ValueError(f"{path}: {found[0]} is {short(config[found[0]])} and {found[1]} is "
                             f"{short(config[found[1]])}, but both name the same size: remove the wrong one")
    if config.get("n_inner") is not None:
        hparams["n_inner"] = config["n_inner"]
    try:
        return check_sizes(hparams)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def get_encoder(folder: Path, name: str, n_vocab: int) -> Encoder:
    """The tokenizer of the model in `folder`, with the model's own first and last token of a text."""
    eos, bos = (_special_id(folder, setting, n_vocab) for setting in ("eos_token_id", "bos_token_id"))
    return tokenizer.get_encoder(folder, name, n_vocab, eos, bos)


def _special_id(folder: Path, setting: str, n_vocab: int) -> int | None:
    """bos_token_id or eos_token_id of a model, as transformers uses it; None if it is not an id of this model.

    Of several tokens that end a text it is the first. Where generation_config.json has none, it is that of config.json:
    transformers does not end such a text.
    """
    generation = read_settings(folder / "generation_config.json")
    value = (generation if setting in generation else read_object(folder / "config.json")).get(setting)
    value = value[0] if isinstance(value, list) and value else value
    return value if type(value) is int and 0 <= value < n_vocab else None


# --- the weights --------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, whether they are there or not: one, or the shards that the index names."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} has no weight_map, which says in which file each tensor is")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", name):
            raise ValueError(f"{index}: weight_map names {short(name)}, which is no .safetensors file in this folder")
    return [folder / name for name in sorted(set(names.values()))]


def files(folder: Path) -> list[Path]:
    """All files of the model that are read."""
    return [path for path in (folder / name for name in SMALL_FILES) if path.is_file()] + weight_files(folder)


def fingerprint(folder: Path) -> bytes:
    """Bytes that differ if the weights differ, at the cost of reading a megabyte.

    A safetensors file has no checksums. Training changes all of it, which 4 KB in 256 places show; a change of a few
    weights in place shows in the file's modification time.
    """
    digest = sha256()
    for path in weight_files(folder):
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            digest.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode())
            for start in range(0, status.st_size, max(4096, status.st_size // 256)):
                file.seek(start)
                digest.update(file.read(4096))
    return digest.digest()


def read_tensors(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a model, one by one, so that no more than one is in memory.

    Args:
        folder: Path of the model's folder.
        shapes: dict {our name: shape} of all the tensors there should be.

    Returns:
        An iterator of (our name, float32 array) in the order of `shapes`.

    Raises:
        FileNotFoundError, PermissionError: at once, if a file is missing or cannot be read.
        ValueError: a tensor is missing, has another shape or type or is not in `shapes`, the output is not tied to the
            token embedding, or a file is damaged.
    """
    stored: dict[str, Stored] = {}
    for path in weight_files(folder):
        for key, tensor in _tensors_in(path):
            name = key.removeprefix("transformer.")  # in GPT2LMHeadModel's names, not in GPT2Model's
            if NOT_WEIGHTS.fullmatch(name):
                continue
            if name in stored:
                raise ValueError(f"{path} has the tensor {name} a second time: {stored[name].path.name} has it, too")
            stored[name] = tensor
    head = stored.pop("lm_head.weight", None)
    if head is not None and "wte.weight" not in stored:  # of the two that are one, safetensors' save_model keeps this
        stored["wte.weight"], head = head, None
    tensors: dict[str, Stored] = {}
    for name, shape in shapes.items():
        tensor_name = hugging_face_name(name)
        if tensor_name not in stored:
            raise ValueError(f"{folder} has no tensor {tensor_name}, which the sizes in config.json require")
        tensors[name] = stored.pop(tensor_name)
        if tensors[name].dtype not in DTYPES:
            raise ValueError(f"{tensors[name].path}: {tensor_name} is {tensors[name].dtype}; only float32, float16 and "
                             "bfloat16 are read")
        if tensors[name].shape != shape:
            raise ValueError(f"{tensors[name].path}: {tensor_name} has shape {list(tensors[name].shape)}, but the "
                             f"sizes in config.json need {list(shape)}")
    if stored:
        more = f" and {len(stored) - 1} more" if len(stored) > 1 else ""
        raise ValueError(f"{folder} has the tensor {min(stored)}{more}, for which a GPT-2 of the sizes in config.json "
                         "has no use: is n_layer too small, or is it another kind of model?")
    if head is not None and (head.dtype not in DTYPES or not np.array_equal(head.read(), tensors["wte"].read())):
        raise ValueError(f"{head.path}: lm_head.weight differs from wte.weight, but GPT-2's output is tied to its "
                         "token embedding (tie_word_embeddings): it cannot be used here")
    return ((name, tensor.read()) for name, tensor in tensors.items())


def hugging_face_name(name: str) -> str:
    """Hugging Face's name of a tensor, from ours.

    >>> hugging_face_name("h3/attn/c_attn/w"), hugging_face_name("wte")
    ('h.3.attn.c_attn.weight', 'wte.weight')
    """
    *path, leaf = name.split("/")
    path, leaf = (path, LEAVES[leaf]) if path else ([leaf], "weight")
    return ".".join([re.sub(r"^h(\d+)$", r"h.\1", part) for part in path] + [leaf])


class Stored(NamedTuple):
    """Where a tensor is stored. Its matrices are [n_in, n_out], as ours are."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # byte in the file

    def read(self) -> np.ndarray:
        """The tensor, as float32."""
        n_values = math.prod(self.shape)
        values = np.fromfile(self.path, DTYPES[self.dtype], n_values, offset=self.start)
        if values.size != n_values:
            raise ValueError(f"{self.path} was cut short while it was read")
        if self.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32, copy=False).reshape(self.shape)


def _tensors_in(path: Path) -> Iterator[tuple[str, Stored]]:
    """(name, `Stored`) of each tensor in a safetensors file.

    safetensors checks the file: that its header is one, of at most 100 MB, and that the tensors fill the rest without
    gaps or overlaps. It cannot give bfloat16 without torch, so the numbers are read from where the header says.
    """
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as file:
        if file.read(8) == b"version ":
            raise ValueError(f"{path} is only Git LFS's pointer to the file: run git lfs pull there, or download it")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): download it again") from None
    with open(path, "rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_bytes))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield name, Stored(path, tensor["dtype"], tuple(tensor["shape"]), 8 + n_bytes + tensor["data_offsets"][0])
