"""TensorFlow checkpoints: what TensorFlow reads is what NumPy reads, and what cannot be read is named."""
import contextlib
import os
import struct
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers import DATA, MODELS, ROOT, SIZES, make_model, random_tensors

from benchmarks import random_model
from model_files import tensor_bundle
from model_files.tf_checkpoint import latest_checkpoint
from utils import (
    available_models,
    load_encoder_hparams_and_params,
    load_gpt2_params_from_tf_ckpt,
    load_hparams,
    load_params,
)

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
DATA_FILE = "model.ckpt.data-00000-of-00001"
FOLDERS = [path.parent for path in (DATA / "openai-tiny" / "checkpoint", *sorted(MODELS.glob("*/checkpoint")))
           if (path.parent / DATA_FILE).exists()]


@pytest.fixture
def folder(tmp_path):
    """A model folder of its own: the bundled model's vocabulary around a tiny checkpoint."""
    return make_model(tmp_path / "models" / "mine")


def read(folder):
    return load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", load_hparams(folder))


# --- what TensorFlow reads ----------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_tensor_of_the_checkpoints_at_hand_is_tensorflows(tensorflow, folder):
    reader = tensorflow.train.load_checkpoint(str(folder / "model.ckpt"))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    entries = tensor_bundle.read_index(folder / "model.ckpt")
    assert {name: list(entry.shape) for name, entry in entries.items()} == shapes
    assert {name: entry.dtype for name, entry in entries.items()} == {
        name: dtype.as_datatype_enum for name, dtype in dtypes.items()}
    for name, entry in entries.items():
        ours, theirs = tensor_bundle.read_tensor(entry), reader.get_tensor(name)
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes(), name


def test_every_tensor_is_where_it_belongs(tensorflow):
    folder = DATA / "openai-tiny"
    params = read(folder)
    assert params.keys() == {"wte", "wpe", "blocks", "ln_f"}
    assert len(params["blocks"]) == load_hparams(folder)["n_layer"]
    reader = tensorflow.train.load_checkpoint(str(folder / "model.ckpt"))
    n_tensors = 0

    def compare(group, name):
        nonlocal n_tensors
        for key, value in group.items():
            if isinstance(value, dict):
                compare(value, f"{name}/{key}")
            else:
                theirs = reader.get_tensor(f"{name}/{key}")
                assert value.dtype == np.float32 and value.shape == theirs.squeeze().shape, f"{name}/{key}"
                np.testing.assert_array_equal(value, theirs.squeeze())
                n_tensors += 1

    for i, block in enumerate(params["blocks"]):
        assert block.keys() == {"attn", "mlp", "ln_1", "ln_2"}
        compare(block, f"model/h{i}")
    compare({key: params[key] for key in ("wte", "wpe", "ln_f")}, "model")
    assert n_tensors == len(reader.get_variable_to_shape_map())


def save_with_tensorflow(tf, prefix, tensors, slices=None):
    """Write {name: array} to a V2 checkpoint; `slices` says of which larger tensor each is a part ("" of none)."""
    names = [f"model/{name}" for name in tensors]
    values = [tf.constant(array[None] if name.endswith("/w") and array.ndim == 2 else array)
              for name, array in tensors.items()]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=slices or [""] * len(names),
                      tensors=values)


def test_the_checkpoints_that_the_tests_write_are_tensorflows(tensorflow, tmp_path):
    tensors = {**dict(random_tensors(SIZES)), "global_step": np.array(7), "wte/Adam": np.ones(3, np.float16)}
    random_model.write_checkpoint(tmp_path / "ours", SIZES, tensors)
    (tmp_path / "theirs").mkdir()
    save_with_tensorflow(tensorflow, tmp_path / "theirs" / "model.ckpt", tensors)
    assert (tmp_path / "ours" / DATA_FILE).read_bytes() == (tmp_path / "theirs" / DATA_FILE).read_bytes()
    ours, theirs = ({name: entry._replace(file=entry.file.name) for name, entry in tensor_bundle.read_index(
        tmp_path / who / "model.ckpt").items()} for who in ("ours", "theirs"))
    assert ours == theirs
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "ours" / "model.ckpt"))
    assert reader.get_variable_to_shape_map().keys() == ours.keys() and reader.get_tensor("model/global_step") == 7


