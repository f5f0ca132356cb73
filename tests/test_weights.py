"""The converted weights: they are the checkpoint's, and stay so whatever is done to the folder."""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import DATA, ROOT, SIZES, in_threads, make_model

import model_files.tf_checkpoint
import model_files.weights
import utils
from utils import (
    available_models,
    load_encoder_hparams_and_params,
    load_gpt2_params_from_tf_ckpt,
    load_hparams,
    load_params,
    parameter_shapes,
)

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
DATA_FILE = "model.ckpt.data-00000-of-00001"


@pytest.fixture
def folder(tmp_path):
    """A model folder of its own: the bundled model's vocabulary around a tiny checkpoint (converted weights: none)."""
    return make_model(tmp_path / "models" / "mine")


@pytest.fixture
def no_checkpoint(monkeypatch):
    """A function after which no checkpoint can be read, only converted weights."""
    def read_tensors(*arguments):
        raise AssertionError("the checkpoint was read")

    return lambda: monkeypatch.setattr(model_files.tf_checkpoint, "read_tensors", read_tensors)


def load(folder):
    return load_params(folder, load_hparams(folder))


def converted(folder):
    return sorted(folder.glob("params-*"))


def change_checkpoint(folder, seed=1):
    """Put the weights of another model into the folder."""
    other = make_model(folder.parent / "other", seed=seed)
    for path in other.glob("model.ckpt.*"):
        shutil.copy(path, folder)
    shutil.rmtree(other)


