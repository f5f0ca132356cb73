"""The converted weights: one flat NumPy file beside the checkpoint, mapped into memory."""
import contextlib
import hashlib
import io
import os
import re

import numpy as np

from runtime.lock import locked
from runtime.terminal import notice

CONVERTED = re.compile(r"params-[0-9a-f]{16}\.npy(\.part)?")  # the names of converted weights


def load(model_dir, sources, shapes, read):
    """The weights of the model in `model_dir`, mapped from their converted copy, which is made where it is missing.

    The copy is `params-FINGERPRINT.npy`: all tensors one after the other in one flat float32 array. Its name holds a
    hash of what it was made from, so that a checkpoint that was changed is converted again. Where the folder cannot be
    written, the weights are read from the checkpoint into memory each time.

    Args:
        model_dir: Path of the folder.
        sources: list of Path, the files of the checkpoint, the index first.
        shapes: dict {name: shape} of the tensors, in order.
        read: callable that gives an iterator of (name, array), read from the checkpoint.

    Yields:
        (name, float32 array), in the order of `shapes`. Raises what `read` raises.
    """
    path = model_dir / f"params-{fingerprint(sources, shapes)}.npy"
    tensors = mapped(path, shapes)
    if tensors is None:
        try:
            with locked(model_dir):
                tensors = mapped(path, shapes)  # another process may have made it meanwhile
                if tensors is None:
                    notice(f"converting {model_dir} to NumPy, once ...")
                    convert(path, shapes, read())
                    tensors = mapped(path, shapes)
        except OSError as error:
            notice(f"the converted weights cannot be kept in {model_dir} ({error.strerror or error}): reading the "
                   "checkpoint itself")
    return ordered(read()) if tensors is None else tensors


def by_columns(name):
    """Whether a tensor is kept in Fortran order, column after column: the matrices of the linear layers are.

    It is the same [n_in, n_out] array, but all weights of one output lie side by side, so that x @ w for one row is
    one unbroken dot product an output: decoding reads the weights about a sixth faster. (wte and wpe stay in C order:
    their rows are what is looked up, and the logits are the dot products of those rows.)
    """
    return name.endswith("/w")


def ordered(tensors):
    """(name, array) pairs with the matrices of the linear layers in Fortran order."""
    return ((name, np.asfortranarray(array) if by_columns(name) else array) for name, array in tensors)


def fingerprint(sources, shapes):
    """16 hex digits that differ where the checkpoint does: its index holds a checksum of every tensor."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return hashlib.sha256(sources[0].read_bytes() + repr(("by columns", files, list(shapes.items()))).encode()
                          ).hexdigest()[:16]


def mapped(path, shapes):
    """(name, array) pairs over the memory-mapped file `path`, or None where it is missing or not whole."""
    head = npy_head(shapes)
    try:
        with open(path, "rb") as file:
            if file.read(len(head)) != head:  # NumPy would try to make sense of whatever stands there
                return None
        # "c": copy on write. Processes share the pages; a weight changed in a notebook stays there.
        flat = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError):
        return None
    flat = flat.view(np.ndarray)  # np.memmap's own class would cost time in every operation

    def slices():
        start = 0
        for name, shape in shapes.items():
            stop = start + int(np.prod(shape))
            part = flat[start:stop]
            yield name, part.reshape(shape[::-1]).T if by_columns(name) else part.reshape(shape)
            start = stop

    return slices()


def npy_head(shapes):
    """The first bytes of a file of converted weights: NumPy's description of one flat float32 array."""
    n_values = sum(int(np.prod(shape)) for shape in shapes.values())
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (n_values,)})
    return head.getvalue()


def convert(path, shapes, tensors):
    """Write `tensors` to `path`, one at a time; it appears when it is whole."""
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            file.write(npy_head(shapes))
            for name, array in tensors:
                array = np.ascontiguousarray(array.T if by_columns(name) else array)
                file.write(array.data.cast("B"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        for old in path.parent.iterdir():  # conversions of what this checkpoint was before
            if CONVERTED.fullmatch(old.name) and old != path:
                with contextlib.suppress(OSError):
                    old.unlink()
