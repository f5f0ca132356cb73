"""A model as Hugging Face keeps it: config.json, model.safetensors and the tokenizer's files in one folder.

What such a folder holds is often not quite GPT-2. Each setting that would change a result is checked before anything is
computed, and before the weights are downloaded. Nothing pickled (pytorch_model.bin) is ever opened.
"""
from __future__ import annotations

import hashlib
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

from encoder import END_OF_TEXT, AddedToken, Encoder, read_json, read_merges
from model_files.official_files import check_sizes

logger = logging.getLogger(__name__)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the weights in one file, or a list of shards
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
                   "special_tokens_map.json")
SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)

SIZES = {  # our name: those that config.json may have for it
    "n_vocab": ("vocab_size",),
    "n_ctx": ("n_positions", "max_position_embeddings"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_layer": ("n_layer", "num_hidden_layers"),
}
SETTINGS: dict[str, tuple[Any, ...]] = {  # in config.json: the values that are GPT-2, the first where it says nothing
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # the same tanh form under three names
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
# Not weights of the language model: the causal masks that old versions saved, and the heads beside it that are trained
# with it (GPT2DoubleHeadsModel's, and the value head of reinforcement learning).
NO_WEIGHTS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|(multiple_choice_head|v_head)\..*")
# How tokenizer.json says it where it says it in full: OpenAI's own alternatives, in their order.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ANY_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")  # of transformers 4 and 5: what tokenizer.json says
LEAVES = {"w": "weight", "g": "weight", "b": "bias"}
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: it is the upper half of a float32


def is_folder_of(folder: Path) -> bool:
    """Whether a folder is laid out as Hugging Face does it. One that has hparams.json, too, is OpenAI's."""
    names = ("config.json", SINGLE, INDEX, "pytorch_model.bin", "adapter_config.json")
    return not (folder / "hparams.json").exists() and any((folder / name).exists() for name in names)


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


def check_format(names: list[str], model: str) -> None:
    """ValueError if a model with these files has its weights in another format only; it says how to convert them."""
    if any(re.fullmatch(r"model.*\.safetensors(\.index\.json)?", name) for name in names):
        return
    if any(re.fullmatch(r"pytorch_model.*\.bin(\.index\.json)?", name) for name in names):
        target = model if os.path.isdir(model) else "./" + model.rpartition("/")[2]
        program = (f"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
                   f"M.from_pretrained({model!r}).save_pretrained({target!r}); "
                   f"T.from_pretrained({model!r}).save_pretrained({target!r})")
        raise ValueError(f"{model} has its weights in pytorch_model.bin alone, a pickle, which can run any code when "
                         "it is opened. Convert it once, where torch and transformers are installed: python -c "
                         f"{shlex.quote(program)}" + ("" if target == model else f"; then name the folder {target}"))
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
    config = _read_object(path)
    for name, values in SETTINGS.items():
        if config.get(name, values[0]) not in values:
            raise _not_gpt2(path, name, config[name], values[0])
    for architecture in config.get("architectures") or ():
        if str(architecture).startswith("GPT2For"):
            raise ValueError(f"{path}: architectures is {_short(config['architectures'])}: that is no language model, "
                             "which would be GPT2LMHeadModel")
    hparams = {}
    for name, aliases in SIZES.items():
        found = [alias for alias in aliases if alias in config]
        if not found:
            raise ValueError(f"{path}: it has no {aliases[0]}")
        hparams[name] = config[found[0]]
    if config.get("n_inner") is not None:
        hparams["n_inner"] = config["n_inner"]
    try:
        return check_sizes(hparams)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


# --- the tokenizer ------------------------------------------------------------------------------


def get_encoder(folder: Path, name: str, n_vocab: int) -> Encoder:
    """The tokenizer of the model in `folder`: tokenizer.json, or where there is none vocab.json and merges.txt; tokens
    that were added are named in the other files, too.

    Args:
        folder: Path of the model's folder.
        name: what to call it.
        n_vocab: how many token ids the model has.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is not GPT-2's byte-level BPE (the setting is named), a file is malformed, or the vocabulary
            does not fit the model.
    """
    path, settings = folder / "tokenizer.json", _read_settings(folder / "tokenizer_config.json")
    for setting in ("add_prefix_space", "add_bos_token", "add_eos_token", "do_lower_case", "split_special_tokens"):
        if settings.get(setting):
            raise _not_gpt2(folder / "tokenizer_config.json", setting, settings[setting], False)
    if path.is_file():
        vocabulary, merges, listed = _read_tokenizer(path)
    else:
        path = folder / "vocab.json"
        vocabulary, merges, listed = _read_object(path), read_merges(folder / "merges.txt"), []
        kind = settings.get("tokenizer_class")
        if kind not in (None, "GPT2Tokenizer", "GPT2TokenizerFast", *ANY_TOKENIZER):
            raise _not_gpt2(folder / "tokenizer_config.json", "tokenizer_class", kind, "GPT2Tokenizer")
    if len(vocabulary) > n_vocab:
        raise ValueError(f"{path} has {len(vocabulary)} tokens, but config.json says vocab_size = {n_vocab}: they "
                         "belong to different models")
    try:
        added = _added_tokens(folder, settings, vocabulary, listed)
        eos, bos = (_special_id(folder, setting, n_vocab) for setting in ("eos_token_id", "bos_token_id"))
        return Encoder(vocabulary, merges, name, added_tokens=added, n_vocab=n_vocab, eot_token=eos, bos_token=bos)
    except ValueError as error:
        raise ValueError(f"{path} is not GPT-2's kind of vocabulary: {error}") from None


def _read_tokenizer(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[dict[str, Any]]]:
    """(vocabulary, merges, added tokens) from a tokenizer.json; ValueError if it encodes in another way than GPT-2."""
    tokenizer = _read_object(path)
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise _not_gpt2(path, "model.type", model.get("type") if isinstance(model, dict) else model, "BPE")
    for setting, good in (("dropout", (None, 0)), ("continuing_subword_prefix", (None, "")),
                          ("end_of_word_suffix", (None, "")), ("byte_fallback", (False,)), ("ignore_merges", (False,))):
        if model.get(setting, good[0]) not in good:
            raise _not_gpt2(path, f"model.{setting}", model[setting], good[0])
    if _steps(tokenizer.get("normalizer"), "normalizers"):
        raise _not_gpt2(path, "normalizer", tokenizer["normalizer"], None)
    *before, last = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers") or [{}]
    if last.get("type") != "ByteLevel":
        raise _not_gpt2(path, "pre_tokenizer", tokenizer.get("pre_tokenizer"), {"type": "ByteLevel"})
    if last.get("add_prefix_space", False):
        raise _not_gpt2(path, "pre_tokenizer.add_prefix_space", last["add_prefix_space"], False)
    split = [{"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}]
    if before != ([] if last.get("use_regex", True) else split):  # a ByteLevel with use_regex splits by that pattern
        raise _not_gpt2(path, "pre_tokenizer", tokenizer["pre_tokenizer"], {"type": "ByteLevel", "use_regex": True})
    for step in _steps(tokenizer.get("post_processor"), "processors"):
        only_the_text = [list(part) for part in step.get("single", [])] == [["Sequence"]]
        if step.get("type") != "ByteLevel" and not (step.get("type") == "TemplateProcessing" and only_the_text):
            raise _not_gpt2(path, "post_processor", tokenizer["post_processor"], {"type": "ByteLevel"})
    if [step.get("type") for step in _steps(tokenizer.get("decoder"), "decoders")] not in ([], ["ByteLevel"]):
        raise _not_gpt2(path, "decoder", tokenizer["decoder"], {"type": "ByteLevel"})
    vocabulary, merges, added = model.get("vocab"), model.get("merges"), tokenizer.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(merges, list) or not isinstance(added, list):
        raise ValueError(f"{path} must have an object model.vocab and a list model.merges")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) if isinstance(merge, list) else ()
             for merge in merges]
    for merge, pair in zip(merges, pairs):
        if len(pair) != 2 or not all(isinstance(token, str) and token for token in pair):
            raise ValueError(f"{path}: a merge must be two tokens, not {_short(merge)}")
    return vocabulary, pairs, added  # type: ignore[return-value]  # of two str each, as was just checked


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer, which may be none, one, or a sequence, also of sequences."""
    if part is None:
        return []
    if not isinstance(part, dict):
        return [{"type": part}]
    if part.get("type") != "Sequence":
        return [part]
    return [step for inner in part.get(name) or [] for step in _steps(inner, name)]


def _added_tokens(folder: Path, settings: dict[str, Any], vocabulary: dict[str, int],
                  listed: list[dict[str, Any]]) -> dict[str, AddedToken]:
    """{text: `AddedToken`}: those in a list with their ids, and those with a role (bos_token, ...), which get the next
    ids if they are in no list and not in the vocabulary."""
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        if not isinstance(decoder, dict) or not all(re.fullmatch("[0-9]{1,9}", i) for i in decoder):
            raise ValueError(f"added_tokens_decoder must map ids to tokens, unlike {_short(decoder)}")
        listed = [*listed, *({**_as_object(token), "id": int(i)} for i, token in decoder.items())]
    else:  # as they were kept before
        settings = settings | _read_settings(folder / "special_tokens_map.json")
        old = _read_settings(folder / "added_tokens.json")
        roles = {_text(token) for token in _tokens_with_roles(settings)}
        listed = [*({"content": text, "id": i, "normalized": text not in roles} for text, i in old.items()), *listed]
    tokens = {_text(token): _added_token(token) for token in listed}
    tokens = dict(sorted(tokens.items(), key=lambda item: item[1].id))
    if END_OF_TEXT in vocabulary and settings.get("tokenizer_class") not in ANY_TOKENIZER:  # GPT2Tokenizer's defaults
        settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT) | settings
    for token in _tokens_with_roles(settings):
        text, next_id = _text(token), len(vocabulary.keys() | tokens.keys())
        tokens.setdefault(text, _added_token({"id": vocabulary.get(text, next_id), **_as_object(token)}))
    return {text: token for text, token in tokens.items() if text}


def _tokens_with_roles(settings: dict[str, Any]) -> list[Any]:
    tokens = [settings.get(f"{role}_token") for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    for setting in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(setting) or []
        tokens += more.values() if isinstance(more, dict) else more
    return [token for token in tokens if token is not None]


def _as_object(token: Any) -> dict[str, Any]:
    return token if isinstance(token, dict) else {"content": token}


def _text(token: Any) -> str:
    text = _as_object(token).get("content")
    if not isinstance(text, str):
        raise ValueError(f"an added token must have a text, but {_short(token)} has none")
    return text


def _added_token(token: dict[str, Any]) -> AddedToken:
    added = AddedToken(*(token.get(field, False) for field in AddedToken._fields))
    if type(added.id) is not int or not all(type(flag) is bool for flag in added[1:]):
        raise ValueError(f"an added token must have an id and flags, not {_short(token)}")
    return added


def _special_id(folder: Path, setting: str, n_vocab: int) -> int | None:
    """bos_token_id or eos_token_id of a model, as transformers generates with it; None where it is no id of this model.

    Of several tokens that end a text it is the first.
    """
    generation = _read_settings(folder / "generation_config.json")
    value = (generation if setting in generation else _read_object(folder / "config.json")).get(setting)
    value = value[0] if isinstance(value, list) and value else value
    return value if type(value) is int and 0 <= value < n_vocab else None


# --- the weights --------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, whether they are there or not: one, or the shards that the index names."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    names = _read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} has no weight_map, which says in which file each tensor is")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", name):
            raise ValueError(f"{index}: weight_map names {_short(name)}, which is no .safetensors file in this folder")
    return [folder / name for name in sorted(set(names.values()))]


def files(folder: Path) -> list[Path]:
    """All files of the model that are read."""
    return [path for path in (folder / name for name in SMALL_FILES) if path.is_file()] + weight_files(folder)


def fingerprint(folder: Path) -> bytes:
    """Bytes that are others where the weights are, at the cost of reading a megabyte.

    A safetensors file has no checksums. Another training changes all of it, so 4 KB in 256 places show it; what changes
    a few weights in place changes the time of the last change, too.
    """
    digest = hashlib.sha256()
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
        FileNotFoundError, PermissionError: at once, where a file is missing or cannot be read.
        ValueError: a tensor is missing, has another shape or type or is not in `shapes`, the output is not tied to the
            token embedding, or a file is damaged.
    """
    stored: dict[str, Stored] = {}
    for path in weight_files(folder):
        for key, tensor in _tensors_in(path):
            name = key.removeprefix("transformer.")  # which GPT2LMHeadModel's names have, and GPT2Model's have not
            if NO_WEIGHTS.fullmatch(name):
                continue
            if name in stored:
                raise ValueError(f"{path} has the tensor {name} a second time: {stored[name].path.name} has it, too")
            stored[name] = tensor
    head = stored.pop("lm_head.weight", None)
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
    if head is not None and not np.array_equal(head.read(), tensors["wte"].read()):
        raise ValueError(f"{head.path}: lm_head.weight differs from wte.weight, but GPT-2's output is tied to its "
                         "token embedding (tie_word_embeddings): it cannot be used here")
    return ((name, tensor.read()) for name, tensor in tensors.items())


def hugging_face_name(name: str) -> str:
    """A tensor's name there, of our name.

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


# --- the Hub ------------------------------------------------------------------------------------


def is_hub_name(name: str) -> bool:
    """Whether `name` can be that of a model on the Hub: owner/name."""
    part = r"(?!-|\.)(?!.*(--|\.\.))[A-Za-z0-9_.-]{1,96}(?<!-)(?<!\.)"
    owner, slash, model = name.partition("/")
    return bool(slash and re.fullmatch(part, owner) and re.fullmatch(part, model))


def cached(name: str) -> Path:
    """The folder in huggingface_hub's cache that a model of the Hub has, or would have; it need not be there.

    It is looked up without a question to the Hub: what was downloaded once is used as it is, until `hf download` gets
    a newer version. The converted weights go into it as well, so that `hf cache` shows and removes all of a model.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    storage = Path(HF_HUB_CACHE, "models--" + name.replace("/", "--"))
    try:
        commit = (storage / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = ""
    return storage / "snapshots" / (commit if re.fullmatch("[0-9a-f]{40}", commit) else "main")


def cached_models() -> list[str]:
    """The names of the models in the cache that have a whole folder there; they may be of another kind than GPT-2."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        folders = os.listdir(HF_HUB_CACHE)
    except OSError:
        return []
    names = [folder.removeprefix("models--").replace("--", "/") for folder in folders if folder.startswith("models--")]
    return sorted(name for name in names if is_hub_name(name))


def download(name: str) -> Path:
    """Download a model from the Hub into huggingface_hub's cache: the settings first, the weights if they are GPT-2's.

    Raises:
        FileNotFoundError: there is no such model.
        ConnectionError: the Hub cannot be reached, or HF_HUB_OFFLINE forbids to ask it.
        ValueError: it is not a GPT-2 that can be used; the message says why.
        OSError: the Hub refuses it, or the disk is full.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    where = f"{name} on {constants.ENDPOINT}"
    try:
        files = HfApi().list_repo_files(name)
        if "config.json" not in files and "adapter_config.json" not in files:
            raise ValueError(f"{where} has no config.json: it is not a model that transformers saved")
        check_format(files, name)
        logger.warning(f"downloading {where} to {constants.HF_HUB_CACHE}")
        folder = Path(snapshot_download(name, allow_patterns=list(SMALL_FILES)))
        get_encoder(folder, name, load_hparams(folder)["n_vocab"])
        weights = [SINGLE] if SINGLE in files else [INDEX, "model-*-of-*.safetensors"]
        return Path(snapshot_download(name, allow_patterns=[*SMALL_FILES, *weights]))
    except errors.OfflineModeIsEnabled:
        raise ConnectionError(f"{name} is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to ask the "
                              "Hub") from None
    except errors.GatedRepoError:
        raise PermissionError(f"{where} is for those who have accepted its conditions: do that in a browser at "
                              f"{constants.ENDPOINT}/{name}, then run hf auth login") from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(f"there is no model {where}; if it is private, run hf auth login") from None
    except errors.HfHubHTTPError as error:
        raise OSError(f"{where}: {_first_line(error)}") from None
    except (ValueError, OSError) as error:
        if isinstance(error, errors.EntryNotFoundError) or not error.args:
            raise ConnectionError(f"{where}: {_first_line(error)}") from None
        raise
    except Exception as error:  # those of the HTTP library, which is another one from version to version
        raise ConnectionError(f"cannot reach {where} ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- what else is needed ------------------------------------------------------------------------


def _not_gpt2(path: Path, setting: str, value: Any, wanted: Any) -> ValueError:
    return ValueError(f"{path}: {setting} is {_short(value)}, but GPT-2 has {_short(wanted)}: it cannot be used here")


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object, not {type(value).__name__}")
    return value


def _read_settings(path: Path) -> dict[str, Any]:
    """As `_read_object`, but no settings where there is no such file."""
    return _read_object(path) if path.is_file() else {}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
