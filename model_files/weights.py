"""The converted weights: one flat NumPy file in the model's folder, mapped into memory."""
import contextlib
import io
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from model_files.lock import locked

try:
    from _sha2 import sha256  # Python's own, as its `random` imports it: hashlib loads OpenSSL, 3.5 MB in 3 ms
except ImportError:
    from hashlib import sha256  # of Python 3.10 and 3.11

logger = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]  # of the tensors by their names, in order
Tensors = Iterable[tuple[str, np.ndarray]]


def load(model_dir: Path, fingerprint: Callable[[], bytes], shapes: Shapes, read: Callable[[], Tensors]) -> Tensors:
    """The weights of the model in `model_dir`, mapped from their converted copy, which is made if it is missing.

    The copy is `params-FINGERPRINT.npy`: all tensors one after the other in one flat float32 array. If the folder
    cannot be written, the weights are read from the model's own files into memory each time.

    Args:
        model_dir: path of the folder.
        fingerprint: function that gives bytes which differ wherever the weights in the model's own files do.
        shapes: dict {name: shape} of the tensors, in order.
        read: function that gives an iterator of (name, array) over the model's own files, in the same order.

    Returns:
        An iterator of (name, float32 array) in the order of `shapes`. Raises what `read` and its iterator raise.
    """
    tensors = find(model_dir, fingerprint(), shapes)
    if tensors is None:
        read()  # missing or unreadable files raise here: that is no reason to try without a copy
        try:
            with locked(model_dir):
                tensors = find(model_dir, fingerprint(), shapes)  # another process may have converted it meanwhile
                if tensors is None:
                    logger.warning(f"converting {model_dir} to NumPy, once ...")
                    convert(model_dir, fingerprint, shapes, read)
                    tensors = find(model_dir, fingerprint(), shapes)
        except FileNotFoundError:  # one of the model's own
            raise
        except OSError as error:
            logger.warning(f"the converted weights cannot be kept in {model_dir} ({error.strerror or error}): reading "
                           "the model's own files")
    return ordered(read()) if tensors is None else tensors


def find(model_dir: Path, fingerprint: bytes, shapes: Shapes) -> Tensors | None:
    """(name, array) pairs over the converted copy with this fingerprint, or None. The model's own files may be gone."""
    return mapped(converted_file(model_dir, fingerprint, shapes), shapes)


def converted_file(model_dir: Path, fingerprint: bytes, shapes: Shapes) -> Path:
    """The path of the converted copy.

    Its name is a hash of the fingerprint: a model with other weights has another name, a folder that is copied, moved
    or touched keeps it. The version changes when the layout of the copy does.
    """
    version = "C order, /w in Fortran order"
    name = sha256(fingerprint + repr((version, list(shapes.items()))).encode()).hexdigest()[:16]
    return model_dir / f"params-{name}.npy"


def by_columns(name: str) -> bool:
    """Whether a tensor is kept in Fortran order, column after column: the matrices of the linear layers are.

    It is the same [n_in, n_out] array, but all weights of one output lie side by side, so that x @ w for one row is
    one unbroken dot product per output: decoding reads the weights about a sixth faster. (wte and wpe stay in C order:
    their rows are what is looked up, and the logits are the dot products of those rows.)
    """
    return name.endswith("/w")


def ordered(tensors: Tensors) -> Tensors:
    """(name, array) pairs with the matrices of the linear layers in Fortran order."""
    return ((name, transposed(array).T if by_columns(name) else array) for name, array in tensors)


def transposed(array: np.ndarray) -> np.ndarray:
    """array.T in C order, in strips of one cache line: two to five times as fast as NumPy's own copy."""
    copy = np.empty(array.shape[::-1], array.dtype)
    for i in range(0, len(array), 16):
        copy[:, i : i + 16] = array[i : i + 16].T
    return copy


def mapped(path: Path, shapes: Shapes) -> Tensors | None:
    """(name, array) pairs over the memory-mapped file `path`, or None if it is missing or not whole.

    Processes share the memory. It is copied on write: a weight that is changed in a notebook stays in that process.
    """
    head, n_values = npy_head(shapes), n_weights(shapes)
    try:
        # others may have put anything there: without O_NONBLOCK, opening a named pipe would wait forever
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if file.read(len(head)) != head:
                return None
            flat = np.asarray(np.memmap(file, np.float32, "c", len(head), (n_values,)))
    except (OSError, ValueError, OverflowError):  # the last two: the file is shorter than its head says
        return None

    def slices() -> Iterator[tuple[str, np.ndarray]]:
        start = 0
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            part = flat[start:stop]
            yield name, part.reshape(shape[::-1]).T if by_columns(name) else part.reshape(shape)
            start = stop

    return slices()


def n_weights(shapes: Shapes) -> int:
    """How many numbers the tensors have together."""
    return sum(map(math.prod, shapes.values()))


def npy_head(shapes: Shapes) -> bytes:
    """The first bytes of a file of converted weights: NumPy's description of one flat float32 array."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": np.dtype(np.float32).str, "fortran_order": False,
                                                "shape": (n_weights(shapes),)})
    return head.getvalue()


def pieces_of_file(shapes: Shapes, tensors: Tensors, label: str) -> Iterator[memoryview]:
    """What a file of converted weights is made of, its head and one tensor after the other; shows the progress."""
    from tqdm import tqdm

    yield memoryview(npy_head(shapes))
    with tqdm(desc=label, total=4 * n_weights(shapes), unit="B", unit_scale=True, delay=0.2,
              disable=sys.stderr is None) as bar:  # as under pythonw, on Windows
        for name, array in ordered(tensors):
            yield (array.T if by_columns(name) else np.ascontiguousarray(array)).data.cast("B")
            bar.update(array.nbytes)


def in_blocks(pieces: Iterable[memoryview], size: int = 2**21) -> Iterator[bytearray]:
    """The bytes of all pieces in blocks of this size; the last may be smaller.

    What is written like that, Linux keeps in memory, and maps, in pages of 2 MB where the file system can (ext4 and XFS
    of a recent kernel). 32 to 256 tokens then take 0.96 of the time.
    """
    block = bytearray()
    for piece in pieces:
        while piece:
            missing = size - len(block)
            block += piece[:missing]
            piece = piece[missing:]
            if len(block) == size:
                yield block
                block = bytearray()
    yield block


def convert(model_dir: Path, fingerprint: Callable[[], bytes], shapes: Shapes, read: Callable[[], Tensors]) -> None:
    """Write the tensors to the converted copy, one at a time; it gets its name when it is whole. The lock is held.

    Copies of what the model was before, and what killed conversions left, are removed once the new one is there.
    """
    path = converted_file(model_dir, fingerprint(), shapes)
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    file = open(partial, "xb")  # x: a new file, never what a link of that name points to
    try:
        with file:
            file.writelines(in_blocks(pieces_of_file(shapes, read(), model_dir.name)))
            file.flush()
            os.fsync(file.fileno())
        if converted_file(model_dir, fingerprint(), shapes) != path:  # a training that is still running, for instance
            raise OSError("the weights have changed meanwhile")
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    for old in path.parent.iterdir():
        if re.fullmatch(r"params-[0-9a-f]{16}\.npy(\.part)?", old.name) and old != path:
            with contextlib.suppress(OSError):
                old.unlink()
