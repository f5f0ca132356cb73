"""Downloads: a real server that does what networks do, and real processes that are killed."""
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from file_server import FileServer
from helpers import MODELS, ROOT, wait_for

import runtime.download
import runtime.lock
import utils
from utils import FILES, download_gpt2_files, load_encoder_hparams_and_params

DATA_FILE = "model.ckpt.data-00000-of-00001"
DATA = f"355M/{DATA_FILE}"


def contents(n_bytes=300_000):
    """Made-up files of a model: their bytes do not matter to a download."""
    return {name: hashlib.shake_256(name.encode()).digest(n_bytes if name == DATA_FILE else 50) for name in FILES}


def sha256(files):
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def serve(monkeypatch, files):
    """A server of `files` as the 355M (and 124M), which this process and those it starts ask."""
    server = FileServer({f"{size}/{name}": data for size in ("355M", "124M") for name, data in files.items()})
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GPT2_BASE_URL", server.url)
    monkeypatch.setattr(utils, "SHA256", sha256(files))
    monkeypatch.setattr(runtime.download, "BACKOFF", 0.001)
    return server


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch, contents()) as server:
        yield server


def requests_of(server, path=DATA):
    return [span for name, span in server.requests if name == path]


def download(folder, model_size="355M"):
    """Download into `folder` and make sure that every file is there as it should be, and nothing else."""
    download_gpt2_files(model_size, folder)
    assert_whole(folder)


def assert_whole(folder, files=None):
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == (files or contents())


def partial_of(folder):
    return folder / f"{DATA_FILE}.part"


def start(folder, first="pass"):
    """A process of its own that downloads into `folder`; `first` is what it does before."""
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import utils, runtime.terminal; {first}; "
               f"utils.SHA256 = {sha256(contents())!r}; "
               f"runtime.terminal.run_command_line(lambda: utils.download_gpt2_files('355M', {str(folder)!r}))")
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- what is fetched ----------------------------------------------------------------------------


@pytest.mark.parametrize("model_size", ["355M", "124M"])
def test_all_files_are_fetched_and_only_once(server, tmp_path, model_size):
    download(tmp_path / "new" / model_size, model_size)
    assert server.requests == [(f"{model_size}/{name}", None) for name in FILES]
    download(tmp_path / "new" / model_size, model_size)
    (tmp_path / "new" / model_size / "vocab.bpe").unlink()
    download(tmp_path / "new" / model_size, model_size)
    assert server.requests[len(FILES) :] == [(f"{model_size}/vocab.bpe", None)]


def test_the_official_address_and_what_replaces_it(server, tmp_path, monkeypatch):
    assert utils.BASE_URL == "https://openaipublic.blob.core.windows.net/gpt-2/models"
    monkeypatch.setenv("GPT2_BASE_URL", server.url + "/")
    download(tmp_path)
    monkeypatch.setenv("GPT2_BASE_URL", "")
    monkeypatch.setattr(utils, "BASE_URL", server.url)
    (tmp_path / "checkpoint").unlink()
    download(tmp_path)


def test_the_program_downloads_converts_and_runs_what_is_asked_for(monkeypatch, tmp_path, shakespeare):
    files = {name: (MODELS / "shakespeare" / name).read_bytes() for name in FILES if name != "model.ckpt.meta"}
    files["model.ckpt.meta"] = b"a graph, which nobody reads"
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import gpt2, utils, runtime.terminal; "
               f"utils.SHA256 = {sha256(files)!r}; runtime.terminal.run_command_line(gpt2.main)")
    arguments = [sys.executable, "-c", program, "ROMEO:", "5", "--model_size", "355M", "--models_dir", str(tmp_path)]
    with serve(monkeypatch, files) as server:
        first, again = (subprocess.run(arguments, capture_output=True, text=True, timeout=100) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr
    assert "converting" in first.stderr and "converting" not in again.stderr
    assert first.stdout == again.stdout == subprocess.run(
        [sys.executable, "gpt2.py", "ROMEO:", "5", "--model_size", "shakespeare"], cwd=ROOT, capture_output=True,
        text=True, timeout=100).stdout
    assert Counter(server.requests).most_common(1)[0][1] == 1


def test_through_a_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("GPT2_BASE_URL", "http://models.invalid/models")
    download(tmp_path)
    assert set(server.hosts) == {"models.invalid"} and len(server.hosts) == len(FILES)


def test_a_server_that_sends_elsewhere_is_followed(server, tmp_path):
    server.files["elsewhere"] = contents()[DATA_FILE]
    server.faults[DATA] = [302]
    server.headers["Location"] = "/models/elsewhere"
    download(tmp_path)
    assert requests_of(server, "elsewhere") == [None]


# --- resuming -----------------------------------------------------------------------------------


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path, capsys):
    server.faults[DATA] = [("cut", 98_304), ("cut", 49_152)]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-", "bytes=147456-"]
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "trying again" in line]
    assert len(said) == 2 and all(line.startswith(f"{DATA_FILE}: ") for line in said)