def test_a_checkpoint_in_several_data_files(folder, capsys):
    whole = read(folder)
    entries = tensor_bundle.read_index(folder / "model.ckpt")
    data = (folder / DATA_FILE).read_bytes()
    (folder / DATA_FILE).unlink()
    pairs = {b"": random_model.HEADER.replace(random_model.field(1, 1), random_model.field(1, 2), 1)}
    files = [b"", b"???"]
    for i, (name, entry) in enumerate(entries.items()):
        pairs[name.encode()] = random_model.entry(entry.dtype, entry.shape, len(files[i % 2]), entry.size, entry.crc)
        pairs[name.encode()] += random_model.field(3, i % 2)
        files[i % 2] += data[entry.offset : entry.offset + entry.size]
    (folder / "model.ckpt.index").write_bytes(random_model.table(pairs))
    for i in range(2):
        (folder / f"model.ckpt.data-0000{i}-of-00002").write_bytes(files[i])
    np.testing.assert_equal(read(folder), whole)
    (folder / "model.ckpt.data-00001-of-00002").unlink()
    with pytest.raises(FileNotFoundError, match="model.ckpt.data-00001-of-00002 is missing"):
        read(folder)
    with pytest.raises(FileNotFoundError, match="model.ckpt.data-00001-of-00002 is missing"):
        load_params(folder, load_hparams(folder))
    assert "cannot be kept" not in capsys.readouterr().err


def test_optimizer_slots_are_skipped(tmp_path):
    def change(tensors):
        tensors["wte/Adam"] = np.zeros((3, 3), np.float32)
        tensors["h0/attn/c_attn/w/Adam_1"] = np.zeros((8, 24), np.float32)
        tensors["global_step"] = np.array(7)

    assert read(make_model(tmp_path / "mine", change))["wte"].shape == (1024, 8)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("h1/mlp/c_fc/w"), "has no tensor model/h1/mlp/c_fc/w"),
    (lambda t: t.update({"ln_f/g": np.zeros(9, np.float32)}),
     r"model/ln_f/g has shape \[9\], but hparams.json needs \[8\]"),
    (lambda t: t.update({"h0/attn/c_attn/w": np.zeros((2, 8, 24), np.float32)}),
     r"model/h0/attn/c_attn/w has shape \[2, 8, 24\]"),
    (lambda t: t.update({"wpe": np.zeros((16, 8), np.float16)}), "model/wpe is float16, but it must be float32"),
    (lambda t: t.update({"h2/ln_1/g": np.ones(8, np.float32)}), "has the tensor model/h2/ln_1/g, for which .* n_layer"),
    (lambda t: t.update({"lm_head": np.ones((8, 8), np.float32), "h2/mlp/c_fc/w": np.ones((8, 32), np.float32)}),
     "has the tensor model/h2/mlp/c_fc/w and 1 more, for which"),
])
def test_a_tensor_that_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read(make_model(tmp_path / "mine", change))


# --- damage -------------------------------------------------------------------------------------


def flip(path, at, bits=0x10):
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def rewrite_index(folder, header=random_model.HEADER, **changes):
    """Write the index anew, with good checksums, and with the entry of model/wpe changed."""
    pairs = {} if header is None else {b"": header}
    for name, entry in tensor_bundle.read_index(folder / "model.ckpt").items():
        fields = {"name": name, **{key: getattr(entry, key) for key in ("dtype", "shape", "offset", "size", "crc")}}
        if name == "model/wpe":
            fields |= {key: change(fields[key]) for key, change in changes.items()}
        name = fields.pop("name")
        pairs[name.encode()] = random_model.entry(**fields)
    (folder / "model.ckpt.index").write_bytes(random_model.table(pairs))


def claim_entries(folder, n):
    """Let the block of entries say that it has `n`, with a good checksum."""
    path = folder / "model.ckpt.index"
    table, header = path.read_bytes(), 1
    n_entries = len(tensor_bundle.read_index(folder / "model.ckpt")) + header
    block = table[: table.index(struct.pack("<IB", n_entries, 0))] + struct.pack("<IB", n, 0)
    crc = struct.pack("<I", random_model.masked_crc(block))
    path.write_bytes(block + crc + table[len(block + crc) :])


def move_restart(folder, i):
    """Move the place where entry `i` begins, with a good checksum."""
    path = folder / "model.ckpt.index"
    table = path.read_bytes()
    n_entries = len(tensor_bundle.read_index(folder / "model.ckpt")) + 1
    end = table.index(struct.pack("<IB", n_entries, 0))
    at = end - 4 * (n_entries - i)
    block = table[:at] + struct.pack("<I", struct.unpack_from("<I", table, at)[0] + 1) + table[at + 4 : end + 5]
    path.write_bytes(block + struct.pack("<I", random_model.masked_crc(block)) + table[end + 9 :])


