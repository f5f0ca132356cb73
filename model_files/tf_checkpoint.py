"""A model's TensorFlow checkpoint: which files it has, and its tensors, checked against the model's sizes.

`tensor_bundle` reads what TensorFlow has written since 2017. TensorFlow itself is only imported for the rest.
"""
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model_files import tensor_bundle
from model_files.tensor_bundle import Unsupported

Shapes = dict[str, tuple[int, ...]]  # of tensors by their names without "model/"
TYPES = {1: "float32", 2: "float64", 3: "int32", 9: "int64", 14: "bfloat16", 19: "float16"}  # in types.proto


def latest_checkpoint(model_dir: Path) -> Path:
    """The path, without .index and .data-..., of the weights that the file `checkpoint` names.

    TensorFlow's Saver writes this small text file. The path in it may be that of another machine: only its last part
    counts, and the weights are looked for in the same folder.
    """
    path = Path(model_dir) / "checkpoint"
    text = path.read_text(encoding="utf-8", errors="surrogateescape")  # as Python decodes the names of files
    match = re.search(r'^model_checkpoint_path:\s*"(?:[^"\n]*[/\\])?([^"/\\\n\0]+)"', text, re.M)
    if not match or match[1] in (".", ".."):
        raise ValueError(f'{path} names no checkpoint: it should have a line model_checkpoint_path: "model.ckpt"')
    return path.with_name(match[1])


def index_file(prefix: Path) -> Path:
    """The file that lists a checkpoint's tensors, with the place, the size and the CRC-32C of each.

    In the V1 format, of before 2017, there is one file for all, named `prefix`.
    """
    path = prefix.with_name(prefix.name + ".index")
    return prefix if prefix.is_file() and not path.exists() else path


def data_files(prefix: Path) -> list[Path]:
    """The files that hold a checkpoint's numbers; an empty list if there are none."""
    if index_file(prefix) == prefix:
        return [prefix]
    return sorted(path for path in prefix.parent.iterdir()
                  if re.fullmatch(re.escape(prefix.name) + r"\.data-\d{5}-of-\d{5}", path.name) and path.is_file())


def missing_files(prefix: Path) -> list[Path]:
    """Which of the files of a checkpoint are not there."""
    missing = [] if index_file(prefix).is_file() else [index_file(prefix)]
    return missing if data_files(prefix) else [*missing, prefix.with_name(prefix.name + ".data-00000-of-00001")]


def fingerprint(prefix: Path) -> bytes:
    """Bytes that differ if the weights differ: the index, which has the checksum of every tensor."""
    if index_file(prefix) != prefix:
        return index_file(prefix).read_bytes()
    from model_files.download import digest  # not at each start

    return digest(prefix)  # the V1 format has the weights in the same file