def test_each_cut_that_brought_something_counts_anew(server, tmp_path):
    server.faults[DATA] = [("cut", runtime.download.CHUNK)] * (2 * runtime.download.ATTEMPTS)
    download(tmp_path)
    assert requests_of(server)[-1] == f"bytes={2 * runtime.download.ATTEMPTS * runtime.download.CHUNK}-"


def test_a_killed_download_goes_on_and_leaves_no_lock(server, tmp_path):
    server.faults[DATA] = [("hang", 196_608)]
    process = start(tmp_path)
    wait_for(lambda: partial_of(tmp_path).exists() and partial_of(tmp_path).stat().st_size == 196_608)
    assert not (tmp_path / DATA_FILE).exists()  # it has its name only when it is whole
    process.kill()
    process.communicate()
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=196608-"]


def test_a_download_killed_before_the_renaming_needs_no_request(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), *["reset"] * runtime.download.ATTEMPTS]
    with pytest.raises(ConnectionError):
        download_gpt2_files("355M", tmp_path)
    partial_of(tmp_path).write_bytes(contents()[DATA_FILE])
    del server.faults[DATA], server.requests[:]
    download(tmp_path)
    assert requests_of(server) == []


def test_a_server_without_ranges_starts_the_file_anew(server, tmp_path):
    server.ranges = False
    server.faults[DATA] = [("cut", 98_304)]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-"]


def test_a_server_without_ranges_that_keeps_breaking_is_given_up(server, tmp_path):
    server.ranges = False
    server.faults[DATA] = [("cut", n * runtime.download.CHUNK) for n in (9, 1, 2, 3, 4, 5, 6)]  # never further than the first
    with pytest.raises(ConnectionError, match="gave up"):
        download_gpt2_files("355M", tmp_path)


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("new", [b"n" * 300_000, b"n" * 300_001, b"n" * 150_000, b"n" * 50])
def test_a_partial_file_of_another_version_is_not_continued(server, tmp_path, new, etags):
    server.etags = etags
    if not etags and len(new) == 300_000:
        server.headers["Last-Modified"] = "Wed, 01 Jan 2020 00:00:00 GMT"
    server.faults[DATA] = [("cut", 98_304), *["reset"] * runtime.download.ATTEMPTS]
    with pytest.raises(ConnectionError):
        download_gpt2_files("355M", tmp_path)
    assert partial_of(tmp_path).stat().st_size == 98_304
    server.faults[DATA], server.files[DATA] = [], new
    server.headers.clear()
    download_gpt2_files("355M", tmp_path)
    assert_whole(tmp_path, contents() | {DATA_FILE: new})
    assert requests_of(server)[-2:] == ["bytes=98304-", None]


@pytest.mark.parametrize("note", [None, b"", b"{", b"[]", b"{}", b"\xff", b"\0" * 90, b'{"length": "300000"}',
                                  b'{"length": "300000", "md5": 1, "ETag": [], "Last-Modified": {}}'])
def test_a_damaged_note_beside_a_partial_file_makes_it_start_anew(server, tmp_path, note):
    partial_of(tmp_path).write_bytes(b"x" * 1000)
    if note is not None:
        (tmp_path / f"{DATA_FILE}.part.json").write_bytes(note)
    download(tmp_path)


def test_a_range_that_is_answered_in_part_is_no_whole_file(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), ("part", 49_152)]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-", "bytes=147456-"]


def test_a_range_that_is_answered_with_another_starts_anew(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), "whole"]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-", None]


# --- what comes to pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault, why", [("reset", "Remote end closed connection"), (("cut", 0), "300000 more expected"),
                                        (429, "429 Too Many Requests"), (500, "500 Internal Server Error"),
                                        (503, "503 Service Unavailable")])
def test_transient_failures_are_retried_and_said(server, tmp_path, capsys, fault, why):
    server.faults[DATA] = [fault] * (runtime.download.ATTEMPTS - 1)
    download(tmp_path)
    assert len(requests_of(server)) == runtime.download.ATTEMPTS
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "trying again" in line]
    assert len(said) == runtime.download.ATTEMPTS - 1
    for i, line in enumerate(said):
        assert line.startswith(f"{DATA_FILE}: ") and line.endswith(f"; trying again in {0.001 * 2**i:g} s")
        assert why in line


def test_after_a_few_tries_it_gives_up_and_keeps_what_came(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), *[503] * runtime.download.ATTEMPTS]
    with pytest.raises(ConnectionError, match=f"{DATA}: gave up after {runtime.download.ATTEMPTS} tries: 503 .* is kept"):
        download_gpt2_files("355M", tmp_path)
    assert len(requests_of(server)) == runtime.download.ATTEMPTS
    assert not (tmp_path / DATA_FILE).exists()
    server.faults.clear()
    download(tmp_path)
    assert requests_of(server)[-1] == "bytes=98304-"