def flip_last_name(folder):
    """Let the index of blocks say that their last name is an earlier one, with a good checksum."""
    path = folder / "model.ckpt.index"
    table = path.read_bytes()
    start = table.rindex(b"model/wte") - 3  # after three numbers
    end = start + table[start:].index(struct.pack("<IIB", 0, 1, 0)) + 9
    block = table[start:end].replace(b"model/wte", b"model/wta")
    path.write_bytes(table[:start] + block + struct.pack("<I", random_model.masked_crc(block)) + table[end + 4 :])


DAMAGES = {
    "the index is cut": (lambda f: os.truncate(f / "model.ckpt.index", 50), "index is damaged .*: download it again"),
    "the index is empty": (lambda f: (f / "model.ckpt.index").write_bytes(b""), "index is damaged"),
    "the index is a text": (lambda f: (f / "model.ckpt.index").write_text("Not found\n" * 9), "index is damaged"),
    "a bit of the index": (lambda f: flip(f / "model.ckpt.index", 100), r"index is damaged \(its CRC-32C is wrong\)"),
    "the place of a block": (lambda f: flip(f / "model.ckpt.index", -45, 0x40), "index is damaged"),
    "no header": (lambda f: rewrite_index(f, header=None), r"index is damaged \(it has no header\)"),
    "a billion entries": (lambda f: claim_entries(f, 10**9), "index is damaged .* cannot have 1,000,000,000 restarts"),
    "a restart": (lambda f: move_restart(f, 5), r"index is damaged \(its restarts are not where names begin\)"),
    "the last name of a block": (lambda f: flip_last_name(f), "a name is not in the block in which it would be looked"),
    "no entries": (lambda f: claim_entries(f, 0), "index is damaged"),
    "the data are cut": (lambda f: os.truncate(f / DATA_FILE, 1000),
                         "data-.* is damaged: it has 1,000 bytes, but its tensors need 40,[0-9]{3};"),
    "the data are empty": (lambda f: (f / DATA_FILE).write_bytes(b""), "data-.* is damaged: it has 0 bytes"),
    "a bit of the data": (lambda f: flip(f / DATA_FILE, 1000), "data-.* is damaged at model/wte .its CRC-32C is wrong"),
    "a name": (lambda f: rewrite_index(f, name=lambda name: "model/wpf"), "has no tensor model/wpe"),
    "a shape": (lambda f: rewrite_index(f, shape=lambda shape: shape[::-1]), r"model/wpe has shape \[8, 16\], but"),
    "a shape of a billion": (lambda f: rewrite_index(f, shape=lambda shape: (10**9, 8)), "model/wpe has shape"),
    "a negative shape": (lambda f: rewrite_index(f, shape=lambda shape: (2**64 - 16, 8)), "model/wpe has shape"),
    "a size": (lambda f: rewrite_index(f, size=lambda size: size - 1), "damaged at model/wpe .it has 511 bytes, but"),
    "a size of a billion": (lambda f: rewrite_index(f, size=lambda size: 10**9), "is damaged: it has 40,.* bytes, but"),
    "an offset": (lambda f: rewrite_index(f, offset=lambda offset: offset + 4), "model/wpe .its CRC-32C is wrong"),
    "an offset beyond the end": (lambda f: rewrite_index(f, offset=lambda offset: 10**9), "is damaged: it has 40,"),
    "an offset beyond int64": (lambda f: rewrite_index(f, offset=lambda offset: 2**63), "is damaged: it has 40,"),
    "a checksum": (lambda f: rewrite_index(f, crc=lambda crc: crc ^ 1), "model/wpe .its CRC-32C is wrong"),
    "a type": (lambda f: rewrite_index(f, dtype=lambda dtype: 9), "model/wpe is int64, but it must be float32"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_left_alone(folder, damage):
    change, message = DAMAGES[damage]
    change(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=message) as error:
        load_encoder_hparams_and_params("mine", folder.parent)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def read_by_both(tf, folder):
    """Two dicts {name: (shape, bytes)} of the float32 tensors: those that we read, those that TensorFlow reads."""
    prefix, ours, theirs = folder / "model.ckpt", {}, {}
    with contextlib.suppress(ValueError):
        for name, entry in tensor_bundle.read_index(prefix).items():
            if entry.dtype == tf.float32.as_datatype_enum:
                with contextlib.suppress(ValueError):
                    ours[name] = entry.shape, tensor_bundle.read_tensor(entry).tobytes()
    errors = tf.errors.OpError, RuntimeError, IndexError, ValueError
    with contextlib.suppress(*errors):
        reader = tf.train.load_checkpoint(str(prefix))
        for name, dtype in reader.get_variable_to_dtype_map().items():
            if dtype == tf.float32:
                with contextlib.suppress(*errors):
                    array = reader.get_tensor(name)
                    theirs[name] = array.shape, array.tobytes()
    return ours, theirs


TENSORFLOWS_OWN = ("no header",  # it takes the first entry for the header
                   "a restart", "the last name of a block",  # it refuses only the tensors whose search meets it
                   "a negative shape")  # it aborts the process


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in TENSORFLOWS_OWN])
def test_what_tensorflow_refuses_we_refuse(tensorflow, folder, damage):
    DAMAGES[damage][0](folder)
    ours, theirs = read_by_both(tensorflow, folder)
    assert ours == theirs


