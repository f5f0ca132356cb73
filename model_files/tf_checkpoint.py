"""Reading TensorFlow checkpoints."""
import contextlib
import re
from pathlib import Path

import numpy as np

from model_files.quiet import quiet


def latest_checkpoint(model_dir):
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


def index_file(prefix):
    """The file that lists a checkpoint's tensors, with the place, the size and the CRC-32C of each."""
    return prefix.with_name(prefix.name + ".index")


def data_files(prefix):
    """The files that hold a checkpoint's numbers; an empty list where there are none."""
    return sorted(path for path in prefix.parent.iterdir()
                  if re.fullmatch(re.escape(prefix.name) + r"\.data-\d{5}-of-\d{5}", path.name) and path.is_file())


def missing_files(prefix):
    """Which of the files of a checkpoint are not there (a list of Path)."""
    missing = [] if index_file(prefix).is_file() else [index_file(prefix)]
    return missing if data_files(prefix) else [*missing, prefix.with_name(prefix.name + ".data-00000-of-00001")]


def read_tensors(prefix, shapes):
    """The tensors of a checkpoint, one by one, so that no more than one is in memory.

    TensorFlow is imported when the first tensor is asked for. It checks each against its CRC-32C.

    Args:
        prefix: Path of the checkpoint without .index and .data-....
        shapes: dict {name: shape} of all the tensors there should be, named without "model/". OpenAI's linear layers
            are convolutions of width 1: a leading 1 in the file is dropped.

    Returns:
        An iterator of (name, float32 array) in the order of `shapes`.

    Raises:
        FileNotFoundError, PermissionError: at once, where a file is missing or cannot be read.
        ValueError: a tensor is missing, has another shape or type or is not in `shapes`, or a file is damaged.
        ImportError: TensorFlow is missing, or fails when it is imported.
    """
    for path in missing_files(prefix):
        raise FileNotFoundError(f"{path} is missing: without it the checkpoint cannot be read")
    files = [index_file(prefix), *data_files(prefix)]
    for path in files:
        open(path, "rb").close()
    return _checked_tensors(prefix, shapes, files)


def _checked_tensors(prefix, shapes, files):
    tf, errors = _import_tensorflow()
    with _path_for_tensorflow(prefix, files) as path:
        try:
            with quiet():
                reader = tf.train.load_checkpoint(path)
                stored, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        except errors as error:
            raise ValueError(f"{files[0]} is damaged ({_first_line(error)}): download it again") from None
        for name, shape in shapes.items():
            full_name = f"model/{name}"
            if full_name not in stored:
                raise ValueError(f"{prefix} has no tensor {full_name}, which the sizes in hparams.json require")
            if dtypes[full_name] != tf.float32:
                raise ValueError(f"{prefix}: {full_name} is {dtypes[full_name].name}, it must be float32")
            if tuple(stored[full_name]) not in (shape, (1, *shape)):
                raise ValueError(f"{prefix}: {full_name} has shape {stored[full_name]}, but hparams.json needs "
                                 f"{list(shape)}")
        unused = _unused(stored, shapes)
        if unused:
            more = f" and {len(unused) - 1} more" if unused[1:] else ""
            raise ValueError(f"{prefix} has the tensor {unused[0]}{more}, for which a GPT-2 of the sizes in "
                             "hparams.json has no use: is n_layer too small?")
        n_bytes, needed = sum(file.stat().st_size for file in files[1:]), 4 * sum(map(np.prod, shapes.values()))
        if n_bytes < needed:
            raise ValueError(f"{prefix}.data-* is damaged: it has {n_bytes:,} bytes, but its tensors need {needed:,}; "
                             "download it again")
        for name, shape in shapes.items():
            try:
                with quiet():
                    array = reader.get_tensor(f"model/{name}")
            except errors as error:
                raise ValueError(f"{prefix}.data-* is damaged at model/{name} ({_first_line(error)}): download it "
                                 "again") from None
            yield name, array.reshape(shape)


def _import_tensorflow():
    """The module and the exceptions that its reader raises for a damaged file."""
    try:
        with quiet():
            import tensorflow as tf
        return tf, (tf.errors.OpError, RuntimeError, IndexError, ValueError)
    except Exception as error:  # ImportError, AttributeError, RuntimeError, ...: an installation breaks in many ways
        raise ImportError("reading a TensorFlow checkpoint needs TensorFlow, which cannot be imported "
                          f"({_first_line(error)}): pip install -r requirements.txt") from error


@contextlib.contextmanager
def _path_for_tensorflow(prefix, files):
    """The checkpoint's path, or, if TensorFlow would misread it, the path of links to its files in a temporary folder.

    TensorFlow takes a path with * ? [ ] or \\ as a pattern, which no file matches, and refuses one that is not UTF-8.
    """
    misread = re.compile(r"[*?\[\]\\\ud800-\udfff]")
    path = prefix.as_posix()  # with / on Windows too
    if not misread.search(path):
        yield path
        return
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        if misread.search(Path(folder).as_posix()):
            raise ValueError(f"TensorFlow can read neither {prefix} nor a link in {folder}, as they have characters "
                             "that are special to it: rename one of the folders, or set TMPDIR to another")
        for file in files:
            link = Path(folder, "model.ckpt" + file.name[len(prefix.name) :])
            try:
                link.symlink_to(file.absolute())
            except OSError:  # on Windows, making links takes a privilege
                shutil.copyfile(file, link)
        yield Path(folder, "model.ckpt").as_posix()


def _unused(stored, shapes):
    """The weights of a checkpoint that are not in `shapes`.

    Not all that is left over is a weight. Training adds scalars, such as global_step, and an optimizer's slots under
    the name of each tensor, such as model/wte/Adam. OpenAI's weights end in /w, /b or /g or lie directly in model/.
    """
    known = {f"model/{name}" for name in shapes}
    weights = [name for name, shape in stored.items() if re.fullmatch(r"model/(.+/[wbg]|[^/]+)", name) and shape]
    return sorted(set(weights) - known)


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
