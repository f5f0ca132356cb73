"""Random weights in a GPT-2's shapes: as large and as slow as a real model.

    python benchmarks/random_model.py 124M models/random-124M      # a checkpoint in OpenAI's layout
"""
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
from crc32c import crc32c

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from encoder import END_OF_TEXT, bytes_to_unicode  # noqa: E402
from model_files.official_files import MODEL_SIZES, VOCABULARY_FILES, parameter_shapes  # noqa: E402
from utils import nested  # noqa: E402

HPARAMS = {
    "124M": {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12},
    "355M": {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1024, "n_head": 16, "n_layer": 24},
    "774M": {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1280, "n_head": 20, "n_layer": 36},
    "1558M": {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48},
    "tiny": {"n_vocab": 1024, "n_ctx": 128, "n_embd": 64, "n_head": 4, "n_layer": 2},  # for a quick look
}
TYPES = {"float32": 1, "int64": 9, "float16": 19}  # some of those in tensorflow/core/framework/types.proto


def random_tensors(hparams, std=0.02, seed=0):
    """(name, float32 array) of each tensor of the model; `std` is that of the weights (a new GPT-2 has 0.02)."""
    rng = np.random.default_rng(seed)
    for name, shape in parameter_shapes(hparams).items():
        values = np.float32(std) * rng.standard_normal(shape, dtype=np.float32)
        yield name, 1 + values if name.endswith("/g") else values


def random_params(hparams, std=0.02, seed=0):
    """The same as the nested dict that `gpt2` takes."""
    return nested(random_tensors(hparams, std, seed), hparams)


def write_checkpoint(folder, hparams, tensors):
    """Write checkpoint, model.ckpt.* and hparams.json as OpenAI laid them out; `tensors` is a dict {name: array}.

    It writes what TensorFlow's SaveV2 does, without TensorFlow, and a simpler index: one block of names in full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = {b"": HEADER}
    with open(folder / "model.ckpt.data-00000-of-00001", "wb") as file:
        for name, array in tensors.items():
            array = np.asarray(array, order="C")
            shape = (1, *array.shape) if name.endswith("/w") and array.ndim == 2 else array.shape  # OpenAI's conv1d
            entries[f"model/{name}".encode()] = entry(TYPES[array.dtype.name], shape, file.tell(), array.nbytes,
                                                      masked_crc(array))
            file.write(array.tobytes())
    (folder / "model.ckpt.index").write_bytes(table(entries))
    (folder / "hparams.json").write_text(json.dumps(hparams))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')


def entry(dtype, shape, offset, size, crc):
    """A BundleEntryProto; `crc` is an int."""
    return (field(1, dtype) + field(2, b"".join(field(2, field(1, n)) for n in shape)) + field(4, offset)
            + field(5, size) + varint(6 << 3 | 5) + crc.to_bytes(4, "little"))


def table(pairs, snappy=False):
    """A LevelDB table of a dict {key: value}, with a single block of data; with `snappy` as one that is compressed."""
    data = b""

    def block(pairs):
        """Append a block in which each key is written in full; returns its handle: where it begins, its size."""
        nonlocal data
        content, places = b"", []
        for key, value in sorted(pairs.items()):
            places.append(len(content))
            content += varint(0) + varint(len(key)) + varint(len(value)) + key + value
        places = places or [0]
        content += struct.pack(f"<{len(places)}II", *places, len(places))
        if snappy:  # its format, without saving a byte
            content = varint(len(content)) + b"".join(bytes([len(part) - 1 << 2]) + part for part in (
                content[i : i + 60] for i in range(0, len(content), 60)))
        handle = varint(len(data)) + varint(len(content))
        content += bytes([snappy])
        data += content + masked_crc(content).to_bytes(4, "little")
        return handle

    handles = block({max(pairs): block(pairs)})
    return data + (block({}) + handles).ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def masked_crc(data):
    """LevelDB's form of a CRC-32C."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def field(number, value):
    """A field of a protobuf message: an int or bytes."""
    return (varint(number << 3) + varint(value) if isinstance(value, int)
            else varint(number << 3 | 2) + varint(len(value)) + value)


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


HEADER = field(1, 1) + field(3, field(1, 1))  # BundleHeaderProto: num_shards, version.producer


def official_vocabulary():
    """The folder with OpenAI's encoder.json and vocab.bpe: $GPT2_VOCABULARY or a downloaded model, else None."""
    for folder in (os.environ.get("GPT2_VOCABULARY"), *(ROOT / "models" / size for size in MODEL_SIZES)):
        if folder and all((Path(folder) / name).is_file() for name in VOCABULARY_FILES):
            return Path(folder)
    return None


def write_vocabulary(folder, n_vocab):
    """The official vocabulary if it is at hand and fits, else one whose merges are the first pairs of bytes."""
    official = official_vocabulary()
    if official and n_vocab == 50257:
        for name in VOCABULARY_FILES:
            shutil.copyfile(official / name, folder / name)
        return
    characters = list(bytes_to_unicode().values())
    merges = [(a, b) for a in characters for b in characters][: n_vocab - 257]
    tokens = characters + [a + b for a, b in merges] + [END_OF_TEXT]
    (folder / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")


def make_random_model(size, folder):
    """Write a checkpoint of `size` (a key of HPARAMS) into `folder`, unless a whole one is there."""
    folder = Path(folder)
    if not (folder / "checkpoint").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        write_vocabulary(folder, HPARAMS[size]["n_vocab"])
        write_checkpoint(folder, HPARAMS[size], dict(random_tensors(HPARAMS[size])))


if __name__ == "__main__":
    make_random_model(*sys.argv[1:])