def equal(a, b):
    """Whether two nested dicts hold the same arrays under the same keys."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a.dtype == b.dtype == np.float32 and np.array_equal(a, b)


def copied(params):
    """The same nested dicts with arrays that do not lie in the file."""
    if isinstance(params, dict):
        return {key: copied(value) for key, value in params.items()}
    return [copied(value) for value in params] if isinstance(params, list) else np.array(params)


# --- the copy and its checkpoint ----------------------------------------------------------------


@pytest.mark.parametrize("source", ["mine", "openai-tiny"])
def test_converted_weights_are_the_checkpoints(tmp_path, source):
    folder = tmp_path / source
    make_model(folder) if source == "mine" else shutil.copytree(DATA / source, folder)
    first = load(folder)
    assert len(converted(folder)) == 1
    assert equal(first, load(folder))
    assert equal(first, load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", load_hparams(folder)))
    assert type(first["wte"]) is np.ndarray and first["wte"].flags.writeable


def test_a_weight_changed_in_memory_stays_there(folder):
    load(folder)["wte"][:] = 0
    assert load(folder)["wte"].any()


@pytest.mark.parametrize("sizes", [[0], [3], [8], [3, 5], [3, 4, 30, 1], [40, 0, 9]])
def test_a_file_is_written_in_blocks(sizes):
    pieces = [np.random.default_rng(i).bytes(n) for i, n in enumerate(sizes)]
    blocks = list(model_files.weights.in_blocks(map(memoryview, pieces), 8))
    assert b"".join(blocks) == b"".join(pieces)
    assert {len(block) for block in blocks[:-1]} <= {8} and len(blocks[-1]) < 8


def test_a_changed_checkpoint_is_converted_again(folder):
    old, old_file = copied(load(folder)), converted(folder)
    change_checkpoint(folder, seed=1)
    new = copied(load(folder))
    assert not np.array_equal(old["wte"], new["wte"])
    change_checkpoint(folder, seed=2)
    assert not np.array_equal(load(folder)["wte"], new["wte"])
    assert converted(folder) != old_file and len(converted(folder)) == 1


def test_one_changed_weight_is_a_changed_checkpoint(folder, tmp_path):
    load(folder)

    def change(tensors):
        tensors["h1/mlp/c_proj/w"][3, 3] += 1

    for path in make_model(tmp_path / "other", change).glob("model.ckpt.*"):
        shutil.copy(path, folder)
    assert equal(load(folder), load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", load_hparams(folder)))


def test_other_sizes_are_another_model(folder):
    load(folder)
    with pytest.raises(ValueError, match="model/wte has shape"):  # as many weights in all, but differently arranged
        load_params(folder, {**SIZES, "n_vocab": SIZES["n_vocab"] - 1, "n_ctx": SIZES["n_ctx"] + 1})


def test_a_copied_or_touched_folder_is_not_converted_again(folder, tmp_path, capsys, no_checkpoint):
    params = load(folder)
    capsys.readouterr()
    no_checkpoint()
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)  # as `cp -r`: with new times
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    assert equal(load(copy), params)
    assert capsys.readouterr().err == ""


def test_converted_weights_can_be_shipped_without_the_checkpoints_data(folder, capsys, no_checkpoint):
    params = load(folder)
    (folder / DATA_FILE).unlink()
    no_checkpoint()
    capsys.readouterr()
    assert equal(load_encoder_hparams_and_params("mine", folder.parent)[2], params)
    assert "mine" in available_models(folder.parent)
    assert capsys.readouterr().err == ""
    converted(folder)[0].unlink()
    assert "mine" not in available_models(folder.parent)
    with pytest.raises(FileNotFoundError, match=f"{DATA_FILE} is missing"):
        load_encoder_hparams_and_params("mine", folder.parent)


def test_a_shipped_official_model_is_not_downloaded(folder, monkeypatch):
    load(folder)
    (folder / DATA_FILE).unlink()
    folder.rename(folder.with_name("124M"))
    monkeypatch.setattr(utils, "download_gpt2_files", None)
    assert load_encoder_hparams_and_params("124M", folder.parent)[2]["wte"].shape == (1024, 8)


def test_a_good_copy_is_used_where_the_data_are_damaged(folder, capsys, no_checkpoint):
    params = load(folder)
    os.truncate(folder / DATA_FILE, 1000)
    no_checkpoint()
    capsys.readouterr()
    assert equal(load(folder), params) and capsys.readouterr().err == ""


@pytest.mark.parametrize("failure", ["data cut", "data damaged", "tensor missing", "interrupted"])
def test_a_conversion_that_fails_leaves_the_copy_that_is_there(folder, failure, monkeypatch, no_checkpoint):
    params, [copy] = load(folder), converted(folder)
    index = (folder / "model.ckpt.index").read_bytes()
    change_checkpoint(folder)
    errors = (ValueError, KeyboardInterrupt)
    if failure == "data cut":
        os.truncate(folder / DATA_FILE, 1000)
    elif failure == "data damaged":
        data = bytearray((folder / DATA_FILE).read_bytes())
        data[-1] ^= 1
        (folder / DATA_FILE).write_bytes(data)
    elif failure == "tensor missing":
        (folder / "hparams.json").write_text(json.dumps({**SIZES, "n_layer": 3}))
    else:
        def interrupted(fd):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(errors):
        load(folder)
    assert converted(folder) == [copy]
    (folder / "hparams.json").write_text(json.dumps(SIZES))
    (folder / "model.ckpt.index").write_bytes(index)  # the old checkpoint is back
    no_checkpoint()
    assert equal(load(folder), params)


def test_a_checkpoint_that_changes_during_its_conversion(folder, monkeypatch, capsys):
    read_tensors = model_files.tf_checkpoint.read_tensors

    def read_while_it_changes(*arguments):
        yield from read_tensors(*arguments)
        change_checkpoint(folder)

    monkeypatch.setattr(model_files.tf_checkpoint, "read_tensors", read_while_it_changes)
    load(folder)
    assert "cannot be kept" in capsys.readouterr().err and not converted(folder)
    monkeypatch.undo()
    assert equal(load(folder), load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", load_hparams(folder)))


@pytest.mark.parametrize("damage", ["truncated", "empty", "another", "pickled", "longer"])
def test_a_damaged_copy_is_made_again(folder, damage, capsys):
    good = copied(load(folder))
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
            assert equal(load(folder), good)
            return
    assert equal(load(folder), good)
    assert "converting" in capsys.readouterr().err
    assert converted(folder) == [path] and path.read_bytes() == data


def test_a_copy_with_any_damage_to_its_head_is_made_again(folder, capsys):
    shapes = parameter_shapes(load_hparams(folder))
    load(folder)
    [path] = converted(folder)
    good = path.read_bytes()
    for at in range(128):
        for change in (0x01, 0x04, 0x10, 0x20):
            data = bytearray(good)
            data[at] ^= change
            path.unlink()
            path.write_bytes(data)
            assert model_files.weights.mapped(path, shapes) is None
    for data in (b"PK\x03\x04" + good, b"PK\x05\x06" + bytes(18), b"\x80\x04N.", good[:128], good[:-1],
                 good.replace(b"(", b"(1,", 1), good.replace(b"shape': (", b"shape': (9999999999999999999999", 1)):
        path.unlink()
        path.write_bytes(data)
        capsys.readouterr()
        load(folder)
        assert "converting" in capsys.readouterr().err and path.read_bytes() == good
    np.savez(path.with_suffix(""), a=np.zeros(3))
    path.with_suffix(".npz").replace(path)
    load(folder)
    assert "converting" in capsys.readouterr().err and path.read_bytes() == good


def test_notices_are_logged_and_no_terminal_is_needed(folder):
    program = ("from utils import *; logging.getLogger('model_files').setLevel('ERROR'); "
               "load_params(sys.argv[1], load_hparams(sys.argv[1])); print('cli' in sys.modules)")
    process = start(program, folder, TQDM_DISABLE="1")  # a busy machine may be slow enough for the progress to be shown
    assert process.communicate(timeout=100) == ("False\n", "") and len(converted(folder)) == 1


def test_any_model_can_be_converted_and_a_long_conversion_shows_its_progress(tmp_path, capsys, monkeypatch):
    tensors = {"b": np.ones((2, 3), np.float32), "w/w": np.arange(400, dtype=np.float32).reshape(20, 20)}

    def read():
        for name, array in tensors.items():
            yield name, array
            time.sleep(0.25)

    shapes = {name: array.shape for name, array in tensors.items()}
    for text in "converting", "":
        loaded = dict(model_files.weights.load(tmp_path, lambda: b"any", shapes, read))
        np.testing.assert_equal(loaded, tensors)
        assert loaded["b"].flags.c_contiguous and loaded["w/w"].flags.f_contiguous
        stderr = capsys.readouterr().err
        assert text in stderr and ("100%" in stderr) == ("1.62k/1.62k" in stderr) == bool(text)
    monkeypatch.setattr(sys, "stderr", None)  # a program without a terminal
    np.testing.assert_equal(dict(model_files.weights.load(tmp_path, lambda: b"other", shapes, read)), tensors)


# --- what else may lie in the folder ------------------------------------------------------------


def test_other_files_in_the_folder_stay(folder):
    for name in ("params.npy", "params-mine.npy", "notes.txt"):
        (folder / name).write_text("mine")
    load(folder)
    change_checkpoint(folder)
    load(folder)
    assert all((folder / name).read_text() == "mine" for name in ("params.npy", "params-mine.npy", "notes.txt"))


def test_a_models_folder_may_be_a_link(tmp_path):
    folder = make_model(tmp_path / "mine")
    (tmp_path / "elsewhere").mkdir()
    for path in folder.glob("model.ckpt.*"):
        path.rename(tmp_path / "elsewhere" / path.name)
        path.symlink_to(tmp_path / "elsewhere" / path.name)
    (tmp_path / "link").symlink_to(folder)
    assert load(tmp_path / "link")["wte"].shape == (1024, 8)
    assert len(converted(folder)) == 1


def test_the_copy_may_be_a_link(folder, tmp_path, capsys, no_checkpoint):
    params, [copy] = load(folder), converted(folder)
    copy.rename(tmp_path / "elsewhere")
    copy.symlink_to(tmp_path / "elsewhere")
    no_checkpoint()
    assert equal(load(folder), params)


@pytest.mark.parametrize("name", ["the copy", "its .part"])
def test_a_link_in_place_of_the_copy_is_not_written_through(folder, tmp_path, name):
    load(folder)
    [copy] = converted(folder)
    copy.unlink()
    (tmp_path / "precious").write_text("precious")
    (copy if name == "the copy" else copy.with_name(copy.name + ".part")).symlink_to(tmp_path / "precious")
    assert load(folder)["wte"].shape == (1024, 8)
    assert (tmp_path / "precious").read_text() == "precious"
    assert converted(folder) == [copy] and not copy.is_symlink()


@posix
@pytest.mark.parametrize("name", ["the copy", "its .part", ".lock"])
def test_a_named_pipe_in_the_folder_does_not_hang(folder, name):
    params = copied(load(folder))
    [copy] = converted(folder)
    copy.unlink()
    pipe = {"the copy": copy, "its .part": copy.with_name(copy.name + ".part"), ".lock": folder / ".lock"}[name]
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    [result] = in_threads(1, lambda _: equal(load(folder), params))
    assert result


@pytest.mark.parametrize("name", ["the copy", "its .part"])
def test_a_folder_in_place_of_the_copy_only_costs_the_copy(folder, capsys, name):
    params = copied(load(folder))
    [copy] = converted(folder)
    copy.unlink()
    place = copy if name == "the copy" else copy.with_name(copy.name + ".part")
    (place / "inside").mkdir(parents=True)
    capsys.readouterr()
    assert equal(load(folder), params)
    assert "cannot be kept" in capsys.readouterr().err
    assert converted(folder) == [place] and (place / "inside").is_dir()


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_lock_that_cannot_be_made_only_costs_the_copy(folder, capsys, what):
    if what == "folder":
        (folder / ".lock").mkdir()
    else:
        (folder / ".lock").symlink_to("/dev/null")
    assert load(folder)["wte"].shape == (1024, 8)
    assert "cannot be kept" in capsys.readouterr().err and not converted(folder)


@posix
def test_a_disk_that_fills_up_only_costs_the_copy(folder, capsys):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    load(folder)
    [old] = converted(folder)
    change_checkpoint(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        assert load(folder)["wte"].shape == (1024, 8)
    assert f"cannot be kept in {folder} (File too large)" in capsys.readouterr().err
    assert converted(folder) == [old]
    load(folder)
    assert len(converted(folder)) == 1 and converted(folder) != [old]


@posix
@pytest.mark.slow
def test_a_folder_that_cannot_be_written_still_works(folder, monkeypatch):
    # also a whole read-only checkout with no model named and no network: the bundled model runs
    program = ("import os, sys; sys.path.insert(0, sys.argv[1]); import crc32c, filelock, requests, tqdm, utils; "
               "from pathlib import Path; from model_files import folders; folders.MODELS_DIR = Path(sys.argv[2]); "
               "os.getuid() or os.setuid(65534); "  # root may write anywhere
               "print(utils.load_encoder_hparams_and_params('mine', sys.argv[2])[2]['wte'].shape); "
               "print(utils.load_encoder_hparams_and_params()[2]['wte'].shape)")
    with tempfile.TemporaryDirectory() as models:  # pytest's own folders are closed to other users
        copies = [shutil.copytree(folder, Path(models, name)) for name in ("mine", utils.BUNDLED_MODEL)]
        for path in (*copies[0].iterdir(), *copies[1].iterdir(), *copies, Path(models)):
            path.chmod(0o555 if path.is_dir() else 0o444)
        python = subprocess.run([sys.executable, "-c", program, str(ROOT), models], capture_output=True, text=True,
                                cwd="/", timeout=100,
                                env={**os.environ, "GPT2_BASE_URL": "http://127.0.0.1:9/models"})
        assert python.stdout == "(1024, 8)\n" * 2, python.stderr
        assert python.stderr.count("cannot be kept") == 2 and "using the small bundled model" in python.stderr
        assert sorted(os.listdir(models)) == ["mine", "shakespeare"]
        assert not converted(copies[0]) and not converted(copies[1])
        for path in (*copies, Path(models)):
            path.chmod(0o755)


# --- many at once -------------------------------------------------------------------------------


def start(program, *arguments, **env):
    return subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}",
                             *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, **env})


def test_a_model_that_is_replaced_while_another_process_converts_it(tmp_path, monkeypatch):
    weights = {"old": np.zeros(6, np.float32), "new": np.ones(6, np.float32)}
    now = ["old"]

    def wait(folder):  # for the other process's lock
        now[0] = "new"
        return contextlib.nullcontext()

    monkeypatch.setattr(model_files.weights, "locked", wait)
    arguments = tmp_path, lambda: now[0].encode(), {"b": (6,)}, lambda: iter([("b", weights[now[0]])])
    for _ in range(2):  # converting it, and from the copy
        np.testing.assert_equal(dict(model_files.weights.load(*arguments)), {"b": weights["new"]})


def test_threads_that_convert_at_once_convert_once(folder, capsys):
    results = in_threads(4, lambda i: load(folder)["wte"].sum())
    assert len(set(results)) == 1 and results[0] is not None
    assert capsys.readouterr().err.count("converting") == 1


@pytest.mark.slow
def test_two_processes_that_convert_at_once_convert_once(folder):
    program = ("from utils import *; params = load_params(sys.argv[1], load_hparams(sys.argv[1])); "
               "print(params['wte'].sum())")
    processes = [start(program, folder) for _ in range(2)]
    results = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({stdout for stdout, _ in results}) == 1
    assert sum(stderr.count("converting") for _, stderr in results) == 1
    assert len(converted(folder)) == 1


@posix
@pytest.mark.slow
def test_killed_at_any_moment_of_a_conversion_the_next_run_works(tmp_path):
    folder = make_model(tmp_path / "mine", sizes={"n_vocab": 1024, "n_ctx": 64, "n_embd": 128, "n_head": 2,
                                                  "n_layer": 8})
    python = subprocess.run([sys.executable, str(ROOT / "tests" / "kill_runs.py"), str(folder), "25"],
                            capture_output=True, text=True, timeout=100)
    assert python.returncode == 0, python.stderr[-2000:]
    result = json.loads(python.stdout)
    assert result["killed"] >= 15 and ".part" in result["left"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells proportional set sizes")
def test_eight_processes_share_the_weights(tmp_path):
    sizes = {"n_vocab": 1024, "n_ctx": 64, "n_embd": 1024, "n_head": 4, "n_layer": 2}
    for name, text in (("hparams.json", json.dumps(sizes)), ("checkpoint", 'model_checkpoint_path: "model.ckpt"'),
                       ("model.ckpt.index", "as good as any")):
        (tmp_path / name).write_text(text)
    shapes = parameter_shapes(sizes)
    weights = np.random.default_rng(0).standard_normal(model_files.weights.n_weights(shapes), dtype=np.float32)
    weights *= 0.02
    np.save(model_files.weights.converted_file(tmp_path, b"as good as any", shapes), weights)
    program = ("from utils import *; from gpt2 import generate; hparams = load_hparams(sys.argv[1]); "
               "params = load_params(sys.argv[1], hparams); "
               "print(generate([1, 2, 3], params, hparams['n_head'], 5), flush=True); sys.stdin.read()")
    processes = [start(program, tmp_path, OPENBLAS_NUM_THREADS="1") for _ in range(8)]
    try:
        ids = [process.stdout.readline() for process in processes]
        proportional = 0
        for process in processes:
            with open(f"/proc/{process.pid}/smaps_rollup") as lines:
                proportional += next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    finally:
        results = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, results
    assert len(set(ids)) == 1 and ids[0].startswith("[")
    assert all(stderr == "" for _, stderr in results)  # nobody converted
    assert proportional < 4 * weights.nbytes, f"{proportional:,} bytes for weights of {weights.nbytes:,}"