@pytest.mark.parametrize("where", [0, 196_608])
def test_a_server_that_falls_silent_is_asked_again(server, tmp_path, monkeypatch, capsys, where):
    monkeypatch.setattr(runtime.download, "READ_TIMEOUT", 0.3)
    server.faults[DATA] = [("hang", where)]
    download(tmp_path)
    assert requests_of(server) == [None, f"bytes={where}-" if where else None]
    assert "Read timed out" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="how a full queue of connections behaves differs")
def test_a_server_that_never_takes_the_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime.download, "CONNECT_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        waiting = []
        for _ in range(4):  # they fill the queue
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        monkeypatch.setenv("GPT2_BASE_URL", f"http://127.0.0.1:{address[1]}")
        with pytest.raises(ConnectionError, match="cannot reach .*checkpoint"):
            download_gpt2_files("355M", tmp_path)
        for one in waiting:
            one.close()


def test_a_network_that_is_gone_from_the_start_is_said_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", "http://127.0.0.1:9/models")
    with pytest.raises(ConnectionError, match="cannot reach http://127.0.0.1:9/models/355M/checkpoint: .*refused"):
        download_gpt2_files("355M", tmp_path)
    assert "trying again" not in capsys.readouterr().err


def test_a_network_that_goes_in_the_middle_may_come_back(server, tmp_path, capsys):
    server.faults[DATA] = [("gone", 98_304)]
    with pytest.raises(ConnectionError, match="gave up after .* tries: .*refused"):
        download_gpt2_files("355M", tmp_path)
    assert capsys.readouterr().err.count("trying again") == runtime.download.ATTEMPTS - 1
    assert partial_of(tmp_path).stat().st_size == 98_304


