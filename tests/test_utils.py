"""A model's folder: found by its name, with sizes that are checked and weights under their names."""
import copy
import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import MODELS, SIZES, make_model

import utils
from utils import (
    MODELS_DIR,
    available_models,
    find_model,
    load_encoder_hparams_and_params,
    load_hparams,
    load_params,
    nested,
    parameter_shapes,
)

OFFLINE = "http://127.0.0.1:9/models"  # refuses at once


@pytest.fixture
def folder(tmp_path):
    """A model folder of its own: the bundled model's vocabulary around a tiny checkpoint."""
    return make_model(tmp_path / "models" / "mine")


@pytest.fixture
def downloads(monkeypatch):
    """The calls of `download_gpt2_files`, which makes no file."""
    calls = []
    monkeypatch.setattr(utils, "download_gpt2_files", lambda *arguments: calls.append(arguments))
    return calls


# --- where a model is ---------------------------------------------------------------------------


def test_models_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert MODELS_DIR == MODELS
    assert load_encoder_hparams_and_params("shakespeare")[1]["n_vocab"] == 1024
    assert find_model("124M") == MODELS / "124M"
    assert list(tmp_path.iterdir()) == []


def test_a_models_dir_that_is_given_is_used_as_given(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    for models_dir in ("models", folder.parent, str(folder.parent)):
        assert load_encoder_hparams_and_params("mine", models_dir)[1] == SIZES
    assert find_model("124M", "models").resolve() == folder.parent / "124M"


def test_the_bundled_model_is_there_whatever_the_models_dir(folder):
    assert find_model("shakespeare", folder.parent) == MODELS / "shakespeare"
    assert find_model("shakespeare", folder / "missing") == MODELS / "shakespeare"
    folder.rename(folder.with_name("shakespeare"))
    assert find_model("shakespeare", folder.parent) == folder.parent / "shakespeare"


@pytest.mark.parametrize("name, official", [
    ("124M", "124M"), ("124m", "124M"), ("1558m", "1558M"), ("gpt2", "124M"), ("gpt2-medium", "355M"),
    ("gpt2-large", "774M"), ("gpt2-xl", "1558M"), ("GPT2-XL", "1558M"),
])
def test_the_names_of_the_official_models(tmp_path, downloads, name, official):
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_encoder_hparams_and_params(name, tmp_path)
    assert downloads == [(official, tmp_path / official)]


def test_upper_and_lower_case(folder):
    assert find_model("MINE", folder.parent) == folder
    assert find_model("Shakespeare") == MODELS / "shakespeare"
    for name in ("gpt2", "Mine"):  # a folder of exactly that name comes first
        (folder.parent / name).mkdir(exist_ok=True)
        assert find_model(name, folder.parent).name in os.listdir(folder.parent)
    assert find_model("gpt2", folder.parent).name == "gpt2"


def test_an_unknown_model_is_refused_with_a_list_of_the_available_ones(folder):
    with pytest.raises(FileNotFoundError) as error:
        load_encoder_hparams_and_params("mone", folder.parent)
    assert str(error.value) == (
        f"there is no model 'mone' in {folder.parent} (did you mean 'mine'?); available: mine, shakespeare; "
        "can be downloaded: 124M, 355M, 774M, 1558M, and owner/name from the Hugging Face Hub")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'shakespeare'\?"):
        find_model("shakespear", folder.parent)
    with pytest.raises(FileNotFoundError, match="no model 'x' in .*typo, which is not a folder; available: shake"):
        find_model("x", folder / "typo")


@pytest.mark.parametrize("name", ["", "a\\b", "C:x", "a\0b", "a/b/c", "/", "a/..", "a/../mine", "-a/b", "a/b--c", 5])
def test_what_cannot_be_a_models_name(folder, name, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises((ValueError, FileNotFoundError), match="is not a model's name|checkpoint is missing"):
        load_encoder_hparams_and_params(name, folder.parent)


@pytest.mark.parametrize("name", ["./mine", "../models/mine", "mine/", "../models/mine/.", Path("mine"), "{}", "~/mine",
                                  "models/../mine"])
def test_a_path_names_a_folder(folder, monkeypatch, name):
    (folder.parent / "models").mkdir()
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    model = load_encoder_hparams_and_params(str(folder) if name == "{}" else name, folder / "elsewhere")
    assert model.hparams == SIZES and model.encoder.name == "mine"
    assert find_model(name if name != "{}" else folder).samefile(folder)


def test_the_folder_in_which_one_is(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_encoder_hparams_and_params(".").encoder.name == "mine"
    monkeypatch.chdir(folder.parent)
    assert find_model("..").samefile(folder.parent.parent)


@pytest.mark.parametrize("name", ["./mone", "../mine", "{}/mone", Path("mone"), "mone/"])
def test_a_path_without_a_folder_is_refused(folder, monkeypatch, name):
    monkeypatch.chdir(folder.parent)
    name = name.format(folder) if isinstance(name, str) else name
    with pytest.raises((FileNotFoundError, ValueError), match="there is no folder|is not a model's name"):
        find_model(name)


def test_available_models(folder):
    models = folder.parent
    for name in ("124M", "1558M", "10"):
        shutil.copytree(folder, models / name)
    shutil.copytree(folder, models / "355M")
    (models / "355M" / "vocab.bpe").unlink()  # not complete
    for name, text in (("unnamed", "nothing"), ("empty", "")):
        shutil.copytree(folder, models / name)
        (models / name / "checkpoint").write_text(text)
    (models / "notes.txt").touch()
    (models / "nothing").mkdir()
    assert available_models(models) == ["124M", "1558M", "10", "mine", "shakespeare"]
    assert available_models(models / "missing") == ["shakespeare"]
    assert "shakespeare" in available_models()


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "setuid"), reason="needs POSIX permissions")
def test_what_cannot_be_read_hides_no_model(folder, monkeypatch):
    (folder.parent / "loop").symlink_to("loop")
    (folder.parent / "dangling").symlink_to("missing")
    is_file = Path.is_file

    def closed(path):  # as in a folder of another user
        if path.parent.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return is_file(path)

    (folder.parent / "closed").mkdir()
    monkeypatch.setattr(Path, "is_file", closed)
    assert available_models(folder.parent) == ["mine", "shakespeare"]


# --- what is downloaded -------------------------------------------------------------------------


def test_offline_the_bundled_model_runs_and_nothing_is_left_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", OFFLINE)
    hparams = load_encoder_hparams_and_params(None, tmp_path)[1]
    assert hparams == load_hparams(MODELS / "shakespeare")
    assert "the 124M model is not in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionError):
        load_encoder_hparams_and_params("124M", tmp_path)  # one that is named is not replaced
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [
    PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EROFS, "Read-only file system")])