def test_a_flipped_bit_or_a_cut_anywhere_is_refused_by_both_or_equal(tensorflow, folder):
    [whole, same] = read_by_both(tensorflow, folder)
    assert whole == same and len(whole) == len(dict(random_tensors(SIZES)))
    n_refused = 0
    for name, step in (("model.ckpt.index", 23), (DATA_FILE, 797)):
        good = (folder / name).read_bytes()
        for at in range(0, len(good), step):
            for change in (flip, os.truncate):
                change(folder / name, at)
                ours, theirs = read_by_both(tensorflow, folder)
                assert ours == theirs, f"{name}, {change.__name__} at {at}"
                n_refused += ours != whole
                (folder / name).write_bytes(good)
    assert n_refused > 200  # all but the few bits that nothing reads


@pytest.mark.parametrize("name", ["model.ckpt.index", DATA_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        read(folder)


# --- its name and its folder --------------------------------------------------------------------


def test_the_checkpoint_file_may_name_a_path_elsewhere(tmp_path):
    for path in ("/home/someone/run1/model-1000", "model-1000", r"C:\\\\runs\\model-1000"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "other"\n')
        assert latest_checkpoint(tmp_path) == tmp_path / "model-1000"


@pytest.mark.parametrize("text", ["", "nothing", 'model_checkpoint_path: ""', 'model_checkpoint_path: "/runs/"',
                                  'model_checkpoint_path: ".."', 'model_checkpoint_path: "a\0b"',
                                  'all_model_checkpoint_paths: "model.ckpt"'])
def test_a_checkpoint_file_without_a_name(folder, text):
    (folder / "checkpoint").write_text(text)
    with pytest.raises(ValueError, match="checkpoint names no checkpoint"):
        load_encoder_hparams_and_params("mine", folder.parent)


ODD_NAMES = ["gpt2 [copy]", "gpt2 {copy}, 50%", "größer 안녕"]
if os.name == "posix":
    ODD_NAMES += ["back\\slash", "a*b?c", "new\nline"]
if sys.platform == "linux":  # elsewhere file names are Unicode
    ODD_NAMES += [os.fsdecode(b"caf\xe9")]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_folder_may_have_any_name(folder, name):
    odd = folder.parent.rename(folder.parent.with_name(name)) / "mine"
    assert read(odd)["wte"].shape == (1024, 8)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_checkpoint_whose_name_is_not_utf8(folder):
    for path in folder.glob("model.ckpt.*"):
        path.rename(os.fsdecode(os.fsencode(path).replace(b"model.ckpt", b"caf\xe9 [1]")))
    (folder / "checkpoint").write_bytes(b'model_checkpoint_path: "caf\xe9 [1]"\n')
    assert load_encoder_hparams_and_params("mine", folder.parent)[2]["wte"].shape == (1024, 8)


@posix
@pytest.mark.parametrize("streams", ["", "<&- >&- 2>&-"])
def test_a_checkpoint_is_converted_without_tensorflow_and_with_closed_streams(folder, tmp_path, streams):
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils import *; folder = {str(folder)!r}; "
               f"params = load_params(folder, load_hparams(folder)); open({str(tmp_path / 'done')!r}, 'w').write("
               "f'{params[\"wte\"].shape} {\"tensorflow\" in sys.modules}')")
    result = subprocess.run(f"exec {sys.executable} -c \"$PROGRAM\" {streams}", shell=True, timeout=100,
                            env={**os.environ, "PROGRAM": program, "TQDM_DISABLE": "1"}, capture_output=True, text=True)
    assert (tmp_path / "done").read_text() == "(1024, 8) False"
    assert result.stdout == "" and result.stderr == ("" if streams else f"converting {folder} to NumPy, once ...\n")
    assert not (folder / ".lock").exists() or (folder / ".lock").stat().st_size == 0  # as filelock's version does


# --- what only TensorFlow reads -----------------------------------------------------------------


def make_rare(folder, kind, tf=None):
    """Write the checkpoint of `folder` again, as one that only TensorFlow reads; returns what we should say of it."""
    tensors = dict(random_tensors(SIZES, std=0.3))
    if kind == "V1":
        for path in folder.glob("model.ckpt.*"):
            path.unlink()
        values = [array[None] if name.endswith("/w") else array for name, array in tensors.items()]
        tf.raw_ops.Save(filename=str(folder / "model.ckpt"), tensor_names=[f"model/{name}" for name in tensors],
                        data=values)
        return "model.ckpt is of the V1 format"
    if kind == "partitioned":
        wpe = tensors.pop("wpe")
        parts = {"wpe": wpe[:10]}, {"wpe": wpe[10:]}
        save_with_tensorflow(tf, folder / "rest", tensors)
        save_with_tensorflow(tf, folder / "a", parts[0], ["16 8 0,10:0,8"])
        save_with_tensorflow(tf, folder / "b", parts[1], ["16 8 10,6:0,8"])
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(folder / name) for name in ("rest", "a", "b")],
                                      destination_prefix=str(folder / "model.ckpt"), delete_old_dirs=False)
        return "has model/wpe in parts"
    index = folder / "model.ckpt.index"
    pairs = {name.encode(): random_model.entry(*entry[:2], *entry[3:6])
             for name, entry in tensor_bundle.read_index(folder / "model.ckpt").items()}
    pairs[b""] = random_model.HEADER
    if kind == "compressed":
        index.write_bytes(random_model.table(pairs, snappy=True))
        return "has a compressed index"
    if kind == "large":
        pairs[b"model/wte/Adam"] = random_model.entry(1, (1,), 0, 4, 0) + random_model.field(99, bytes(2**24))
        index.write_bytes(random_model.table(pairs))
        return "has more than 16,777,216 bytes in its index"
    pairs[b""] += random_model.field(*{"newer": (3, random_model.field(2, 2)), "big-endian": (2, 1)}[kind])
    index.write_bytes(random_model.table(pairs))
    return {"newer": "is of a newer version", "big-endian": "has its bytes in another order"}[kind]


