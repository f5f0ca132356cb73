"""Downloads: real servers that do what networks do, and real processes that are killed."""
import gzip
import hashlib
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import zlib
from collections import Counter

import pytest
from file_server import FileServer, RawServer
from helpers import DATA as TEST_DATA
from helpers import MODELS, ROOT, wait_for

import model_files.download
import model_files.lock
import utils
from model_files.download import ATTEMPTS, CHUNK
from model_files.official_files import CHECKS
from utils import (
    DATA_FILE,
    FILES,
    LARGEST_DATA_FILE,
    download_gpt2_files,
    load_encoder_hparams_and_params,
    parameter_shapes,
)

DATA = f"355M/{DATA_FILE}"
LENGTH = 300_000  # bytes of weights: those of HPARAMS
HPARAMS = {"n_vocab": 7349, "n_ctx": 16, "n_embd": 10, "n_head": 2, "n_layer": 1}


def contents():
    """Made-up files of a model, each in its format."""
    files = {name: hashlib.shake_256(name.encode()).digest(50) for name in FILES}
    files["checkpoint"] = b'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    files["hparams.json"] = json.dumps(HPARAMS).encode()
    files[DATA_FILE] = hashlib.shake_256(b"data").digest(LENGTH)
    files["model.ckpt.index"] += bytes.fromhex("57fb808b247547db")
    files["model.ckpt.meta"] = b"\n" + files["model.ckpt.meta"]
    return files


