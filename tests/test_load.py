"""Under load: killed processes, many processes, many threads, many generations."""
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer
from helpers import MODELS, ROOT, in_threads, make_model

import runtime.weights
from gpt2 import generate, gpt2
from utils import FILES, load_gpt2_params_from_tf_ckpt, load_hparams, load_params, parameter_shapes

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


def kill(job, folder, *arguments, **env):
    python = subprocess.run([sys.executable, str(ROOT / "tests" / "kill_runs.py"), job, str(folder), *arguments],
                            capture_output=True, text=True, timeout=100, env={**os.environ, **env})
    assert python.returncode == 0, python.stderr[-2000:]
    return json.loads(python.stdout)


@posix
def test_killed_at_any_moment_of_a_download_the_next_run_works(tmp_path):
    files = {name: hashlib.shake_256(name.encode()).digest(600_000 if "data" in name else 500) for name in FILES}
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    with FileServer({f"355M/{name}": data for name, data in files.items()}) as server:
        server.delay = 0.005
        result = kill("download", tmp_path, "25", json.dumps(sha256), GPT2_BASE_URL=server.url)
        resumed = sum(span is not None for _, span in server.requests)
    assert result["killed"] >= 15 and ".part" in result["left"]
    assert resumed >= 5


@posix
def test_killed_at_any_moment_of_a_conversion_the_next_run_works(tmp_path):
    folder = make_model(tmp_path / "mine", sizes={"n_vocab": 1024, "n_ctx": 64, "n_embd": 128, "n_head": 2,
                                                  "n_layer": 8})
    result = kill("convert", folder, "25")
    assert result["killed"] >= 15 and ".part" in result["left"]


def start(program, *arguments, **env):
    return subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}",
                             *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, **env})


def test_two_processes_that_convert_at_once_convert_once(tmp_path):
    folder = make_model(tmp_path / "mine")
    program = ("from utils import *; params = load_params(sys.argv[1], load_hparams(sys.argv[1])); "
               "print(params['wte'].sum())")
    processes = [start(program, folder) for _ in range(2)]
    results = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({stdout for stdout, _ in results}) == 1
    assert sum(stderr.count("converting") for _, stderr in results) == 1
    assert len(list(folder.glob("params-*"))) == 1


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells proportional set sizes")
def test_eight_processes_share_the_weights(tmp_path):
    sizes = {"n_vocab": 1024, "n_ctx": 64, "n_embd": 1024, "n_head": 4, "n_layer": 2}
    (tmp_path / "hparams.json").write_text(json.dumps(sizes))
    for name, data in (("checkpoint", 'model_checkpoint_path: "model.ckpt"'), ("model.ckpt.index", "as good as any"),
                       ("model.ckpt.data-00000-of-00001", "")):
        (tmp_path / name).write_text(data)
    n_values = sum(int(np.prod(shape)) for shape in parameter_shapes(sizes).values())
    name = runtime.weights.fingerprint([tmp_path / "model.ckpt.index", tmp_path / "model.ckpt.data-00000-of-00001"], parameter_shapes(sizes))
    weights = np.random.default_rng(0).standard_normal(n_values, dtype=np.float32)
    weights *= 0.02
    np.save(tmp_path / f"params-{name}.npy", weights)
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


def test_threads_that_generate_at_once_do_not_meet(shakespeare):
    encoder, hparams, params = shakespeare
    prompts = [encoder.encode(prompt) for prompt in ("ROMEO:", "JULIET:", "KING:", "To be")]
    alone = [generate(ids, params, hparams["n_head"], 30, temperature=1, seed=1) for ids in prompts]
    together = in_threads(4, lambda i: generate(prompts[i], params, hparams["n_head"], 30, temperature=1, seed=1))
    assert together == alone
    logits = in_threads(4, lambda i: gpt2(prompts[0], **params, n_head=hparams["n_head"]))
    assert all(np.array_equal(logits[0], one) for one in logits)
    assert in_threads(4, lambda i: encoder.encode(f"O {i} " * 50)) == [encoder.encode(f"O {i} " * 50) for i in range(4)]


def test_threads_that_convert_at_once_convert_once(tmp_path, capsys):
    folder = make_model(tmp_path / "mine")
    results = in_threads(4, lambda i: load_params(folder, load_hparams(folder))["wte"].sum())
    assert len(set(results)) == 1 and results[0] is not None
    assert capsys.readouterr().err.count("converting") == 1


