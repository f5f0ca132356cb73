"""TensorFlow's V2 checkpoints, without TensorFlow: NAME.index and NAME.data-00000-of-00001, ...

NAME.index is a LevelDB table. The footer at its end points to the index block, whose values point to the data blocks. A
block is a sorted list of (key, value) pairs, in which a key shares the beginning of the one before it, and is followed
by a byte that names its compression and by a CRC-32C. The first key is "", its value a BundleHeaderProto; all others
are the names of tensors, their values BundleEntryProtos. The NAME.data files hold the tensors' raw bytes.

The format: tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/util/tensor_bundle, and LevelDB's
doc/table_format.md.
"""
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOOTER = 48  # bytes: two handles, filled up with zeros, and the magic number
MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
TRAILER = 5  # bytes behind a block: its compression, its CRC-32C
MAX_INDEX = 2**24  # bytes; that of the 1558M has 20,000
VARINT, BYTES, FIXED32, FIXED64 = 0, 2, 5, 1  # protobuf's wire types


class Unsupported(Exception):
    """A checkpoint that may be whole, but has what this module does not read; the message says what that is."""


class Entry(NamedTuple):
    """What the index says about a tensor."""

    dtype: int  # a number of TensorFlow's types.proto
    shape: tuple[int, ...]
    file: Path  # that holds its numbers
    offset: int  # in bytes
    size: int  # in bytes
    crc: int  # the masked CRC-32C of its bytes
    partitioned: bool  # it is kept as slices, under other names


def read_index(prefix: Path) -> dict[str, Entry]:
    """The tensors of the checkpoint `prefix` (a path without .index and .data-...) by their names, sorted.

    Raises:
        ValueError: the index is damaged; the message says how.
        Unsupported: the index is compressed, very large, or of another kind.
    """
    path = prefix.with_name(prefix.name + ".index")
    with open(path, "rb") as file:
        table = file.read(MAX_INDEX + 1)
    if len(table) > MAX_INDEX:
        raise Unsupported(f"has more than {MAX_INDEX:,} bytes in its index")
    if len(table) < FOOTER or not table.endswith(MAGIC):
        raise ValueError("it does not end as a LevelDB table does")
    try:
        _, i = _handle(table, len(table) - FOOTER)  # the metaindex block, which is empty
        pairs: list[tuple[bytes, bytes]] = []
        for last, handle in _block(table, _handle(table, i)[0]):
            pairs += _block(table, _handle(handle, 0)[0])
            if pairs and pairs[-1][0] > last:
                raise ValueError("a name is not in the block in which it would be looked up")
        if any(a >= b for (a, _), (b, _) in zip(pairs, pairs[1:])):
            raise ValueError("its names are not sorted")
        if not pairs or pairs[0][0] != b"":
            raise ValueError("it has no header")
        header = _fields(pairs[0][1])
        n_files, big_endian, version = _number(header, 1), _number(header, 2), _fields(_message(header, 3))
        if big_endian:
            raise Unsupported("has its bytes in another order")
        if _number(version, 2) > 1 or 3 in {number for number, _ in version}:  # min_consumer, bad_consumers
            raise Unsupported("is of a newer version")
        return {key.decode("utf-8", "backslashreplace"): _entry(prefix, n_files, value) for key, value in pairs[1:]}
    except (IndexError, struct.error):
        raise ValueError("it ends too early") from None


def read_tensor(entry: Entry) -> np.ndarray:
    """The tensor of an entry of float32 numbers. ValueError if it is damaged."""
    n_values = math.prod(entry.shape)
    if entry.size != 4 * n_values:
        raise ValueError(f"it has {entry.size:,} bytes, but its shape is {list(entry.shape)}")
    with open(entry.file, "rb") as file:
        if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
            raise ValueError("the file ends too early")
        file.seek(entry.offset)
        array = np.fromfile(file, "<f4", n_values)
    if _masked_crc(array.view(np.uint8)) != entry.crc:
        raise ValueError("its CRC-32C is wrong")
    return array.astype(np.float32, copy=False).reshape(entry.shape)