def read_tensors(prefix: Path, shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a checkpoint, one by one, so that no more than one is in memory. Each has its checksum verified.

    Args:
        prefix: path of the checkpoint without .index and .data-....
        shapes: dict {name: shape} of all the tensors there should be, named without "model/". OpenAI's linear layers
            are convolutions of width 1: a leading 1 in the file is dropped.

    Returns:
        An iterator of (name, float32 array) in the order of `shapes`.

    Raises:
        FileNotFoundError, PermissionError: at once, if a file is missing or cannot be read.
        ValueError: a tensor is missing, has another shape or type or is not in `shapes`, or a file is damaged.
        ImportError: the checkpoint is one that only TensorFlow reads, and TensorFlow cannot be imported.
    """
    for path in missing_files(prefix):
        raise FileNotFoundError(f"{path} is missing: without it the checkpoint cannot be read")
    for path in (index_file(prefix), *data_files(prefix)):
        open(path, "rb").close()
    return _tensors(prefix, shapes)


def _tensors(prefix, shapes):
    try:
        if index_file(prefix) == prefix:
            raise Unsupported("is of the V1 format")
        entries = _checked_entries(prefix, shapes)
    except Unsupported as reason:
        yield from _tensors_by_tensorflow(prefix, shapes, reason)
        return
    for name, shape in shapes.items():
        entry = entries[f"model/{name}"]
        try:
            yield name, tensor_bundle.read_tensor(entry).reshape(shape)
        except ValueError as error:
            raise ValueError(f"{entry.file} is damaged at model/{name} ({error}): download it again") from None


def _checked_entries(prefix, shapes):
    """The index of a checkpoint that has what `shapes` says, in files that are long enough."""
    try:
        entries = tensor_bundle.read_index(prefix)
    except ValueError as error:
        raise ValueError(f"{index_file(prefix)} is damaged ({error}): download it again") from None
    stored = {name: (TYPES.get(entry.dtype, f"of TensorFlow's type {entry.dtype}"), entry.shape)
              for name, entry in entries.items()}
    _check_tensors(prefix, shapes, stored)
    needed: dict[Path, int] = {}  # bytes that each file must have
    for name in shapes:
        entry = entries[f"model/{name}"]
        if entry.partitioned:
            raise Unsupported(f"has model/{name} in parts")
        needed[entry.file] = max(needed.get(entry.file, 0), entry.offset + entry.size)
    for file, n_bytes in needed.items():
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: without it the checkpoint cannot be read")
        if file.stat().st_size < n_bytes:
            raise ValueError(f"{file} is damaged: it has {file.stat().st_size:,} bytes, but its tensors need "
                             f"{n_bytes:,}; download it again")
    return entries


def _check_tensors(prefix, shapes, stored):
    """ValueError unless a checkpoint's tensors, {full name: (type, shape)}, are those of a GPT-2 with `shapes`."""
    for name, shape in shapes.items():
        if f"model/{name}" not in stored:
            raise ValueError(f"{prefix} has no tensor model/{name}, which the sizes in hparams.json require")
        dtype, stored_shape = stored[f"model/{name}"]
        if dtype != "float32":
            raise ValueError(f"{prefix}: model/{name} is {dtype}, but it must be float32")
        if stored_shape not in (shape, (1, *shape)):
            raise ValueError(f"{prefix}: model/{name} has shape {list(stored_shape)}, but hparams.json needs "
                             f"{list(shape)}")
    # Not all that is left over is a weight. Training adds scalars, such as global_step, and an optimizer's slots under
    # the name of each tensor, such as model/wte/Adam. OpenAI's weights end in /w, /b or /g or lie directly in model/.
    weights = {name for name, (_, shape) in stored.items() if shape and re.fullmatch(r"model/(.+/[wbg]|[^/]+)", name)}
    unused = sorted(weights - {f"model/{name}" for name in shapes})
    if unused:
        more = f" and {len(unused) - 1} more" if unused[1:] else ""
        raise ValueError(f"{prefix} has the tensor {unused[0]}{more}, for which a GPT-2 of the sizes in "
                         "hparams.json has no use: is n_layer too small?")


def _tensors_by_tensorflow(prefix, shapes, reason):
    """The tensors of a checkpoint that `tensor_bundle` does not read, for a `reason`."""
    try:
        import tensorflow as tf

        errors = tf.errors.OpError, RuntimeError, IndexError, ValueError  # that its reader raises for a damaged file
    except Exception as error:  # ImportError, AttributeError, RuntimeError, ...: an installation breaks in many ways
        raise ImportError(f"{prefix} {reason}, which needs TensorFlow, and that cannot be imported "
                          f"({_first_line(error)}): pip install tensorflow") from error
    if re.search(r"[*?\[\]\\\ud800-\udfff]", prefix.as_posix()):  # it takes this for a pattern, or not at all
        raise ValueError(f"{prefix} {reason}, which needs TensorFlow, and TensorFlow cannot read a path with * ? [ ] "
                         "\\ or characters that are not UTF-8: rename the folder")
    try:
        reader = tf.train.load_checkpoint(prefix.as_posix())
        types = reader.get_variable_to_dtype_map()
        stored = {name: (types[name].name, tuple(shape)) for name, shape in reader.get_variable_to_shape_map().items()}
    except errors as error:
        raise ValueError(f"{index_file(prefix)} is damaged ({_first_line(error)}): download it again") from None
    _check_tensors(prefix, shapes, stored)
    for name, shape in shapes.items():
        try:
            yield name, reader.get_tensor(f"model/{name}").reshape(shape)
        except errors as error:
            raise ValueError(f"{prefix} is damaged at model/{name} ({_first_line(error)}): download it again") from None


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
