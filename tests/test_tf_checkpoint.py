"""TensorFlow checkpoints: what TensorFlow wrote is what NumPy reads, and what cannot be read is named."""
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import DATA, MODELS, ROOT, in_threads, make_model

from model_files.tf_checkpoint import latest_checkpoint
from utils import load_encoder_hparams_and_params, load_gpt2_params_from_tf_ckpt, load_hparams

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
DATA_FILE = "model.ckpt.data-00000-of-00001"


@pytest.fixture
def folder(tmp_path):
    """A model folder of its own: the bundled model's vocabulary around a tiny checkpoint."""
    return make_model(tmp_path / "models" / "mine")


def read(folder):
    return load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", load_hparams(folder))


def test_every_tensor_is_where_it_belongs():
    import tensorflow as tf

    folder = DATA / "openai-tiny"
    params = read(folder)
    assert params.keys() == {"wte", "wpe", "blocks", "ln_f"}
    assert len(params["blocks"]) == load_hparams(folder)["n_layer"]
    reader = tf.train.load_checkpoint(str(folder / "model.ckpt"))
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
    (lambda t: t.update({"wpe": np.zeros((16, 8), np.float16)}), "model/wpe is float16, it must be float32"),
    (lambda t: t.update({"h2/ln_1/g": np.ones(8, np.float32)}), "has the tensor model/h2/ln_1/g, for which .* n_layer"),
    (lambda t: t.update({"lm_head": np.ones((8, 8), np.float32), "h2/mlp/c_fc/w": np.ones((8, 32), np.float32)}),
     "has the tensor model/h2/mlp/c_fc/w and 1 more, for which"),
])
def test_a_tensor_that_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read(make_model(tmp_path / "mine", change))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("damage, message", [
    (lambda f: flip(f / DATA_FILE, 1000), "model.ckpt.data-.* is damaged at model/"),
    (lambda f: os.truncate(f / DATA_FILE, 1000), r"model.ckpt.data-.* is damaged: it has 1,000 bytes, but .* need 40,"),
    (lambda f: flip(f / "model.ckpt.index", 100), "model.ckpt.index is damaged"),
    (lambda f: os.truncate(f / "model.ckpt.index", 50), "model.ckpt.index is damaged"),
    (lambda f: (f / "model.ckpt.index").write_bytes(b""), "model.ckpt.index is damaged"),
    (lambda f: (f / "checkpoint").write_text("nothing"), "checkpoint names no checkpoint"),
])
def test_a_damaged_checkpoint_is_named_and_left_alone(folder, damage, message):
    damage(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=message) as error:
        load_encoder_hparams_and_params("mine", folder.parent)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("name", ["model.ckpt.index", DATA_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        read(folder)


def test_the_checkpoint_file_may_name_a_path_elsewhere(tmp_path):
    for path in ("/home/someone/run1/model-1000", "model-1000", r"C:\\\\runs\\model-1000"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "other"\n')
        assert latest_checkpoint(tmp_path) == tmp_path / "model-1000"


@pytest.mark.parametrize("text", ["", "nothing", 'model_checkpoint_path: ""', 'model_checkpoint_path: "/runs/"',
                                  'model_checkpoint_path: ".."', 'model_checkpoint_path: "a\0b"',
                                  'all_model_checkpoint_paths: "model.ckpt"'])
def test_a_checkpoint_file_without_a_name(tmp_path, text):
    (tmp_path / "checkpoint").write_text(text)
    with pytest.raises(ValueError, match="checkpoint names no checkpoint"):
        latest_checkpoint(tmp_path)


ODD_NAMES = ["gpt2 [copy]", "gpt2 {copy}, 50%", "größer 안녕"]
if os.name == "posix":
    ODD_NAMES += ["back\\slash", "a*b?c", "new\nline"]
if sys.platform == "linux":  # elsewhere file names are Unicode
    ODD_NAMES += [os.fsdecode(b"caf\xe9")]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_path_that_tensorflow_would_misread(folder, name):
    odd = folder.parent.rename(folder.parent.with_name(name)) / "mine"
    assert read(odd)["wte"].shape == (1024, 8)


def test_a_folder_for_links_that_tensorflow_would_misread_too(folder, monkeypatch):
    odd = folder.rename(folder.with_name("a [copy]"))
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with pytest.raises(ValueError, match="TensorFlow can read neither .* set TMPDIR"):
        read(odd)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_checkpoint_whose_name_is_not_utf8(folder):
    for path in folder.glob("model.ckpt.*"):
        path.rename(os.fsdecode(os.fsencode(path).replace(b"model.ckpt", b"caf\xe9 [1]")))
    (folder / "checkpoint").write_bytes(b'model_checkpoint_path: "caf\xe9 [1]"\n')
    assert load_encoder_hparams_and_params("mine", folder.parent)[2]["wte"].shape == (1024, 8)


def test_a_path_is_read_where_links_cannot_be_made(folder, monkeypatch):
    def symlink_to(self, target):
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", symlink_to)
    assert read(folder.rename(folder.with_name("a [copy]")))["wte"].shape == (1024, 8)


@pytest.mark.parametrize("source", [None, "raise RuntimeError('module compiled against\\nanother NumPy')",
                                    "raise AttributeError('_ARRAY_API not found')", "raise TypeError('protobuf')", ""])
def test_a_broken_tensorflow_is_one_line_with_advice(folder, monkeypatch, tmp_path, source):
    if source is None or source == "":  # not installed; an empty folder that an uninstallation left
        monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow") if source == "" else None)
    else:
        (tmp_path / "tensorflow.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(ImportError, match="needs TensorFlow, .* pip install -r requirements.txt") as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_the_program_says_what_to_do_without_tensorflow(run, folder, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no TensorFlow here')")
    result = run("x", "2", "--model_size", "mine", "--models_dir", str(folder.parent),
                 env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1 and result.stdout == ""
    assert "error: reading a TensorFlow checkpoint needs TensorFlow, which cannot be imported (no TensorFlow here): " \
           "pip install -r requirements.txt" in result.stderr.splitlines()
    assert "Traceback" not in result.stderr


def test_a_checkpoint_is_read_with_a_closed_sys_stdout(folder, monkeypatch):
    closed = open(os.devnull, "w")
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert read(folder)["wte"].shape == (1024, 8)


def test_threads_that_read_checkpoints_leave_the_streams_as_they_were():
    folder = MODELS / "shakespeare"
    hparams = load_hparams(folder)
    before = [os.fstat(fd).st_ino for fd in (1, 2)]
    for _ in range(3):
        shapes = in_threads(4, lambda i: load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", hparams)["wpe"].shape)
        assert shapes == [(hparams["n_ctx"], hparams["n_embd"])] * 4
    assert before == [os.fstat(fd).st_ino for fd in (1, 2)]


@pytest.mark.slow
def test_reading_a_checkpoint_prints_nothing_of_tensorflows(folder):
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils import *; "
               f"load_params({str(folder)!r}, load_hparams({str(folder)!r}))")
    python = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert python.stdout == ""
    assert python.stderr == f"converting {folder} to NumPy, once ...\n"
    assert not (folder / ".lock").exists() or (folder / ".lock").stat().st_size == 0  # as filelock's version does


@posix
@pytest.mark.slow
def test_a_checkpoint_is_read_with_closed_streams(folder, tmp_path):
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils import *; "
               f"open({str(tmp_path / 'done')!r}, 'w').write(str(load_gpt2_params_from_tf_ckpt("
               f"{str(folder / 'model.ckpt')!r}, load_hparams({str(folder)!r}))['wte'].shape))")
    subprocess.run(f"exec {sys.executable} -c \"$PROGRAM\" <&- >&- 2>&-", shell=True, timeout=100,
                   env={**os.environ, "PROGRAM": program})
    assert (tmp_path / "done").read_text() == "(1024, 8)"