@pytest.mark.parametrize("kind", ["V1", "partitioned", "compressed", "large"])
def test_tensorflow_reads_what_only_it_can(tensorflow, folder, kind, monkeypatch):
    whole = read(folder)
    make_rare(folder, kind, tensorflow)
    np.testing.assert_equal(read(folder), whole)
    assert available_models(folder.parent) == ["mine", "shakespeare"]
    load_encoder_hparams_and_params("mine", folder.parent)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # it is converted now
    np.testing.assert_equal(load_encoder_hparams_and_params("mine", folder.parent)[2], whole)


@pytest.mark.parametrize("kind", ["newer", "compressed"])
def test_what_tensorflow_cannot_read_either(tensorflow, folder, kind):
    make_rare(folder, kind)
    if kind == "compressed":
        os.truncate(folder / DATA_FILE, 1000)
    with pytest.raises(ValueError, match="model.ckpt(.index)? is damaged .*: download it again") as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_a_rare_checkpoint_in_a_folder_whose_name_tensorflow_misreads(tensorflow, folder):
    make_rare(folder, "compressed")
    with pytest.raises(ValueError, match="TensorFlow cannot read a path with .* rename the folder"):
        read(folder.rename(folder.with_name("a [copy]")))


@pytest.mark.parametrize("source", [None, "raise RuntimeError('module compiled against\\nanother NumPy')",
                                    "raise AttributeError('_ARRAY_API not found')", "raise TypeError('protobuf')", ""])
@pytest.mark.parametrize("kind", ["compressed", "big-endian"])
def test_a_broken_tensorflow_is_one_line_with_advice(folder, monkeypatch, tmp_path, source, kind):
    reason = make_rare(folder, kind)
    if source is None or source == "":  # not installed; an empty folder that an uninstallation left
        monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow") if source == "" else None)
    else:
        (tmp_path / "tensorflow.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(ImportError, match=f"{reason}, which needs TensorFlow, .*: pip install tensorflow$") as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_the_program_says_what_to_do_without_tensorflow(run, folder, tmp_path):
    for path in folder.glob("model.ckpt.*"):
        path.unlink()
    (folder / "model.ckpt").write_bytes(b"as good as any V1 checkpoint")
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no TensorFlow here')")
    result = run("x", "2", "--model_size", "mine", "--models_dir", str(folder.parent),
                 env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        f"error: {folder / 'model.ckpt'} is of the V1 format, which needs TensorFlow, and that cannot be imported "
        "(no TensorFlow here): pip install tensorflow")
    assert "Traceback" not in result.stderr