def test_threads_that_read_checkpoints_leave_the_streams_as_they_were():
    folder = MODELS / "shakespeare"
    hparams = load_hparams(folder)
    before = [os.fstat(fd).st_ino for fd in (1, 2)]
    for _ in range(3):
        read = in_threads(4, lambda i: load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", hparams)["wpe"].shape)
        assert read == [(hparams["n_ctx"], hparams["n_embd"])] * 4
    assert before == [os.fstat(fd).st_ino for fd in (1, 2)]


@posix
def test_a_checkpoint_is_read_with_closed_streams(tmp_path):
    folder = make_model(tmp_path / "mine")
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils import *; "
               f"open({str(tmp_path / 'done')!r}, 'w').write(str(load_gpt2_params_from_tf_ckpt("
               f"{str(folder / 'model.ckpt')!r}, load_hparams({str(folder)!r}))['wte'].shape))")
    subprocess.run(f"exec {sys.executable} -c \"$PROGRAM\" <&- >&- 2>&-", shell=True, timeout=100,
                   env={**os.environ, "PROGRAM": program})
    assert (tmp_path / "done").read_text() == "(1024, 8)"


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX can")
def test_a_disk_that_becomes_full_in_a_conversion(tmp_path, capsys):
    import resource

    folder = make_model(tmp_path / "mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        assert load_params(folder, load_hparams(folder))["wte"].shape == (1024, 8)
    assert f"cannot be kept in {folder} (File too large)" in capsys.readouterr().err
    assert not list(folder.glob("params-*"))
    load_params(folder, load_hparams(folder))
    assert len(list(folder.glob("params-*"))) == 1


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_lock_that_cannot_be_made_only_costs_the_copy(tmp_path, capsys, what):
    folder = make_model(tmp_path / "mine")
    if what == "folder":
        (folder / ".lock").mkdir()
    else:
        (folder / ".lock").symlink_to("/dev/null")
    assert load_params(folder, load_hparams(folder))["wte"].shape == (1024, 8)
    assert "cannot be kept" in capsys.readouterr().err and not list(folder.glob("params-*"))


def test_a_models_folder_may_be_a_link(tmp_path):
    folder = make_model(tmp_path / "mine")
    for path in list(folder.glob("model.ckpt.*")):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        path.rename(tmp_path / "elsewhere" / path.name)
        path.symlink_to(tmp_path / "elsewhere" / path.name)
    (tmp_path / "link").symlink_to(folder)
    assert load_params(tmp_path / "link", load_hparams(tmp_path / "link"))["wte"].shape == (1024, 8)
    assert len(list(folder.glob("params-*"))) == 1


def test_a_copy_with_any_damage_to_its_head_is_made_again(tmp_path, capsys):
    folder = make_model(tmp_path / "mine")
    hparams = load_hparams(folder)
    load_params(folder, hparams)
    [path] = folder.glob("params-*.npy")
    good = path.read_bytes()
    for at in range(128):
        for change in (0x01, 0x04, 0x10, 0x20):
            data = bytearray(good)
            data[at] ^= change
            path.unlink()
            path.write_bytes(data)
            params = runtime.weights.mapped(path, parameter_shapes(hparams))
            if params is not None:
                params = dict(params)  # the head still says the same
                assert params["wte"].shape == (1024, 8) and path.stat().st_size == len(good)
    for data in (b"PK\x03\x04" + good, b"PK\x05\x06" + bytes(18), b"\x80\x04N.", good[:128], good[:-1],
                 good.replace(b"(", b"(1,", 1), good.replace(b"shape': (", b"shape': (9999999999999999999999", 1)):
        path.unlink()
        path.write_bytes(data)
        capsys.readouterr()
        load_params(folder, hparams)
        assert "converting" in capsys.readouterr().err and path.read_bytes() == good
    np.savez(path.with_suffix(""), a=np.zeros(3))
    path.with_suffix(".npz").replace(path)
    load_params(folder, hparams)
    assert "converting" in capsys.readouterr().err and path.read_bytes() == good


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_soak_holds():
    soak = subprocess.run([sys.executable, "benchmarks/soak.py", "--quick"], cwd=ROOT, capture_output=True, text=True,
                          timeout=100)
    assert soak.returncode == 0 and "held" in soak.stdout, soak.stdout + soak.stderr
