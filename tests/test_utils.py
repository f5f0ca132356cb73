"""Checkpoints: what TensorFlow wrote is what NumPy reads, and what cannot be read is named."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import DATA, ROOT, SIZES, make_model

import utils
from utils import (
    checkpoint_prefix,
    load_encoder_hparams_and_params,
    load_gpt2_params_from_tf_ckpt,
    load_hparams,
    load_params,
)


@pytest.fixture
def folder(tmp_path):
    """A model folder of its own: the bundled model's vocabulary around a tiny checkpoint (converted weights: none)."""
    return make_model(tmp_path / "models" / "mine")


def converted(folder):
    return sorted(folder.glob("params-*"))


def equal(a, b):
    """Whether two nested dicts hold the same arrays under the same keys."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a.dtype == b.dtype == np.float32 and np.array_equal(a, b)


def test_every_tensor_is_where_it_belongs():
    import tensorflow as tf

    folder = DATA / "openai-tiny"
    hparams = load_hparams(folder)
    params = load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", hparams)
    assert params.keys() == {"wte", "wpe", "blocks", "ln_f"} and len(params["blocks"]) == hparams["n_layer"]
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


def test_converted_weights_are_the_checkpoints(folder):
    hparams = load_hparams(folder)
    first = load_params(folder, hparams)
    assert len(converted(folder)) == 1
    assert equal(first, load_params(folder, hparams))
    assert equal(first, load_gpt2_params_from_tf_ckpt(checkpoint_prefix(folder), hparams))
    assert type(first["wte"]) is np.ndarray


def test_a_weight_changed_in_memory_stays_there(folder):
    hparams = load_hparams(folder)
    load_params(folder, hparams)["wte"][:] = 0
    assert load_params(folder, hparams)["wte"].any()


def test_a_changed_checkpoint_is_converted_anew(folder):
    hparams = load_hparams(folder)
    old, old_file = load_params(folder, hparams), converted(folder)
    shutil.rmtree(folder)
    make_model(folder, seed=1)
    new = load_params(folder, hparams)
    assert not np.array_equal(old["wte"], new["wte"])
    make_model(folder.parent / "other", seed=2)
    for path in (folder.parent / "other").glob("model.ckpt.*"):
        shutil.copy(path, folder)
    assert not np.array_equal(load_params(folder, hparams)["wte"], new["wte"])
    before = converted(folder)
    os.utime(folder / "model.ckpt.data-00000-of-00001", (1, 1))
    load_params(folder, hparams)
    assert converted(folder) != before and len(converted(folder)) == 1
    assert old_file != before


@pytest.mark.parametrize("damage", ["truncated", "empty", "another", "pickled", "longer"])
def test_a_damaged_conversion_is_made_again(folder, damage, capsys):
    hparams = load_hparams(folder)
    good = load_params(folder, hparams)
    good = utils.nested(((name, np.array(a)) for name, a in flat(good)), hparams)
    [path] = converted(folder)
    data = path.read_bytes()
    path.unlink()
    if damage == "pickled":
        np.save(path, np.array([print], dtype=object), allow_pickle=True)
    elif damage == "another":
        np.save(path, np.zeros(17, np.float32))
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "longer": data + data}[damage])
        if damage == "longer":  # what comes after the array is not looked at
            assert equal(load_params(folder, hparams), good)
            return
    assert equal(load_params(folder, hparams), good)
    assert "converting" in capsys.readouterr().err
    assert converted(folder) == [path] and path.read_bytes() == data


def flat(params, name=""):
    for key, value in params.items():
        if key == "blocks":
            for i, block in enumerate(value):
                yield from flat(block, f"h{i}/")
        elif isinstance(value, dict):
            yield from flat(value, f"{name}{key}/")
        else:
            yield name + key, value


def test_what_others_put_into_the_folder_stays(folder):
    for name in ("params.npy", "params-mine.npy", "notes.txt"):
        (folder / name).write_text("mine")
    load_params(folder, load_hparams(folder))
    os.utime(folder / "model.ckpt.index", (1, 1))
    load_params(folder, load_hparams(folder))
    assert all((folder / name).read_text() == "mine" for name in ("params.npy", "params-mine.npy", "notes.txt"))


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_folder_that_cannot_be_written_still_works(folder):
    program = ("import os, sys; sys.path.insert(0, sys.argv[1]); import filelock, tensorflow; from utils import *; "
               "os.getuid() or os.setuid(65534); "  # root may write anywhere
               "p = load_encoder_hparams_and_params('mine', sys.argv[2])[2]; print(p['wte'].shape)")
    with tempfile.TemporaryDirectory() as models:  # pytest's own folders are closed to other users
        copy = shutil.copytree(folder, Path(models) / "mine")
        for path in (*copy.iterdir(), copy, copy.parent):
            path.chmod(0o555 if path.is_dir() else 0o444)
        python = subprocess.run([sys.executable, "-c", program, str(ROOT), models], capture_output=True, text=True,
                                cwd="/", timeout=100, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
        assert python.stdout == "(1024, 8)\n", python.stderr
        assert "cannot be kept" in python.stderr and not converted(copy)
        for path in (copy, copy.parent):
            path.chmod(0o755)


def test_optimizer_slots_are_skipped(tmp_path):
    def change(tensors):
        tensors["wte/Adam"] = np.zeros((3, 3), np.float32)
        tensors["global_step"] = np.array(7)

    folder = make_model(tmp_path / "mine", change)
    assert load_params(folder, load_hparams(folder))["wte"].shape == (1024, 8)


def test_a_fine_tuned_models_own_checkpoint_name(folder):
    for path in folder.glob("model.ckpt.*"):
        path.rename(folder / path.name.replace("model.ckpt", "model-1000"))
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/someone/run1/model-1000"\n')
    assert load_encoder_hparams_and_params("mine", folder.parent)[2]["wpe"].shape == (16, 8)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("h1/mlp/c_fc/w"), "has no tensor model/h1/mlp/c_fc/w"),
    (lambda t: t.update({"ln_f/g": np.zeros(9, np.float32)}),
     r"model/ln_f/g has shape \[9\], but hparams.json needs \[8\]"),
    (lambda t: t.update({"h0/attn/c_attn/w": np.zeros((2, 8, 24), np.float32)}),
     r"model/h0/attn/c_attn/w has shape \[2, 8, 24\]"),
    (lambda t: t.update({"wpe": np.zeros((16, 8), np.float16)}), "model/wpe is float16, it must be float32"),
])
def test_a_tensor_that_does_not_fit_is_named(tmp_path, change, message):
    folder = make_model(tmp_path / "mine", change)
    with pytest.raises(ValueError, match=message):
        load_params(folder, load_hparams(folder))
    assert not converted(folder)


@pytest.mark.parametrize("hparams, message", [
    ("{", "hparams.json is not JSON"),
    ("[]", "must hold an object"),
    ({**SIZES, "n_embd": 9}, "n_embd = 9 is not divisible by n_head = 2"),
    ({**SIZES, "n_head": 0}, "n_head must be a whole number from 1 to .*, not 0"),
    ({**SIZES, "n_ctx": -16}, "n_ctx must be .* not -16"),
    ({**SIZES, "n_layer": "2"}, "n_layer must be .* not '2'"),
    ({**SIZES, "n_layer": 10**12}, "n_layer must be a whole number from 1 to 1000, not 1000000000000"),
    ({**SIZES, "n_vocab": 2.0}, "n_vocab must be .* not 2.0"),
    ({**SIZES, "n_vocab": True}, "n_vocab must be .* not True"),
    ({key: value for key, value in SIZES.items() if key != "n_ctx"}, "hparams.json has no n_ctx"),
    ({**SIZES, "n_vocab": 1025}, "encoder.json has 1024 tokens, but hparams.json says n_vocab = 1025"),
    ({**SIZES, "n_layer": 3}, "has no tensor model/h2/attn/c_attn/w"),
    ({**SIZES, "n_ctx": 32}, r"model/wpe has shape \[16, 8\], but hparams.json needs \[32, 8\]"),
])
def test_bad_hparams_are_named(folder, hparams, message):
    (folder / "hparams.json").write_text(hparams if isinstance(hparams, str) else json.dumps(hparams))
    with pytest.raises(ValueError, match=message):
        load_encoder_hparams_and_params("mine", folder.parent)


@pytest.mark.parametrize("name", ["checkpoint", "encoder.json", "hparams.json", "vocab.bpe", "model.ckpt.index",
                                  "model.ckpt.data-00000-of-00001"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load_encoder_hparams_and_params("mine", folder.parent)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("damage, message", [
    (lambda f: flip(f / "model.ckpt.data-00000-of-00001", 1000), "model.ckpt.data-.* is damaged at model/"),
    (lambda f: os.truncate(f / "model.ckpt.data-00000-of-00001", 1000), "model.ckpt.data-.* is damaged at model/"),
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


@pytest.mark.parametrize("name", ["../mine", "a/b", "..", ".", "", "a\\b", "C:x", "a\0b", 5])
def test_a_models_name_is_no_path(folder, name):
    with pytest.raises(ValueError, match="no model's name"):
        load_encoder_hparams_and_params(name, folder.parent)


def test_an_unknown_model(folder):
    with pytest.raises(FileNotFoundError, match="there is no model 'yours'"):
        load_encoder_hparams_and_params("yours", folder.parent)


def test_reading_a_checkpoint_prints_nothing_of_tensorflows(folder):
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils import *; "
               f"load_params({str(folder)!r}, load_hparams({str(folder)!r}))")
    python = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert python.stdout == ""
    assert python.stderr == f"converting {folder} to NumPy, once ...\n"
    assert Path(folder / ".lock").stat().st_size == 0