def _entry(prefix, n_files, value):
    """A BundleEntryProto as an `Entry`."""
    fields = _fields(value)
    dtype, file, offset, size = (_number(fields, number) for number in (1, 3, 4, 5))
    shape = tuple(_number(_fields(dim), 1) for dim in _fields(_message(fields, 2)).get((2, BYTES), ()))
    return Entry(dtype, shape, prefix.with_name(f"{prefix.name}.data-{file:05}-of-{n_files:05}"), offset, size,
                 _number(fields, 6, FIXED32), (7, BYTES) in fields)


# --- LevelDB's table ----------------------------------------------------------------------------


def _handle(data, i):
    """((offset, size) of a block, the index behind them) from two varints at data[i]."""
    offset, i = _varint(data, i)
    size, i = _varint(data, i)
    return (offset, size), i


def _block(table, handle) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of the block that a handle points to."""
    offset, size = handle
    stop = offset + size
    if stop + TRAILER > len(table):
        raise ValueError("it ends too early")
    compression, crc = struct.unpack_from("<BI", table, stop)
    if _masked_crc(table[offset : stop + 1]) != crc:
        raise ValueError("its CRC-32C is wrong")
    if compression:
        raise Unsupported("has a compressed index")
    [n_restarts] = struct.unpack_from("<I", table, stop - 4)
    end = stop - 4 * (n_restarts + 1)
    if size < 4 or end < offset:
        raise ValueError(f"a block of {size:,} bytes cannot have {n_restarts:,} restarts")
    restarts = set(struct.unpack_from(f"<{n_restarts}I", table, end))  # places where a key is written in full
    i, key = offset, b""
    while i < end:
        restarts.discard(i - offset)
        n_shared, i = _varint(table, i)
        n_more, i = _varint(table, i)
        n_value, i = _varint(table, i)
        if n_shared > len(key) or i + n_more + n_value > end:
            raise ValueError("a name or a value is cut short")
        key, i = key[:n_shared] + table[i : i + n_more], i + n_more
        yield key, table[i : i + n_value]
        i += n_value
    if restarts - {0}:
        raise ValueError("its restarts are not where names begin")


def _masked_crc(data):
    """The CRC-32C of `data`, rotated and shifted: LevelDB's way to keep a CRC among data that get one themselves."""
    from crc32c import crc32c  # 20 ms, which a start with converted weights does not need

    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# --- protobuf -----------------------------------------------------------------------------------


def _varint(data, i):
    """(number, the index behind it): seven bits a byte, the lowest first; the last byte is below 128."""
    number = 0
    for shift in range(0, 70, 7):
        number |= (data[i] & 0x7F) << shift
        i += 1
        if data[i - 1] < 0x80:
            return number, i
    raise ValueError("a number has more than 64 bits")


def _fields(message):
    """The fields of a message: dict {(field number, wire type): list of int or bytes}."""
    fields: dict[tuple[int, int], list] = {}
    i = 0
    while i < len(message):
        tag, i = _varint(message, i)
        kind, value = tag & 7, None
        if kind == VARINT:
            value, i = _varint(message, i)
        elif kind in (BYTES, FIXED32, FIXED64):
            size, i = _varint(message, i) if kind == BYTES else ({FIXED32: 4, FIXED64: 8}[kind], i)
            value, i = message[i : i + size], i + size
        if value is None or i > len(message) or tag < 8:
            raise ValueError("an entry cannot be read")
        fields.setdefault((tag >> 3, kind), []).append(value if kind in (VARINT, BYTES)
                                                       else int.from_bytes(value, "little"))
    return fields


def _number(fields, number, kind=VARINT):
    """The value of a numeric field; 0, protobuf's default, if it is missing."""
    return fields.get((number, kind), [0])[-1]


def _message(fields, number):
    """The bytes of a field that holds a message; if it comes several times, protobuf merges them."""
    return b"".join(fields.get((number, BYTES), []))