def test_a_connection_that_breaks_before_it_is_encrypted_is_tried_again(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", server.url.replace("http:", "https:"))  # what answers is no TLS
    with pytest.raises(ConnectionError, match="gave up"):
        download_gpt2_files("355M", tmp_path)
    assert capsys.readouterr().err.count("trying again") == runtime.download.ATTEMPTS - 1


@pytest.mark.parametrize("status", [404, 403, 410, 204, 304])
def test_a_refusal_is_not_retried(server, tmp_path, status, capsys):
    server.faults[DATA] = [status] * 2
    with pytest.raises(OSError, match=f"{DATA}: the server answers {status} .*GPT2_BASE_URL") as error:
        download_gpt2_files("355M", tmp_path)
    assert not isinstance(error.value, ConnectionError) and "\n" not in str(error.value)
    assert requests_of(server) == [None]
    assert not (tmp_path / DATA_FILE).exists() and "trying again" not in capsys.readouterr().err


def test_a_missing_model_is_one_line_of_the_program(server, run, tmp_path):
    result = run("x", "--model_size", "774M", "--models_dir", str(tmp_path), env={"GPT2_BASE_URL": server.url})
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (f"error: {server.url}/774M/checkpoint: the server answers 404 Not Found; GPT2_BASE_URL "
                             "says where to look\n")


@pytest.mark.parametrize("status", [416, 206])
def test_a_server_that_always_answers_of_ranges_is_not_asked_forever(server, tmp_path, status):
    server.faults[DATA] = [status] * 9
    partial_of(tmp_path).write_bytes(b"x")
    (tmp_path / f"{DATA_FILE}.part.json").write_text(json.dumps(
        {"length": 300_000, "md5": None, "ETag": None, "Last-Modified": None}))
    with pytest.raises(OSError, match=f"the server answers {status}"):
        download_gpt2_files("355M", tmp_path)
    assert requests_of(server) == ["bytes=1-", None]


@pytest.mark.parametrize("model_size, name, kind", [("124M", DATA_FILE, "SHA256"), ("124M", "checkpoint", "SHA256"),
                                                    ("355M", "encoder.json", "SHA256"), ("355M", DATA_FILE, "MD5")])
def test_a_wrong_checksum_is_said_and_the_file_removed(server, tmp_path, model_size, name, kind):
    server.md5 = kind == "MD5"
    path = f"{model_size}/{name}"
    server.faults[path] = ["corrupt"]
    with pytest.raises(OSError, match=f"{path}: the {kind} checksum of what came is wrong .* removed, try again"):
        download_gpt2_files(model_size, tmp_path)
    assert requests_of(server, path) == [None]
    assert not list(tmp_path.glob(f"{name}*"))
    download(tmp_path, model_size)  # the next run has it right


def test_the_checksum_of_what_was_resumed_is_that_of_the_whole(server, tmp_path):
    server.md5 = True
    server.faults[DATA] = [("cut", 98_304), "corrupt"]
    with pytest.raises(OSError, match="the MD5 checksum of what came is wrong"):
        download_gpt2_files("355M", tmp_path)


def test_a_checksum_that_is_none_is_a_wrong_one(server, tmp_path):
    server.headers["Content-MD5"] = "not base64"
    with pytest.raises(OSError, match="355M/checkpoint: the MD5 checksum of what came is wrong"):
        download_gpt2_files("355M", tmp_path)


def test_a_login_page_is_not_taken_for_a_file(server, tmp_path):
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(OSError, match="355M/checkpoint: a web page came instead of the file"):
        download_gpt2_files("355M", tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_a_file_of_unknown_length_and_checksum_is_refused(server, tmp_path):
    server.length = False
    with pytest.raises(OSError, match="355M/checkpoint: the server tells neither length nor checksum"):
        download_gpt2_files("355M", tmp_path)
    assert not list(tmp_path.glob("checkpoint*"))
    download(tmp_path, "124M")  # whose checksums are known


def test_a_file_in_chunks_has_an_end(server, tmp_path):
    server.chunked = True
    server.faults[DATA] = [("cut", 98_304)]
    download(tmp_path)
    assert len(requests_of(server)) > 1


def test_a_server_that_compresses_unasked(server, tmp_path):
    import gzip

    server.headers["Content-Encoding"] = "gzip"
    server.md5 = True  # of the compressed file
    server.files = {path: gzip.compress(data) for path, data in server.files.items()}
    download(tmp_path, "124M")


# --- this machine ----------------------------------------------------------------------------------


def test_too_little_disk_space_is_said_before_the_first_byte(server, tmp_path):
    server.headers["Content-Length"] = str(10**18)
    with pytest.raises(OSError, match=f"{tmp_path}: .*/355M/checkpoint needs 1,000,000,000,000,000,000 bytes, only .*"):
        download_gpt2_files("355M", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX can")
def test_a_disk_that_becomes_full_in_the_middle(server, tmp_path):
    process = start(tmp_path, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))")
    stderr = process.communicate(timeout=100)[1].replace("\r", "\n").splitlines()
    assert process.returncode == 1
    assert stderr[-1].startswith(f"error: {partial_of(tmp_path)} cannot be written (File too large): what came is kept")
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=200000-"]


@pytest.mark.parametrize("base_url", ["no-scheme/models", "http://", "ftp://127.0.0.1/models", "http://[bad/models",
                                      "http://" + "a" * 70 + ".invalid/models", "http://127.0.0.1:99999/models"])
def test_an_address_that_is_none(tmp_path, monkeypatch, base_url):
    monkeypatch.setenv("GPT2_BASE_URL", base_url)
    monkeypatch.setattr(runtime.download, "BACKOFF", 0.001)
    with pytest.raises(OSError, match="355M/checkpoint"):
        download_gpt2_files("355M", tmp_path)


def test_what_cannot_be_the_folder(server, tmp_path):
    (tmp_path / "355M").write_text("mine")
    with pytest.raises(OSError, match="355M"):
        load_encoder_hparams_and_params("355M", tmp_path)
    assert (tmp_path / "355M").read_text() == "mine" and not server.requests


@pytest.mark.parametrize("n", [2, 4])
def test_processes_that_start_at_once_fetch_each_file_once(server, tmp_path, n):
    server.delay = 0.05
    processes = [start(tmp_path) for _ in range(n)]
    for process in processes:
        stderr = process.communicate(timeout=100)[1]
        assert process.returncode == 0, stderr
    assert_whole(tmp_path)
    assert server.requests == [(f"355M/{name}", None) for name in FILES]


def test_a_wait_for_another_process_is_said(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runtime.lock, "SILENT_WAIT", 0.05)
    server.faults[DATA] = [("hang", 98_304)]
    process = start(tmp_path)
    wait_for(lambda: partial_of(tmp_path).exists())
    thread = threading.Thread(target=download, args=(tmp_path,))
    thread.start()
    time.sleep(0.3)
    process.kill()
    process.communicate()
    thread.join(30)
    assert not thread.is_alive()
    assert f"waiting for another process that is using {tmp_path} ..." in capsys.readouterr().err
    assert_whole(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_keeps_what_came(server, tmp_path):
    server.faults[DATA] = [("hang", 98_304)]
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    process = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    wait_for(lambda: partial_of(tmp_path).exists() and partial_of(tmp_path).stat().st_size == 98_304)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGINT and "Traceback" not in stderr
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-"]


def test_the_pinned_checksums_are_those_of_the_124M():
    assert set(utils.SHA256) == set(FILES) and all(len(bytes.fromhex(value)) == 32 for value in utils.SHA256.values())