def test_a_models_folder_that_cannot_be_written_and_no_model_named(tmp_path, monkeypatch, capsys, error):
    def download(model_size, model_dir):
        raise error

    monkeypatch.setattr(utils, "download_gpt2_files", download)
    assert load_encoder_hparams_and_params(None, tmp_path)[1]["n_vocab"] == 1024
    assert error.strerror in capsys.readouterr().err
    with pytest.raises(OSError, match=error.strerror):
        load_encoder_hparams_and_params("124M", tmp_path)


def test_other_faults_of_a_download_are_not_hidden_by_the_bundled_model(tmp_path, monkeypatch):
    def download(model_size, model_dir):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(utils, "download_gpt2_files", download)
    with pytest.raises(OSError, match="No space left"):
        load_encoder_hparams_and_params(None, tmp_path)


def test_a_models_dir_that_does_not_exist_is_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", OFFLINE)
    with pytest.raises(ConnectionError):
        load_encoder_hparams_and_params("124M", tmp_path / "typo")
    assert f"the folder {tmp_path / 'typo'} does not exist: making it for the 124M model\n" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    for name in ("mine", "shakespeare"):
        try:
            load_encoder_hparams_and_params(name, tmp_path / "typo")
        except FileNotFoundError:
            assert name == "mine"
        assert not (tmp_path / "typo").exists()


# --- what is in it ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoint", "encoder.json", "hparams.json", "vocab.bpe", "model.ckpt.index",
                                  "model.ckpt.data-00000-of-00001"])
def test_a_missing_file_is_named_and_so_is_a_named_pipe_in_its_place(folder, name):
    (folder / name).unlink()
    for in_its_place in (lambda path: None, getattr(os, "mkfifo", lambda path: None)):  # Windows has no named pipes
        in_its_place(folder / name)
        with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
            load_encoder_hparams_and_params("mine", folder.parent)