def sha256(files):
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def use_server(monkeypatch, url, files):
    """Have this process, and those that it starts, download from `url`, without long waits."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GPT2_BASE_URL", url)
    monkeypatch.setattr(utils, "SHA256", sha256(files))
    monkeypatch.setattr(model_files.download, "BACKOFF", 0.001)


def serve(monkeypatch, files, certificate=None):
    """A server of `files` as the 355M and the 124M."""
    server = FileServer({f"{size}/{name}": data for size in ("355M", "124M") for name, data in files.items()},
                        certificate)
    use_server(monkeypatch, server.url, files)
    return server


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch, contents()) as server:
        yield server


def answer(data, *headers):
    """An answer of `RawServer`."""
    head = "\r\n".join(["HTTP/1.1 200 OK", *(headers or [f"Content-Length: {len(data)}"])])
    return head.encode() + b"\r\n\r\n" + data


def requests_of(server, path=DATA):
    return [span for name, span in server.requests if name == path]


def download(folder, model_size="355M"):
    """Download into `folder` and make sure that every file is there as it should be, and nothing else."""
    download_gpt2_files(model_size, folder)
    assert_complete(folder)


def assert_complete(folder, files=None):
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == (files or contents())


def partial_of(folder):
    return folder / f"{DATA_FILE}.part"


def note_of(folder):
    return folder / f"{DATA_FILE}.part.json"


def fail_and_keep(server, folder, n=98_304):
    """A download that gives up after `n` bytes of the weights."""
    server.faults[DATA] = [("cut", n), *["reset"] * ATTEMPTS]
    with pytest.raises(ConnectionError):
        download_gpt2_files("355M", folder)
    assert partial_of(folder).stat().st_size == n
    del server.faults[DATA], server.requests[:]


def retries(capsys):
    """The lines on stderr that announce another try."""
    return [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "trying again" in line]


def start(folder, first="pass"):
    """A process of its own that downloads into `folder`; `first` is what it does before."""
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import utils, cli.terminal; {first}; "
               f"utils.SHA256 = {sha256(contents())!r}; "
               f"cli.terminal.run_command_line(lambda: utils.download_gpt2_files('355M', {str(folder)!r}))")
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- what is downloaded -------------------------------------------------------------------------


@pytest.mark.parametrize("model_size", ["355M", "124M"])
def test_each_file_is_downloaded_once(server, tmp_path, model_size):
    download(tmp_path / "new" / model_size, model_size)
    assert server.requests == [(f"{model_size}/{name}", None) for name in FILES]
    download(tmp_path / "new" / model_size, model_size)
    (tmp_path / "new" / model_size / "vocab.bpe").unlink()
    download(tmp_path / "new" / model_size, model_size)
    assert server.requests[len(FILES) :] == [(f"{model_size}/vocab.bpe", None)]


def test_base_url_is_openais_or_from_the_environment(server, tmp_path, monkeypatch):
    assert utils.BASE_URL == "https://openaipublic.blob.core.windows.net/gpt-2/models"
    monkeypatch.setenv("GPT2_BASE_URL", server.url + "/")
    download(tmp_path)
    monkeypatch.setenv("GPT2_BASE_URL", "")
    monkeypatch.setattr(utils, "BASE_URL", server.url)
    (tmp_path / "checkpoint").unlink()
    download(tmp_path)


@pytest.mark.slow
def test_program_downloads_converts_and_runs_a_model(monkeypatch, tmp_path, shakespeare):
    files = {name: (MODELS / "shakespeare" / name).read_bytes() for name in FILES if name != "model.ckpt.meta"}
    files["model.ckpt.meta"] = b"\na graph, which nothing reads"
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import gpt2, utils, cli.terminal; "
               f"utils.SHA256 = {sha256(files)!r}; cli.terminal.run_command_line(gpt2.main)")
    arguments = [sys.executable, "-c", program, "ROMEO:", "5", "--model_size", "355M", "--models_dir", str(tmp_path)]
    with serve(monkeypatch, files) as server:
        first, again = (subprocess.run(arguments, capture_output=True, text=True, timeout=100) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr
    assert "converting" in first.stderr and "converting" not in again.stderr
    assert first.stdout == again.stdout == subprocess.run(
        [sys.executable, "gpt2.py", "ROMEO:", "5", "--model_size", "shakespeare"], cwd=ROOT, capture_output=True,
        text=True, timeout=100).stdout
    assert Counter(server.requests).most_common(1)[0][1] == 1


def test_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("GPT2_BASE_URL", "http://models.invalid/models")
    download(tmp_path)
    assert set(server.hosts) == {"models.invalid"} and len(server.hosts) == len(FILES)


def test_redirect_is_followed(server, tmp_path):
    server.files["elsewhere"] = contents()[DATA_FILE]
    server.faults[DATA] = [302]
    server.headers["Location"] = "/models/elsewhere"
    download(tmp_path)
    assert requests_of(server, "elsewhere") == [None]


# --- resuming -----------------------------------------------------------------------------------


def test_resumes_after_a_cut(server, tmp_path, capsys):
    server.faults[DATA] = [("cut", 98_304), ("cut", 49_152)]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-", "bytes=147456-"]
    lines = retries(capsys)
    assert len(lines) == 2 and all(line.startswith(f"{DATA_FILE}: ") for line in lines)


def test_progress_resets_the_count_of_tries(server, tmp_path):
    server.faults[DATA] = [("cut", CHUNK)] * (2 * ATTEMPTS)
    download(tmp_path)
    assert requests_of(server)[-1] == f"bytes={2 * ATTEMPTS * CHUNK}-"


@pytest.mark.parametrize("kind", ["cut", "reset", "hang"])
def test_connection_that_breaks_after_every_16_000_bytes(server, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(model_files.download, "READ_TIMEOUT", 0.05)
    server.faults[DATA] = [(kind, 16_000)] * 18
    download(tmp_path)
    assert requests_of(server) == [None, *[f"bytes={n}-" for n in range(16_000, LENGTH, 16_000)]]


@pytest.mark.parametrize("n", [1, 196_608, LENGTH - 1])
def test_resumes_after_a_kill(server, tmp_path, n):
    server.faults[DATA] = [("hang", n)]
    process = start(tmp_path)
    wait_for(lambda: partial_of(tmp_path).exists() and partial_of(tmp_path).stat().st_size == n)
    assert not (tmp_path / DATA_FILE).exists()  # it gets its name when it is complete
    process.kill()
    process.communicate()
    download(tmp_path)
    assert requests_of(server) == [None, f"bytes={n}-"]


@pytest.mark.parametrize("beginning", ["nothing", "half"])
def test_what_a_kill_leaves_at_any_line_is_completed_by_the_next_run(server, tmp_path, beginning):
    """A kill leaves the folder as it is before some line of the download: each of these states is one to start from."""
    files = {path.removeprefix("355M/"): data for path, data in server.files.items() if path.startswith("355M/")}
    states, folder = [], tmp_path / "traced"
    folder.mkdir()

    def state():
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}

    def trace(frame, event, argument):
        if frame.f_code.co_filename != model_files.download.__file__:
            return None
        if not states or state() != states[-1]:
            states.append(state())
        return trace

    if beginning == "half":
        fail_and_keep(server, folder)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        download_gpt2_files("355M", folder)
    finally:
        sys.settrace(before)
    assert_complete(folder)
    assert len(states) > 25 and any(LENGTH // 2 < len(state.get(f"{DATA_FILE}.part", "")) < LENGTH for state in states)
    for i, left in enumerate(states):
        assert all(files[name] == data for name, data in left.items() if name in files)
        folder = tmp_path / str(i)
        folder.mkdir()
        for name, data in left.items():
            (folder / name).write_bytes(data)
        download(folder)


def test_complete_partial_file_needs_no_request(server, tmp_path):
    fail_and_keep(server, tmp_path)
    partial_of(tmp_path).write_bytes(contents()[DATA_FILE])
    download(tmp_path)
    assert requests_of(server) == []


def test_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    server.faults[DATA] = [("cut", 98_304)]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-"]


def test_gives_up_on_a_server_without_ranges_that_gets_no_further(server, tmp_path):
    server.ranges = False
    server.faults[DATA] = [("cut", n * CHUNK) for n in (9, 1, 2, 3, 4, 5, 6)]  # never further than the first
    with pytest.raises(ConnectionError, match="gave up"):
        download_gpt2_files("355M", tmp_path)


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("new", [b"n" * 300_000, b"n" * 300_001, b"n" * 150_000, b"n" * 50], ids=len)
def test_partial_file_of_another_version_is_not_resumed(server, tmp_path, new, etags):
    server.etags = etags
    if not etags and len(new) == 300_000:
        server.headers["Last-Modified"] = "Wed, 01 Jan 2020 00:00:00 GMT"
    server.faults[DATA] = [("cut", 98_304), *["reset"] * ATTEMPTS]
    url, path = f"{server.url}/{DATA}", tmp_path / DATA_FILE
    with pytest.raises(ConnectionError):
        model_files.download.download(url, path)
    assert partial_of(tmp_path).stat().st_size == 98_304
    server.faults[DATA], server.files[DATA] = [], new
    server.headers.clear()
    model_files.download.download(url, path)
    assert_complete(tmp_path, {DATA_FILE: new})
    assert requests_of(server)[-2:] == ["bytes=98304-", None]


@pytest.mark.parametrize("note", [None, b"", b"{", b"[]", b"{}", b"\xff", b"\0" * 90, b'{"length": "300000"}',
                                  b'{"length": "300000", "md5": 1, "ETag": [], "Last-Modified": {}}',
                                  b"[" * 100_000, b'{"length": 1' + b"0" * 5000 + b"}"],
                         ids=lambda note: repr(note)[:20])
def test_damaged_note_starts_over(server, tmp_path, note):
    partial_of(tmp_path).write_bytes(b"x" * 1000)
    if note is not None:
        note_of(tmp_path).write_bytes(note)
    download(tmp_path)


def test_resumes_after_half_a_range(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), ("part", 49_152)]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-", "bytes=147456-"]


def test_answer_with_another_range_starts_over(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), "whole"]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-", None]


# --- what comes to pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault, why", [("reset", "the server closed the connection without an answer"),
                                        (("cut", 0), "the connection broke 300,000 bytes before the end"),
                                        (408, "408 Request Timeout"), (429, "429 Too Many Requests"),
                                        (500, "500 Internal Server Error"),
                                        (503, "503 Service Unavailable")])
def test_transient_failure_is_reported_and_retried(server, tmp_path, capsys, fault, why):
    server.faults[DATA] = [fault] * (ATTEMPTS - 1)
    download(tmp_path)
    assert len(requests_of(server)) == ATTEMPTS
    assert retries(capsys) == [f"{DATA_FILE}: {why}; trying again in {0.001 * 2**i:g} s" for i in range(ATTEMPTS - 1)]


def test_gives_up_and_keeps_the_partial_file(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), *[503] * ATTEMPTS]
    with pytest.raises(ConnectionError, match=f"{DATA}: gave up after {ATTEMPTS} tries: 503 .* is kept"):
        download_gpt2_files("355M", tmp_path)
    assert len(requests_of(server)) == ATTEMPTS
    assert not (tmp_path / DATA_FILE).exists()
    server.faults.clear()
    download(tmp_path)
    assert requests_of(server)[-1] == "bytes=98304-"


@pytest.mark.parametrize("where", [0, 196_608])
def test_silent_server_is_asked_again(server, tmp_path, monkeypatch, capsys, where):
    monkeypatch.setattr(model_files.download, "READ_TIMEOUT", 0.3)
    server.faults[DATA] = [("hang", where)]
    download(tmp_path)
    assert requests_of(server) == [None, f"bytes={where}-" if where else None]
    assert retries(capsys) == [f"{DATA_FILE}: nothing came for 0.3 s; trying again in 0.001 s"]


@pytest.mark.skipif(sys.platform != "linux", reason="how a full queue of connections behaves differs")
def test_server_that_never_accepts(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files.download, "CONNECT_TIMEOUT", 0.3)
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


def test_unreachable_server_is_reported_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", "http://127.0.0.1:9/models")
    with pytest.raises(ConnectionError, match="cannot reach http://127.0.0.1:9/models/355M/checkpoint: .*refused"):
        download_gpt2_files("355M", tmp_path)
    assert "trying again" not in capsys.readouterr().err


def test_server_that_disappears_is_retried(server, tmp_path, capsys):
    server.faults[DATA] = [("gone", 98_304)]
    with pytest.raises(ConnectionError, match="gave up after .* tries: .*refused"):
        download_gpt2_files("355M", tmp_path)
    assert capsys.readouterr().err.count("trying again") == ATTEMPTS - 1
    assert partial_of(tmp_path).stat().st_size == 98_304


def test_tls_handshake_that_fails_is_retried_and_put_in_words(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", server.url.replace("http:", "https:"))  # which answers without TLS
    with pytest.raises(ConnectionError, match="gave up .* the encrypted connection failed .[a-z ]+.; what"):
        download_gpt2_files("355M", tmp_path)
    lines = retries(capsys)
    assert len(lines) == ATTEMPTS - 1 and "_ssl.c" not in str(lines)


def test_what_is_downloaded_is_announced_before_the_server_answers(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        use_server(monkeypatch, url, contents())
        process = start(tmp_path)
        assert process.stderr.readline() == f"downloading 355M from {url} to {tmp_path}\n"
        process.kill()
        process.communicate()


def test_nothing_is_announced_if_all_is_there(server, tmp_path, capsys):
    download(tmp_path)
    capsys.readouterr()
    download(tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("status", [404, 403, 410, 204, 304, 302, 303])
def test_refusal_is_not_retried(server, tmp_path, status, capsys):
    server.faults[DATA] = [status] * 2
    with pytest.raises(OSError, match=f"{DATA}: the server answers {status} .*GPT2_BASE_URL") as error:
        download_gpt2_files("355M", tmp_path)
    assert not isinstance(error.value, ConnectionError) and "\n" not in str(error.value)
    assert requests_of(server) == [None]
    assert not (tmp_path / DATA_FILE).exists() and "trying again" not in capsys.readouterr().err


def test_missing_model_is_one_error_line(server, run, tmp_path):
    result = run("x", "--model_size", "774M", "--models_dir", str(tmp_path), env={"GPT2_BASE_URL": server.url})
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (f"downloading 774M from {server.url} to {tmp_path / '774M'}\n"
                             f"error: {server.url}/774M/checkpoint: the server answers 404 Not Found; GPT2_BASE_URL "
                             "can name another server\n")


@pytest.mark.parametrize("status", [416, 206])
def test_server_that_insists_on_ranges_is_asked_twice(server, tmp_path, status):
    server.faults[DATA] = [status] * 9
    partial_of(tmp_path).write_bytes(b"x")
    note_of(tmp_path).write_text(json.dumps({"length": LENGTH, "md5": None, "ETag": None, "Last-Modified": None}))
    with pytest.raises(OSError, match=f"the server answers {status}"):
        download_gpt2_files("355M", tmp_path)
    assert requests_of(server) == ["bytes=1-", None]


@pytest.mark.parametrize("model_size, name, kind", [("124M", DATA_FILE, "SHA256"), ("124M", "checkpoint", "SHA256"),
                                                    ("355M", "encoder.json", "SHA256"), ("355M", DATA_FILE, "MD5")])
def test_wrong_checksum_removes_the_file(server, tmp_path, model_size, name, kind):
    server.md5 = kind == "MD5"
    path = f"{model_size}/{name}"
    server.faults[path] = ["corrupt"]
    with pytest.raises(OSError, match=f"{path}: the {kind} checksum is wrong: .* it was removed. Try again"):
        download_gpt2_files(model_size, tmp_path)
    assert requests_of(server, path) == [None]
    assert not list(tmp_path.glob(f"{name}*"))
    download(tmp_path, model_size)  # the next run has it right


def test_checksum_covers_the_resumed_file(server, tmp_path):
    server.md5 = True
    server.faults[DATA] = [("cut", 98_304), "corrupt"]
    with pytest.raises(OSError, match="the MD5 checksum is wrong"):
        download_gpt2_files("355M", tmp_path)


def test_content_md5_that_is_nonsense_is_wrong(server, tmp_path):
    server.headers["Content-MD5"] = "not base64"
    with pytest.raises(OSError, match="355M/checkpoint: the MD5 checksum is wrong"):
        download_gpt2_files("355M", tmp_path)


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "TEXT/HTML", "application/xhtml+xml", "Text/XML ",
                                          "application/xml"])
def test_content_type_of_a_web_page_is_refused(server, tmp_path, content_type):
    server.headers["Content-Type"] = content_type
    with pytest.raises(OSError, match="355M/checkpoint: a web page came instead of the file"):
        download_gpt2_files("355M", tmp_path)
    assert not (tmp_path / "checkpoint").exists()


PAGES = [b"<!DOCTYPE html><title>Log in</title>", b"\n <html>", b"\xef\xbb\xbf<?xml version='1.0'?><Error/>"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", FILES)
def test_web_page_without_a_content_type_is_refused(server, tmp_path, name, page):
    server.files[f"355M/{name}"] = page
    message = "the server announces .* but the file has 300,000" if name == DATA_FILE else "a web page came instead"
    with pytest.raises(OSError, match=f"355M/{name}: {message}"):
        download_gpt2_files("355M", tmp_path)
    assert not list(tmp_path.glob(f"{name}*"))
    server.files[f"355M/{name}"] = contents()[name]
    download(tmp_path)


def test_web_page_does_not_cost_what_came_before(server, tmp_path):
    fail_and_keep(server, tmp_path)
    for page, headers in (PAGES[0], {}), (contents()[DATA_FILE], {"Content-Type": "text/html"}):
        server.ranges, server.files[DATA], server.headers = False, page, headers
        with pytest.raises(OSError, match=f"{DATA}: "):
            download_gpt2_files("355M", tmp_path)
    server.ranges, server.files[DATA], server.headers = True, contents()[DATA_FILE], {}
    download(tmp_path)
    assert requests_of(server) == ["bytes=98304-"] * 3


def test_network_that_asks_for_a_login_is_reported_at_once(server, tmp_path):
    server.faults["355M/checkpoint"] = [511]
    with pytest.raises(OSError, match="355M/checkpoint: a web page came instead .* log in"):
        download_gpt2_files("355M", tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name, data, message", [
    *[(name, b"", "the server sends an empty file") for name in FILES if name != DATA_FILE],
    (DATA_FILE, b"", "the server announces 0 bytes, but the file has 300,000"),
    (DATA_FILE, bytes(LENGTH - 1), "the server announces 299,999 bytes, but the file has 300,000"),
    (DATA_FILE, bytes(LENGTH + 1), "the server announces 300,001 bytes, but the file has 300,000"),
    ("checkpoint", b"Not found\n", "it has no line model_checkpoint_path"),
    ("checkpoint", b'model_checkpoint_path: "other"\n', "it has no line"),
    ("hparams.json", b'{"n_vocab": 50', "it is not JSON"),
    ("hparams.json", b"[" * 100_000, "it is not JSON"),
    ("hparams.json", b"\xff\xfe", "it is not JSON"),
    ("hparams.json", b"[1]", "it must be an object with the model's sizes, not a list"),
    ("hparams.json", b'{"error": "gone"}', "it has no n_vocab"),
    ("hparams.json", json.dumps(HPARAMS | {"n_layer": "1"}).encode(), "n_layer must be a whole number"),
    ("model.ckpt.index", contents()["model.ckpt.index"][:-1], "it is not a TensorFlow index, or not all of one"),
    ("model.ckpt.index", b"Not found\n", "it is not a TensorFlow index, or not all of one"),
    ("model.ckpt.meta", b'{"error": "gone"}', "it is not a TensorFlow graph"),
    ("encoder.json", b"{}", "the SHA256 checksum is wrong"),
    ("vocab.bpe", b"#version: 0.2\n", "the SHA256 checksum is wrong")], ids=lambda value: repr(value)[:30])
def test_file_of_another_kind_is_refused(server, tmp_path, name, data, message):
    server.files[f"355M/{name}"] = data
    with pytest.raises(OSError, match=f"355M/{name}: (what came is not this file: )?{message}") as error:
        download_gpt2_files("355M", tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob(f"{name}*"))
    server.files[f"355M/{name}"] = contents()[name]
    download(tmp_path)


@pytest.mark.parametrize("folder", [MODELS / "shakespeare", TEST_DATA / "openai-tiny"], ids=lambda folder: folder.name)
def test_checks_accept_what_tensorflow_and_openai_write(folder):
    checked = [CHECKS[path.name](path) for path in sorted(folder.iterdir()) if path.name in CHECKS]
    assert len(checked) == 3


def test_unknown_length_and_checksum_is_refused(server, tmp_path):
    server.length = False
    with pytest.raises(OSError, match="355M/checkpoint: the server sends neither the length nor a checksum"):
        download_gpt2_files("355M", tmp_path)
    assert not list(tmp_path.glob("checkpoint*"))
    download(tmp_path, "124M")  # whose checksums are known


@pytest.mark.parametrize("coding", ["chunked", "Chunked"])
def test_chunked_file(server, tmp_path, coding):
    server.chunked = True
    server.headers["Transfer-Encoding"] = coding
    server.faults[DATA] = [("cut", 98_304)]
    download(tmp_path)
    assert requests_of(server) == [None, None]  # without a length it cannot resume


@pytest.mark.parametrize("n", [0, 20])
def test_chunked_file_that_is_cut_short_is_never_complete(server, tmp_path, n):
    server.chunked = True
    server.faults["355M/checkpoint"] = [("cut", n)] * ATTEMPTS
    with pytest.raises(ConnectionError, match="355M/checkpoint: gave up after 5 tries: the connection broke"):
        download_gpt2_files("355M", tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    download(tmp_path)


@pytest.mark.parametrize("model_size", ["355M", "124M"])
def test_server_that_compresses_unasked(server, tmp_path, model_size):
    server.headers["Content-Encoding"] = "gzip"
    server.md5 = True  # of the compressed file
    server.files = {path: gzip.compress(data) for path, data in server.files.items()}
    download(tmp_path, model_size)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:30], lambda data: data[:-8] + bytes(8),
                                    lambda data: data[:10] + b"\xff" * 9, lambda data: b"plain"])
@pytest.mark.parametrize("chunked", [False, True])
def test_compressed_file_that_is_cut_short_or_damaged_is_refused(server, tmp_path, damage, chunked):
    server.headers["Content-Encoding"] = "gzip"
    server.chunked = chunked
    server.files["355M/checkpoint"] = damage(gzip.compress(contents()["checkpoint"]))
    with pytest.raises(ConnectionError, match="checkpoint: gave up .* the compressed file is cut short or damaged"):
        download_gpt2_files("355M", tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("header", ["Content-Encoding", "Transfer-Encoding"])
def test_unknown_encoding_is_refused(server, tmp_path, header):
    server.headers[header] = "zip"
    with pytest.raises(OSError, match=f"checkpoint: the server sends the file in an encoding .*{header} zip"):
        download_gpt2_files("355M", tmp_path)


# --- never more than announced ----------------------------------------------------------------------


def test_file_larger_than_any_official_one_is_refused(server, tmp_path):
    for name, n in (("checkpoint", 2**24 + 1), (DATA_FILE, LARGEST_DATA_FILE + 1)):
        server.headers["Content-Length"] = str(n)
        with pytest.raises(OSError, match=f"{name}: the server announces {n:,} bytes"):
            download_gpt2_files("355M", tmp_path)
        assert not list(tmp_path.glob(f"{name}*"))
        server.headers.clear()
        server.faults[DATA] = [404]
        with pytest.raises(OSError, match="404"):
            download_gpt2_files("355M", tmp_path)


def test_sizes_in_hparams_do_not_raise_the_limit(server, tmp_path):
    server.files["355M/hparams.json"] = json.dumps(HPARAMS | {"n_vocab": 10**7, "n_embd": 10**6}).encode()
    server.headers["Content-Length"] = n = str(4 * (10**13 + 16 * 10**6 + 12 * 10**12 + 13 * 10**6 + 2 * 10**6))
    (tmp_path / "checkpoint").touch()
    (tmp_path / "encoder.json").touch()
    (tmp_path / "hparams.json").write_bytes(server.files["355M/hparams.json"])
    with pytest.raises(OSError, match=f"{DATA}: the server announces {int(n):,} bytes, .* at most 6,230,444,800"):
        download_gpt2_files("355M", tmp_path)


def test_largest_file_is_that_of_the_1558M():
    sizes = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48}
    assert 4 * sum(math.prod(shape) for shape in parameter_shapes(sizes).values()) == LARGEST_DATA_FILE


@pytest.mark.parametrize("head", ["Connection: close", "Transfer-Encoding: chunked", "Content-Encoding: gzip"])
def test_endless_file_is_cut_off(tmp_path, monkeypatch, head):
    if "gzip" in head:
        bomb = zlib.compressobj(wbits=31)  # each part, of 1 kB, is 1 MB of zeros
        first, part = (bomb.compress(bytes(2**20)) + bomb.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    else:
        first = part = b"x" * 65536 if "chunked" not in head else b"10000\r\n%s\r\n" % (b"x" * 65536)
    answer = itertools.chain([f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode(), first], itertools.repeat(part))
    with RawServer([answer]) as server:
        use_server(monkeypatch, server.url, contents())
        with pytest.raises(OSError, match="checkpoint: the server sends more than 16,777,216 bytes; it was removed"):
            download_gpt2_files("355M", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunked", [False, True])
def test_range_that_does_not_end_is_cut_off(server, tmp_path, chunked):
    server.chunked = chunked
    note = {"length": LENGTH, "md5": None, "ETag": f'"{hashlib.sha1(contents()[DATA_FILE]).hexdigest()}"',
            "Last-Modified": None}
    note_of(tmp_path).write_text(json.dumps(note))
    partial_of(tmp_path).write_bytes(contents()[DATA_FILE][:98_304])
    server.faults[DATA] = [("more", 1)]
    with pytest.raises(OSError, match=f"{DATA}: the server sends more than 300,000 bytes; it was removed"):
        download_gpt2_files("355M", tmp_path)
    assert requests_of(server) == ["bytes=98304-"] and not list(tmp_path.glob(f"{DATA_FILE}*"))
    server.chunked = False
    download(tmp_path)


@pytest.mark.parametrize("headers", [
    {"Content-Range": "bytes 98304-299999/300001"}, {"Content-Range": "bytes 98304-300000/300000"},
    {"Content-Range": "bytes 98303-299999/300000"}, {"Content-Range": "bytes 98304-98303/300000"},
    {"Content-Range": "bytes 98304-299999/*"}, {"Content-Range": "98304"}, {"Content-Range": "bytes -1-2/300000"},
    {"Content-Range": f"bytes 98304-{'9' * 5000}/300000"}, {"Content-Length": "999999"},
    {"Content-Encoding": "gzip"}], ids=lambda headers: str(headers)[:50])
def test_range_that_does_not_fit_starts_over(server, tmp_path, headers):
    fail_and_keep(server, tmp_path)
    server.headers_of_ranges = headers
    download(tmp_path)
    assert requests_of(server) == ["bytes=98304-", None]


# --- what the server says about itself --------------------------------------------------------------


def test_two_content_lengths_that_agree(tmp_path, monkeypatch):
    answers = [answer(data, *[f"Content-Length: {len(data)}"] * 2) for data in contents().values()]
    with RawServer(answers) as server:
        use_server(monkeypatch, server.url, contents())
        download(tmp_path)


@pytest.mark.parametrize("length", ["-5", "abc", "1e3", "77, 78", "0x4d", "", "9" * 5000])
def test_content_length_that_is_none_is_refused(server, tmp_path, length):
    server.headers["Content-Length"] = length
    with pytest.raises(OSError, match="/355M/checkpoint: .*Content-Length") as error:
        download_gpt2_files("355M", tmp_path)
    assert not isinstance(error.value, ConnectionError) and len(str(error.value)) < 500
    assert len(server.requests) == 1


@pytest.mark.parametrize("location, message", [
    ("file:///etc/passwd", "redirects to 'file:///etc/passwd'"), ("http://[bad", r"redirects to 'http://\[bad'"),
    ("http://127.0.0.1:99999/", "redirects to 'http://127.0.0.1:99999/'"), ("http://", "redirects in circles"),
    ("//", "redirects in circles"), ("/models/355M/checkpoint", "redirects in circles"),
    ("http://127.0.0.1:1/\xff", "redirects to 'http://127.0.0.1:1/\xff'")])
def test_redirect_to_nowhere_is_refused(server, tmp_path, location, message):
    server.faults["355M/checkpoint"] = [302] * 99
    server.headers["Location"] = location
    with pytest.raises(OSError, match=f"{server.url}/355M/checkpoint: the server {message}") as error:
        download_gpt2_files("355M", tmp_path)
    assert not isinstance(error.value, ConnectionError)
    assert not (tmp_path / "checkpoint").exists() and len(server.requests) <= 31


def test_body_of_a_redirect_is_not_read(tmp_path, monkeypatch):
    endless = itertools.chain([b"HTTP/1.1 302 Found\r\nLocation: /moved\r\n\r\n"], itertools.repeat(b"x" * 65536))
    with RawServer([endless, *map(answer, contents().values())]) as server:
        use_server(monkeypatch, server.url, contents())
        download(tmp_path)
        assert server.n_sent < 2**24


@pytest.mark.parametrize("seconds, waited", [("2", 2), (" 60 ", 60), ("0", 0.001), ("soon", 0.001), ("-1", 0.001),
                                             ("9" * 5000, 0.001), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.001)])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_heeded(server, tmp_path, monkeypatch, seconds, waited, status):
    waits = []
    monkeypatch.setattr(model_files.download, "time", types.SimpleNamespace(sleep=waits.append))
    server.faults["355M/checkpoint"] = [status]
    server.headers["Retry-After"] = seconds
    download(tmp_path)
    assert waits == [waited]


@pytest.mark.parametrize("seconds", ["61", "3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_gives_up_if_the_server_asks_to_wait_for_long(server, tmp_path, seconds):
    server.faults["355M/checkpoint"] = [503]
    server.headers["Retry-After"] = seconds
    with pytest.raises(ConnectionError, match=r"503 Service Unavailable, and the server asks to wait [0-9,]+ s: try"):
        download_gpt2_files("355M", tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer, why", [
    (b"just text\r\n", "the answer is not HTTP, but 'just text'"),  # HTTP/0.9
    (b"\x00\xff\x1b[2J\r\n", "the answer is not HTTP"),
    (b"HTTP/9\x1b[2J\x07 200 OK\r\n\r\n", "HTTP/9"),
    (b"", "without an answer"),
    (answer(b"", "X: " + "x" * 10**5), "header line"),
    (answer(b"", *["X: x"] * 101), "headers"),
    (answer(b"no number\r\n", "Transfer-Encoding: chunked"), "the connection broke"),
    (answer(b"-5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "the connection broke"),
    (b"HTTP/1.1 500 \x1b[2J\x07\r\nContent-Length: 0\r\n\r\n", "500 Internal Server Error")],
    ids=lambda value: repr(value)[:40])
def test_answers_that_make_no_sense(tmp_path, monkeypatch, capsys, answer, why):
    with RawServer([answer] * ATTEMPTS) as server:
        use_server(monkeypatch, server.url, contents())
        with pytest.raises(ConnectionError, match=f"355M/checkpoint: gave up after 5 tries: .*{why}") as error:
            download_gpt2_files("355M", tmp_path)
        assert server.n_requests == ATTEMPTS
    assert str(error.value).isprintable() and len(str(error.value)) < 500 and "\x1b" not in capsys.readouterr().err
    assert not (tmp_path / "checkpoint").exists()


def test_interim_answers(tmp_path, monkeypatch):
    answers = [b"HTTP/1.1 100 Continue\r\n\r\n" + answer(data) for data in contents().values()]
    with RawServer([*answers, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(b"x")]) as server:
        use_server(monkeypatch, server.url, contents())
        download(tmp_path / "100")
        with pytest.raises(OSError, match="the server answers 103 Early Hints"):
            download_gpt2_files("355M", tmp_path / "103")


# --- proxies and encryption -------------------------------------------------------------------------


@pytest.fixture
def proxy(server, monkeypatch):
    """A proxy on the way to an https server, which does not connect to it."""
    monkeypatch.setenv("https_proxy", server.address.replace("//", "//me:secret@"))
    monkeypatch.setenv("GPT2_BASE_URL", "https://models.invalid/models")
    return server


@pytest.mark.parametrize("status, message", [(403, "403 Forbidden"), (407, "407 Proxy Authentication Required; put the "
                                                                           "user and password into https_proxy")])
def test_proxy_that_refuses_to_connect_is_reported_at_once(proxy, tmp_path, status, message):
    proxy.connect = status
    with pytest.raises(OSError, match=f"checkpoint: the proxy {proxy.address} answers {message}") as error:
        download_gpt2_files("355M", tmp_path)
    assert not isinstance(error.value, ConnectionError) and "secret" not in str(error.value)
    assert proxy.requests == [("models.invalid:443", None)]


@pytest.mark.parametrize("status, message", [(502, "502 Bad Gateway"), (429, "429 Too Many Requests")])
def test_proxy_that_cannot_connect_is_asked_again(proxy, tmp_path, status, message):
    proxy.connect = status
    with pytest.raises(ConnectionError, match=f"checkpoint: gave up .* the proxy {proxy.address} answers {message}"):
        download_gpt2_files("355M", tmp_path)
    assert len(proxy.requests) == ATTEMPTS


def test_proxy_that_wants_a_password_for_http_is_reported_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("GPT2_BASE_URL", "http://models.invalid/models")
    server.faults["355M/checkpoint"] = [407]
    with pytest.raises(OSError, match=f"checkpoint: the proxy {server.address} answers 407 Proxy Auth.*http_proxy"):
        download_gpt2_files("355M", tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_there_is_named(tmp_path, monkeypatch, scheme):
    use_server(monkeypatch, f"{scheme}://models.invalid/models", contents())
    monkeypatch.setenv(f"{scheme}_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ConnectionError, match="checkpoint: the proxy http://127.0.0.1:9: .*refused") as error:
        download_gpt2_files("355M", tmp_path)
    assert "secret" not in str(error.value)


def test_password_in_the_base_url_is_not_shown(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", server.url.replace("//", "//me:se@cret@"))
    server.faults["355M/checkpoint"] = [503, 404]
    with pytest.raises(OSError, match="404") as error:
        download_gpt2_files("355M", tmp_path)
    download(tmp_path)
    assert "cret" not in str(error.value) + capsys.readouterr().err


@pytest.fixture
def certificates(tmp_path):
    """(file of a certificate for 127.0.0.1 with its key, file of the authority that issued it)"""
    import trustme

    authority, ours, theirs = trustme.CA(), tmp_path / "server.pem", tmp_path / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(ours)
    authority.cert_pem.write_to_path(theirs)
    return ours, theirs


def test_certificate_that_is_not_trusted(monkeypatch, tmp_path, certificates):
    certificate, authority = certificates
    tmp_path /= "model"
    with serve(monkeypatch, contents(), certificate) as server:
        with pytest.raises(OSError, match="checkpoint: the server's certificate is not trusted .unable to get local "
                                          "issuer certificate.; .*REQUESTS_CA_BUNDLE") as error:
            download_gpt2_files("355M", tmp_path)
        assert not isinstance(error.value, ConnectionError) and "_ssl.c" not in str(error.value)
        assert server.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        monkeypatch.setenv("GPT2_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(OSError, match="not trusted .*not valid for 'localhost'"):
            download_gpt2_files("355M", tmp_path)
        monkeypatch.setenv("GPT2_BASE_URL", server.url)
        server.faults[DATA] = [("reset", 98_304)]
        download(tmp_path)
        assert requests_of(server) == [None, "bytes=98304-"]


# --- this machine ----------------------------------------------------------------------------------


def test_too_little_disk_space_is_reported_before_the_first_byte(server, tmp_path, monkeypatch):
    url, path = f"{server.url}/{DATA}", tmp_path / DATA_FILE
    server.headers["Content-Length"] = str(10**18)
    with pytest.raises(OSError, match=f"{tmp_path}: .*/{DATA} needs 1,000,000,000,000,000,000 bytes, only .* are free"):
        model_files.download.download(url, path, max_length=10**18)
    assert not list(tmp_path.iterdir())
    server.headers.clear()
    fail_and_keep(server, tmp_path)
    monkeypatch.setattr(model_files.download.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=201_695))
    with pytest.raises(OSError, match=f"{DATA} needs 201,696 bytes, only 201,695 are free"):  # the rest of it
        download_gpt2_files("355M", tmp_path)
    assert partial_of(tmp_path).stat().st_size == 98_304


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX can")
def test_disk_that_fills_up(server, tmp_path):
    process = start(tmp_path, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))")
    stderr = process.communicate(timeout=100)[1].replace("\r", "\n").splitlines()
    assert process.returncode == 1
    assert stderr[-1].startswith(f"error: {partial_of(tmp_path)} cannot be written (File too large): what came is kept")
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=200000-"]


@pytest.mark.parametrize("base_url", ["no-scheme/models", "http://", "ftp://127.0.0.1/models", "http://[bad/models",
                                      "http://" + "a" * 70 + ".invalid/models", "http://127.0.0.1:99999/models"])
def test_malformed_base_url(tmp_path, monkeypatch, base_url):
    monkeypatch.setenv("GPT2_BASE_URL", base_url)
    monkeypatch.setattr(model_files.download, "BACKOFF", 0.001)
    with pytest.raises(OSError, match="355M/checkpoint"):
        download_gpt2_files("355M", tmp_path)


def test_file_in_place_of_the_folder(server, tmp_path):
    (tmp_path / "355M").write_text("mine")
    with pytest.raises(OSError, match="355M"):
        load_encoder_hparams_and_params("355M", tmp_path)
    assert (tmp_path / "355M").read_text() == "mine" and not server.requests


@pytest.mark.skipif(os.name != "posix", reason="needs symlinks and FIFOs")
@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "hard link"])
@pytest.mark.parametrize("name", [f"{DATA_FILE}.part", f"{DATA_FILE}.part.json", "checkpoint.part",
                                  "checkpoint.part.json"])
def test_what_others_put_in_place_of_partial_files_is_not_opened(server, tmp_path, name, kind):
    """In a folder that others may write to."""
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    folder.mkdir()
    if DATA_FILE in name:
        fail_and_keep(server, folder)
        data = (folder / name).read_bytes()
        (folder / name).unlink()
    else:
        data = b"mine"
    if kind == "fifo":
        os.mkfifo(folder / name)
    else:
        if kind != "dangling":
            mine.write_bytes(data)
        (folder / name).symlink_to(mine) if kind != "hard link" else os.link(mine, folder / name)
    thread = threading.Thread(target=download_gpt2_files, args=("355M", folder), daemon=True)  # as it might hang
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert_complete(folder)
    assert mine.read_bytes() == data if kind in ("symlink", "hard link") else not mine.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs symlinks and FIFOs")
@pytest.mark.parametrize("put", [os.symlink, os.link, lambda mine, path: os.mkfifo(path)])
def test_partial_file_that_is_swapped_at_the_last_moment_is_not_opened(tmp_path, put):
    (tmp_path / "mine").write_text("mine")
    put(tmp_path / "mine", tmp_path / "file.part")
    partial = model_files.download.Partial(tmp_path / "file")
    with pytest.raises(OSError):
        partial.append()
    with pytest.raises(OSError):
        partial.publish(tmp_path / "file")
    assert (tmp_path / "mine").read_text() == "mine"


def test_folder_in_place_of_a_partial_file(server, tmp_path):
    partial_of(tmp_path).mkdir()
    with pytest.raises(OSError, match=f"{DATA_FILE}.part"):
        download_gpt2_files("355M", tmp_path)


@pytest.mark.parametrize("n", [2, 4])
def test_simultaneous_processes_download_each_file_once(server, tmp_path, n):
    server.delay = 0.05
    processes = [start(tmp_path) for _ in range(n)]
    for process in processes:
        stderr = process.communicate(timeout=100)[1]
        assert process.returncode == 0, stderr
    assert_complete(tmp_path)
    assert server.requests == [(f"355M/{name}", None) for name in FILES]


def test_waiting_for_another_process_is_announced(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_files.lock, "SILENT_WAIT", 0.05)
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
    assert_complete(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_keeps_the_partial_file(server, tmp_path):
    server.faults[DATA] = [("hang", 98_304)]
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    process = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    wait_for(lambda: partial_of(tmp_path).exists() and partial_of(tmp_path).stat().st_size == 98_304)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in stderr
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-"]


def test_a_checksum_is_pinned_for_each_file_of_the_124M():
    assert set(utils.SHA256) == set(FILES) and all(len(bytes.fromhex(value)) == 32 for value in utils.SHA256.values())
