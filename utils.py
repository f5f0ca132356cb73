"""From OpenAI's servers to NumPy: download a GPT-2 checkpoint, convert it, map it into memory.

A model is a folder with OpenAI's files: hparams.json (the sizes), encoder.json and vocab.bpe (the vocabulary), and a
TensorFlow checkpoint (the weights). Reading the checkpoint needs TensorFlow, which takes seconds to import; so the
weights are kept beside it as one plain NumPy file, which later runs map into memory in a millisecond.
"""
import json
import os
import re
from pathlib import Path

from encoder import get_encoder
from runtime import weights
from runtime.download import download
from runtime.lock import locked
from runtime.quiet import quiet
from runtime.terminal import notice

DEFAULT_MODEL, BUNDLED_MODEL = "124M", "shakespeare"
MODEL_SIZES = ("124M", "355M", "774M", "1558M")
VOCABULARY_FILES = ("encoder.json", "vocab.bpe")
FILES = ("checkpoint", "encoder.json", "hparams.json", "model.ckpt.data-00000-of-00001", "model.ckpt.index",
         "model.ckpt.meta", "vocab.bpe")
BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # GPT2_BASE_URL in the environment replaces it
SHA256 = {  # of the 124M's files; the vocabulary is the same for all four sizes
    "checkpoint": "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "hparams.json": "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318",
    "model.ckpt.data-00000-of-00001": "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
    "model.ckpt.index": "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
    "model.ckpt.meta": "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

# --- download -----------------------------------------------------------------------------------


def download_gpt2_files(model_size, model_dir):
    """Download the official files of a model into `model_dir`, those that are not there yet.

    A file appears under its name only when it is whole and its checksum is right; until then it grows in
    `NAME.part`, from which an interrupted download goes on. Two processes may do this at once: one waits.

    Args:
        model_size: "124M", "355M", "774M" or "1558M".
        model_dir: the folder, made where it is missing.

    Raises:
        ValueError: no such model.
        ConnectionError: the server cannot be reached, or keeps failing.
        OSError: the server refuses a file, a checksum is wrong, or the disk is full.
    """
    if model_size not in MODEL_SIZES:
        raise ValueError(f"there is no official model {model_size!r}: choose one of {', '.join(MODEL_SIZES)}")
    model_dir = Path(model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    base_url = (os.environ.get("GPT2_BASE_URL") or BASE_URL).rstrip("/")
    with locked(model_dir):
        for name in FILES:
            if not (model_dir / name).exists():
                sha256 = SHA256[name] if model_size == "124M" or name in VOCABULARY_FILES else None
                download(f"{base_url}/{model_size}/{name}", model_dir / name, sha256)


# --- a model's folder ---------------------------------------------------------------------------


def load_encoder_hparams_and_params(model_size, models_dir):
    """Everything of the model in `models_dir/model_size`; an official one that is not there is downloaded.

    Args:
        model_size: "124M", "355M", "774M", "1558M", or the name of any folder with a model in OpenAI's layout. None
            is the 124M, or, where that is not on disk and the server cannot be reached, the bundled model.
        models_dir: the folder of models.

    Returns:
        (encoder, hparams, params): `encoder.Encoder`; dict with n_vocab, n_ctx, n_embd, n_head, n_layer; and the
        weights as `load_gpt2_params_from_tf_ckpt` gives them, mapped from disk (changes stay in this process).

    Raises:
        FileNotFoundError: no such model, or a file of it is missing.
        ValueError: a name that is no folder's name, a file that is damaged, files that do not fit each other.
        OSError: as `download_gpt2_files`.
    """
    if model_size is None:
        try:
            return load_encoder_hparams_and_params(DEFAULT_MODEL, models_dir)
        except ConnectionError as error:
            notice(f"the {DEFAULT_MODEL} model is not in {models_dir} and could not be downloaded ({error}): using the "
                   f"small bundled model instead, as --model_size {BUNDLED_MODEL} does")
            return load_encoder_hparams_and_params(BUNDLED_MODEL, Path(__file__).resolve().parent / "models")
    model_dir = find_model(model_size, models_dir)
    missing = missing_files(model_dir)
    if missing and model_size in MODEL_SIZES:
        download_gpt2_files(model_size, model_dir)
    elif not model_dir.is_dir():
        raise FileNotFoundError(f"there is no model {model_size!r}: {model_dir} does not exist; the official models "
                                f"{', '.join(MODEL_SIZES)} are downloaded when they are named")
    elif missing:
        raise FileNotFoundError(f"{model_dir / missing[0]} is missing: a model is a folder with checkpoint, "
                                "encoder.json, hparams.json, vocab.bpe and the files that checkpoint names")
    hparams = load_hparams(model_dir)
    encoder = get_encoder(model_size, models_dir)
    if encoder.n_vocab != hparams["n_vocab"]:
        raise ValueError(f"{model_dir}: encoder.json has {encoder.n_vocab} tokens, but hparams.json says n_vocab = "
                         f"{hparams['n_vocab']}: they are of different models")
    return encoder, hparams, load_params(model_dir, hparams)


def find_model(model_size, models_dir):
    """The folder of a model, `models_dir/model_size`; ValueError where the name is a path or empty."""
    if not isinstance(model_size, str) or not re.fullmatch(r"[^/\\:\0]+", model_size) or set(model_size) == {"."}:
        raise ValueError(f"{model_size!r} is no model's name: it names a folder in {models_dir}, as 124M does")
    return Path(models_dir) / model_size


def missing_files(model_dir):
    """Which of the files that a model needs are not in `model_dir` (a list of names)."""
    missing = [name for name in ("checkpoint", "encoder.json", "hparams.json", "vocab.bpe")
               if not (model_dir / name).is_file()]
    if "checkpoint" not in missing:
        prefix = checkpoint_prefix(model_dir)
        if not prefix.with_name(prefix.name + ".index").is_file():
            missing.append(prefix.name + ".index")
        if not data_files(prefix):
            missing.append(prefix.name + ".data-00000-of-00001")
    return missing


def checkpoint_prefix(model_dir):
    """The path, without .index and .data-..., of the weights that the file `checkpoint` names.

    It is the small text file that TensorFlow's Saver keeps; the weights are looked for beside it, wherever the folder
    was when it was written.
    """
    path = model_dir / "checkpoint"
    match = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', path.read_text(encoding="utf-8", errors="replace"), re.M)
    if not match:
        raise ValueError(f'{path} names no checkpoint: it should have a line model_checkpoint_path: "model.ckpt"')
    return model_dir / re.split(r"[/\\]", match[1])[-1]


def data_files(prefix):
    return sorted(path for path in prefix.parent.iterdir()
                  if re.fullmatch(re.escape(prefix.name) + r"\.data-\d{5}-of-\d{5}", path.name))


def load_hparams(model_dir):
    """The sizes of a model from its hparams.json, checked.

    Returns:
        dict with n_vocab, n_ctx, n_embd, n_head, n_layer (int), and whatever else the file has.

    Raises:
        ValueError: the file is not JSON, or a size is missing or absurd.
    """
    path = Path(model_dir) / "hparams.json"
    try:
        hparams = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it anew") from None
    if not isinstance(hparams, dict):
        raise ValueError(f"{path} must hold an object with the model's sizes, not {type(hparams).__name__}")
    for name, most in (("n_vocab", 10**7), ("n_ctx", 10**7), ("n_embd", 10**6), ("n_head", 10**4), ("n_layer", 10**3)):
        if name not in hparams:
            raise ValueError(f"{path} has no {name}")
        if type(hparams[name]) is not int or not 1 <= hparams[name] <= most:
            raise ValueError(f"{path}: {name} must be a whole number from 1 to {most}, not {hparams[name]!r}")
    if hparams["n_embd"] % hparams["n_head"]:
        raise ValueError(f"{path}: n_embd = {hparams['n_embd']} is not divisible by n_head = {hparams['n_head']}")
    return hparams


# --- the checkpoint -----------------------------------------------------------------------------


def parameter_shapes(hparams):
    """The model's tensors in order: dict {name in the checkpoint, without "model/": shape without the leading 1}."""
    n = hparams["n_embd"]
    shapes = {"wte": (hparams["n_vocab"], n), "wpe": (hparams["n_ctx"], n)}
    for i in range(hparams["n_layer"]):
        for name, n_in, n_out in (("attn/c_attn", n, 3 * n), ("attn/c_proj", n, n),
                                  ("mlp/c_fc", n, 4 * n), ("mlp/c_proj", 4 * n, n)):
            shapes[f"h{i}/{name}/w"], shapes[f"h{i}/{name}/b"] = (n_in, n_out), (n_out,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h{i}/{name}/g"] = shapes[f"h{i}/{name}/b"] = (n,)
    return shapes | {"ln_f/g": (n,), "ln_f/b": (n,)}


def nested(arrays, hparams):
    """(name, array) pairs to the nested dict of `load_gpt2_params_from_tf_ckpt`: h3/ln_1/g -> blocks[3].ln_1.g"""
    params = {"blocks": [{} for _ in range(hparams["n_layer"])]}
    for name, array in arrays:
        *path, leaf = name.split("/")
        group = params
        if path and re.fullmatch(r"h\d+", path[0]):
            group, path = params["blocks"][int(path[0][1:])], path[1:]
        for key in path:
            group = group.setdefault(key, {})
        group[leaf] = array
    return params


def load_gpt2_params_from_tf_ckpt(tf_ckpt_path, hparams):
    """The weights of a TensorFlow checkpoint as nested NumPy dicts, read into memory.

    Args:
        tf_ckpt_path: path of the checkpoint without .index and .data-..., as TensorFlow names it.
        hparams: dict of sizes, against which every tensor is checked.

    Returns:
        dict with wte [n_vocab, n_embd], wpe [n_ctx, n_embd], blocks (a list of n_layer dicts with attn.c_attn,
        attn.c_proj, mlp.c_fc, mlp.c_proj, each w [n_in, n_out] and b [n_out], and ln_1, ln_2, each g and b [n_embd])
        and ln_f (g and b), all float32.

    Raises:
        ValueError: a tensor is missing, has another shape or type, or the file is damaged; the message names it.
        FileNotFoundError: there is no such checkpoint.
    """
    return nested(weights.ordered(read_tf_checkpoint(tf_ckpt_path, hparams)), hparams)


def read_tf_checkpoint(tf_ckpt_path, hparams):
    """The model's tensors one by one, so that no more than one is in memory: yields (name, float32 array).

    Names, order and shapes are those of `parameter_shapes`; other variables of the checkpoint (an optimizer's slots)
    are passed over. Raises as `load_gpt2_params_from_tf_ckpt`.
    """
    tf_ckpt_path = str(tf_ckpt_path)
    if not os.path.isfile(tf_ckpt_path + ".index"):
        raise FileNotFoundError(f"{tf_ckpt_path}.index is missing: without it the checkpoint cannot be read")
    with quiet():
        import tensorflow as tf

        try:
            reader = tf.train.load_checkpoint(tf_ckpt_path)
            shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{tf_ckpt_path}.index is damaged ({_first_line(error)}): fetch it anew") from None
    for name, shape in parameter_shapes(hparams).items():
        full_name = f"model/{name}"
        if full_name not in shapes:
            raise ValueError(f"{tf_ckpt_path} has no tensor {full_name}: it is not a GPT-2 of {hparams['n_layer']} "
                             "layers, as hparams.json says")
        if dtypes[full_name] != tf.float32:
            raise ValueError(f"{tf_ckpt_path}: {full_name} is {dtypes[full_name].name}, it must be float32")
        stored = tuple(shapes[full_name])
        if stored != shape and stored != (1, *shape):  # OpenAI's linear layers are convolutions of width 1
            raise ValueError(f"{tf_ckpt_path}: {full_name} has shape {list(stored)}, but hparams.json needs "
                             f"{list(shape)}")
        try:
            with quiet():
                array = reader.get_tensor(full_name)
        except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{tf_ckpt_path}.data-* is damaged at {full_name} ({_first_line(error)}): fetch it "
                             "anew") from None
        yield name, array.reshape(shape)


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def load_params(model_dir, hparams):
    """The weights of the model in `model_dir`, mapped from their converted copy, which is made where it is missing.

    Returns and raises as `load_gpt2_params_from_tf_ckpt`.
    """
    model_dir = Path(model_dir)
    prefix = checkpoint_prefix(model_dir)
    index = prefix.with_name(prefix.name + ".index")
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing: without it the checkpoint cannot be read")
    tensors = weights.load(model_dir, [index, *data_files(prefix)], parameter_shapes(hparams),
                           lambda: read_tf_checkpoint(prefix, hparams))
    return nested(tensors, hparams)