def test_a_fine_tuned_models_own_checkpoint_name(folder):
    for path in folder.glob("model.ckpt.*"):
        path.rename(folder / path.name.replace("model.ckpt", "model-1000"))
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/someone/run1/model-1000"\n')
    assert load_encoder_hparams_and_params("mine", folder.parent)[2]["wpe"].shape == (16, 8)


@pytest.mark.parametrize("hparams, message", [
    ("{", "hparams.json: it is not JSON"),
    ("[" * 100_000, "hparams.json: it is not JSON"),
    ("[]", "hparams.json: it must be an object"),
    ({**SIZES, "n_embd": 9}, "n_embd = 9 is not divisible by n_head = 2"),
    ({**SIZES, "n_head": 0}, "n_head must be a whole number from 1 to .*, not 0"),
    ({**SIZES, "n_ctx": -16}, "n_ctx must be .* not -16"),
    ({**SIZES, "n_layer": "2"}, "n_layer must be .* not '2'"),
    ({**SIZES, "n_layer": 10**12}, "n_layer must be a whole number from 1 to 1000, not 1000000000000"),
    ({**SIZES, "n_vocab": 2.0}, "n_vocab must be .* not 2.0"),
    ({**SIZES, "n_vocab": True}, "n_vocab must be .* not True"),
    ({key: value for key, value in SIZES.items() if key != "n_ctx"}, "hparams.json: it has no n_ctx"),
    ({**SIZES, "n_vocab": 1025}, "encoder.json has 1024 tokens, but hparams.json says n_vocab = 1025"),
    ({**SIZES, "n_layer": 3}, "has no tensor model/h2/attn/c_attn/w"),
    ({**SIZES, "n_layer": 1}, r"has the tensor model/h1/attn/c_attn/b and 11 more, .* is n_layer too small\?"),
    ({**SIZES, "n_ctx": 32}, r"model/wpe has shape \[16, 8\], but hparams.json needs \[32, 8\]"),
    ({**SIZES, "n_ctx": 10**7, "n_embd": 10**6, "n_layer": 1000}, r"model/wte has shape \[1024, 8\]"),
])
@pytest.mark.parametrize("before", ["new", "converted"])
def test_bad_hparams_are_named(folder, hparams, message, before):
    if before == "converted":
        load_params(folder, SIZES)
    (folder / "hparams.json").write_text(hparams if isinstance(hparams, str) else json.dumps(hparams))
    with pytest.raises(ValueError, match=message):
        load_encoder_hparams_and_params("mine", folder.parent)


# --- nested dicts -------------------------------------------------------------------------------


def test_names_become_nested_dicts():
    names = list(parameter_shapes(SIZES))
    params = nested(((name, name) for name in names), SIZES)
    assert params["blocks"][1]["attn"]["c_attn"]["w"] == "h1/attn/c_attn/w" and params["ln_f"]["g"] == "ln_f/g"
    assert len(names) == 2 + 12 * SIZES["n_layer"] + 2


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda blocks: pickle.loads(pickle.dumps(blocks))],
                         ids=["copy", "deepcopy", "pickle"])
def test_the_blocks_remember_their_number_of_heads(folder, again):
    blocks = load_params(folder, load_hparams(folder))["blocks"]
    same = again(blocks)
    assert isinstance(blocks, list) and blocks.n_head == same.n_head == SIZES["n_head"]
    assert type(same) is type(blocks) and len(same) == SIZES["n_layer"]
    np.testing.assert_array_equal(same[1]["mlp"]["c_fc"]["w"], blocks[1]["mlp"]["c_fc"]["w"])


def test_a_model_and_its_weights_print_as_one_line(shakespeare):
    assert repr(shakespeare.params) == "<76 arrays, 2,915,328 numbers: blocks, wte, wpe, ln_f>"
    assert repr(shakespeare.params["blocks"]) == "<6 blocks>"
    block = repr(shakespeare.params["blocks"][0])
    assert block.startswith("<12 arrays, 444,864 numbers: ") and len(block) < 80
    assert repr(shakespeare) == "Model('shakespeare', n_vocab=1024, n_ctx=256, n_embd=192, n_head=6, n_layer=6)"
