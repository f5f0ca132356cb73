"""Downloads: what comes, how it resumes, what is tried again, and processes that are killed or run at once.

test_refusals.py has what is not accepted.
"""
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter

import pytest
from file_server import (
    DATA,
    LENGTH,
    RawServer,
    assert_complete,
    contents,
    download,
    fail_and_keep,
    partial_of,
    serve,
    sha256,
    use_server,
)
from helpers import MODELS, ROOT, wait_for

import model_files.download
import model_files.lock
from model_files import official_files
from model_files.download import ATTEMPTS, CHUNK
from model_files.official_files import DATA_FILE, FILES, download_gpt2_files


def requests_of(server, path=DATA):
    return [span for name, span in server.requests if name == path]


def retries(capsys):
    """The lines on stderr that announce another try."""
    return [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "trying again" in line]


def start(folder, first="pass"):
    """A process of its own that downloads into `folder`; `first` is what it does before."""
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cli.terminal; {first}; "
               "from model_files import official_files; "
               f"official_files.SHA256 = {sha256(contents())!r}; "
               f"cli.terminal.run_command_line(lambda: official_files.download_gpt2_files('355M', {str(folder)!r}))")
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- what is downloaded ---


@pytest.mark.parametrize("model_size", ["355M", "124M"])
def test_each_file_is_downloaded_once(server, tmp_path, capsys, model_size):
    folder = tmp_path / "new" / model_size
    download(folder, model_size)
    assert server.requests == [(f"{model_size}/{name}", None) for name in FILES]
    capsys.readouterr()
    download(folder, model_size)
    assert capsys.readouterr() == ("", "")  # nothing is announced
    (folder / "vocab.bpe").unlink()
    download(folder, model_size)
    assert server.requests[len(FILES) :] == [(f"{model_size}/vocab.bpe", None)]


def test_a_program_without_a_terminal_downloads_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    download(tmp_path)


def test_base_url_is_openais_or_from_the_environment(server, tmp_path, monkeypatch):
    assert official_files.BASE_URL == "https://openaipublic.blob.core.windows.net/gpt-2/models"
    monkeypatch.setenv("GPT2_BASE_URL", server.url + "/")
    download(tmp_path)
    monkeypatch.setenv("GPT2_BASE_URL", "")
    monkeypatch.setattr(official_files, "BASE_URL", server.url)
    (tmp_path / "checkpoint").unlink()
    download(tmp_path)


@pytest.mark.slow
def test_program_downloads_converts_and_runs_a_model(monkeypatch, tmp_path, shakespeare):
    files = {name: (MODELS / "shakespeare" / name).read_bytes() for name in FILES if name != "model.ckpt.meta"}
    files["model.ckpt.meta"] = b"\na graph, which nothing reads"
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import gpt2, cli.terminal; "
               "from model_files import official_files; "
               f"official_files.SHA256 = {sha256(files)!r}; cli.terminal.run_command_line(gpt2.main)")
    arguments = [sys.executable, "-c", program, "ROMEO:", "5", "--model_size", "355M", "--models_dir", str(tmp_path)]
    with serve(monkeypatch, files) as server:
        first, again = (subprocess.run(arguments, capture_output=True, text=True, timeout=100) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr
    assert "converting" in first.stderr and "converting" not in again.stderr
    assert first.stdout == again.stdout == subprocess.run(
        [sys.executable, "gpt2.py", "ROMEO:", "5", "--model_size", "shakespeare"], cwd=ROOT, capture_output=True,
        text=True, timeout=100).stdout
    assert Counter(server.requests).most_common(1)[0][1] == 1


def test_redirect_is_followed(server, tmp_path):
    server.files["elsewhere"] = contents()[DATA_FILE]
    server.faults[DATA] = [302]
    server.headers["Location"] = "/models/elsewhere"
    download(tmp_path)
    assert requests_of(server, "elsewhere") == [None]


def test_body_of_a_redirect_is_not_read(tmp_path, monkeypatch):
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data) for data in contents().values()]
    endless = itertools.chain([b"HTTP/1.1 302 Found\r\nLocation: /moved\r\n\r\n"], itertools.repeat(b"x" * 65536))
    with RawServer([endless, *answers]) as server:
        use_server(monkeypatch, server.url, contents())
        download(tmp_path)
        assert server.n_sent < 2**24


@pytest.mark.parametrize("coding", ["chunked", "Chunked"])
def test_chunked_file(server, tmp_path, coding):
    server.chunked = True
    server.headers["Transfer-Encoding"] = coding
    server.faults[DATA] = [("cut", 98_304)]
    download(tmp_path)
    assert requests_of(server) == [None, None]  # without a length it cannot resume


def test_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("GPT2_BASE_URL", "http://models.invalid/models")
    download(tmp_path)
    assert set(server.hosts) == {"models.invalid"} and len(server.hosts) == len(FILES)


def test_what_is_downloaded_is_announced_before_the_server_answers(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        use_server(monkeypatch, url, contents())
        process = start(tmp_path)
        assert process.stderr.readline() == f"downloading the 355M model from {url} to {tmp_path}\n"
        process.kill()
        process.communicate()


def test_a_checksum_is_pinned_for_each_file_of_the_124M():
    assert set(official_files.SHA256) == set(FILES)
    assert all(len(bytes.fromhex(value)) == 32 for value in official_files.SHA256.values())


# --- resuming ---


@pytest.mark.parametrize("kind, step", [("cut", 16_000), ("reset", 16_000), ("hang", 50_000)])
def test_connection_that_breaks_again_and_again(server, tmp_path, monkeypatch, capsys, kind, step):
    monkeypatch.setattr(model_files.download, "READ_TIMEOUT", 0.3)
    server.faults[DATA] = [(kind, step)] * (LENGTH // step)
    download(tmp_path)  # each try gets further, so it does not give up
    places = [f"bytes={n}-" for n in range(step, LENGTH, step)]
    assert requests_of(server) == [None, *places]
    lines = retries(capsys)
    assert len(lines) == len(places) and all(line.startswith(f"{DATA_FILE}: ") for line in lines)


@pytest.mark.parametrize("n, name", [(1, "kill"), (LENGTH - 1, "Ctrl-C" if os.name == "posix" else "kill")])
def test_resumes_after_a_kill_and_ctrl_c(server, tmp_path, n, name):
    server.faults[DATA] = [("hang", n)]
    # a shell starts what runs in the background with SIGINT ignored, and children inherit that
    process = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    wait_for(lambda: partial_of(tmp_path).exists() and partial_of(tmp_path).stat().st_size == n)
    assert not (tmp_path / DATA_FILE).exists()  # it gets its name when it is complete
    process.kill() if name == "kill" else process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    if name != "kill":
        assert process.returncode == 130 and "Traceback" not in stderr and "the next run resumes" in stderr
    download(tmp_path)
    assert requests_of(server) == [None, f"bytes={n}-"]


def test_what_cannot_be_resumed_is_not_promised(server, tmp_path):
    """Without a length the rest has no end to be asked for."""
    server.faults[DATA] = [("hang", 5)]
    server.chunked = True
    process = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    wait_for(lambda: partial_of(tmp_path).exists() and partial_of(tmp_path).stat().st_size == 5)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert f"{DATA_FILE}: interrupted\n" in stderr and "resumes" not in stderr


@pytest.mark.parametrize("beginning", ["nothing", "half"])
def test_what_a_kill_leaves_at_any_line_is_completed_by_the_next_run(server, tmp_path, beginning):
    """A kill leaves the folder as it is before some line of the download: each of these states is one to start from."""
    folder, url, data = tmp_path / "traced", f"{server.url}/{DATA}", contents()[DATA_FILE]
    states = []
    folder.mkdir()

    def state():
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def trace(frame, event, argument):
        if frame.f_code.co_filename != model_files.download.__file__:
            return None
        if not states or state() != states[-1]:
            states.append(state())
        return trace

    if beginning == "half":
        server.faults[DATA] = [("cut", 98_304), *["reset"] * ATTEMPTS]
        with pytest.raises(ConnectionError):
            model_files.download.download(url, folder / DATA_FILE)
        server.faults.clear()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        model_files.download.download(url, folder / DATA_FILE)
    finally:
        sys.settrace(before)
    assert any(LENGTH // 2 < len(state.get(f"{DATA_FILE}.part", "")) < LENGTH for state in states)
    for i, left in enumerate([*states, state()]):
        assert left.get(DATA_FILE, data) == data
        folder = tmp_path / str(i)
        folder.mkdir()
        for name, content in left.items():
            (folder / name).write_bytes(content)
        model_files.download.download(url, folder / DATA_FILE)
        assert state() == {DATA_FILE: data}


def test_complete_partial_file_needs_no_request(server, tmp_path):
    fail_and_keep(server, tmp_path)
    partial_of(tmp_path).write_bytes(contents()[DATA_FILE])
    download(tmp_path)
    assert requests_of(server) == []


def test_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.faults[DATA] = [("cut", 98_304)]
    download(tmp_path)  # from the start again
    assert requests_of(server) == [None, "bytes=98304-"]
    (tmp_path / DATA_FILE).unlink()
    server.faults[DATA] = [("cut", n * CHUNK) for n in (9, 1, 2, 3, 4, 5, 6)]  # never further than the first
    with pytest.raises(ConnectionError, match="gave up"):
        download_gpt2_files("355M", tmp_path)


@pytest.mark.parametrize("new, headers", [
    (b"n" * 300_000, {}), (b"n" * 300_001, {"ETag": "1"}), (b"n" * 150_000, {"ETag": "1"}), (b"n" * 50, {"ETag": "1"}),
    (b"n" * 300_000, {"ETag": "1", "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"})])
def test_partial_file_of_another_version_is_not_resumed(server, tmp_path, new, headers):
    server.headers.update(headers)
    server.faults[DATA] = [("cut", 98_304), *["reset"] * ATTEMPTS]
    url, path = f"{server.url}/{DATA}", tmp_path / DATA_FILE
    with pytest.raises(ConnectionError):
        model_files.download.download(url, path)
    assert partial_of(tmp_path).stat().st_size == 98_304
    server.faults[DATA], server.files[DATA] = [], new
    server.headers.pop("Last-Modified", None)
    model_files.download.download(url, path)
    assert path.read_bytes() == new and os.listdir(tmp_path) == [DATA_FILE]
    assert requests_of(server)[-2:] == ["bytes=98304-", None]


@pytest.mark.parametrize("note", [None, b"", b"{", b"[]", b"{}", b"\xff", b'{"length": "300000"}',
                                  b'{"length": "300000", "md5": 1, "ETag": [], "Last-Modified": {}}', b"[" * 100_000,
                                  b'{"length": 1' + b"0" * 5000 + b"}"], ids=lambda note: repr(note)[:20])
def test_damaged_note_starts_over(server, tmp_path, note):
    partial_of(tmp_path).write_bytes(b"x" * 1000)
    if note is not None:
        (tmp_path / f"{DATA_FILE}.part.json").write_bytes(note)
    download(tmp_path)


def test_half_a_range_and_a_range_that_is_the_whole_file(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), ("part", 49_152), "whole"]
    download(tmp_path)
    assert requests_of(server) == [None, "bytes=98304-", "bytes=147456-", None]


@pytest.mark.parametrize("span", ["bytes 98304-299999/300001", "bytes 98303-299999/300000", "bytes 98304-299999/*",
                                  "98304", "bytes -1-2/300000", f"bytes 98304-{'9' * 5000}/300001"])
def test_range_that_does_not_fit_starts_over(server, tmp_path, span):
    fail_and_keep(server, tmp_path)
    server.headers_of_ranges = {"Content-Range": span}
    download(tmp_path)
    assert requests_of(server) == ["bytes=98304-", None]


# --- what is tried again ---


@pytest.mark.parametrize("fault, why", [
    ("reset", "RemoteDisconnected: .*"), (("cut", 0), "IncompleteRead: .*"), (("hang", 0), "nothing came for 0.3 s"),
    (408, "the server answers 408 Request Timeout"), (429, "the server answers 429 Too Many Requests"),
    (500, "the server answers 500 Internal Server Error"), (599, "the server answers 599")])
def test_failure_that_may_pass(server, tmp_path, monkeypatch, capsys, fault, why):
    monkeypatch.setattr(model_files.download, "READ_TIMEOUT", 0.3)
    server.faults[DATA] = [fault] * (ATTEMPTS - 1)
    download(tmp_path)
    for i, line in enumerate(retries(capsys)):
        assert re.fullmatch(f"{DATA_FILE}: {why}; trying again in {0.001 * 2**i:g} s", line)
    assert len(requests_of(server)) == ATTEMPTS


def test_gives_up_and_keeps_the_partial_file(server, tmp_path):
    server.faults[DATA] = [("cut", 98_304), *[503] * ATTEMPTS]
    with pytest.raises(ConnectionError, match=f"{DATA}: gave up after {ATTEMPTS} tries: .* 503 .* is kept"):
        download_gpt2_files("355M", tmp_path)
    assert len(requests_of(server)) == ATTEMPTS and not (tmp_path / DATA_FILE).exists()
    server.faults.clear()
    download(tmp_path)
    assert requests_of(server)[-1] == "bytes=98304-"


def test_server_that_disappears(server, tmp_path, capsys):
    server.faults[DATA] = [("gone", 98_304)]
    with pytest.raises(ConnectionError, match="gave up after 5 tries: .*refused"):
        download_gpt2_files("355M", tmp_path)
    assert len(retries(capsys)) == ATTEMPTS - 1 and partial_of(tmp_path).stat().st_size == 98_304


@pytest.mark.parametrize("seconds, waited", [("2", 2), (" 60 ", 60), ("0", 0.001), ("soon", 0.001), ("-1", 0.001),
                                             ("9" * 5000, 0.001), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.001)])
def test_retry_after_is_heeded(server, tmp_path, monkeypatch, seconds, waited):
    waits = []
    monkeypatch.setattr(model_files.download, "time", types.SimpleNamespace(sleep=waits.append))
    server.faults["355M/checkpoint"] = [503]
    server.headers["Retry-After"] = seconds
    download(tmp_path)
    assert waits == [waited]


@pytest.mark.parametrize("seconds", ["61", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_gives_up_if_the_server_asks_to_wait_for_long(server, tmp_path, seconds):
    server.faults["355M/checkpoint"] = [503]
    server.headers["Retry-After"] = seconds
    with pytest.raises(ConnectionError, match=r"gave up after 1 try: .*, and the server asks to wait [0-9,]+ s$"):
        download_gpt2_files("355M", tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [
    b"just text\r\n", b"\x00\xff\x1b[2J\r\n", b"HTTP/9\x1b[2J\x07 200 OK\r\n\r\n", b"",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**5 + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 500 \x1b[2J\x07\r\nContent-Length: 0\r\n\r\n"], ids=lambda value: repr(value)[:40])
def test_answers_that_make_no_sense(tmp_path, monkeypatch, capsys, answer):
    with RawServer([answer] * ATTEMPTS) as server:
        use_server(monkeypatch, server.url, contents())
        with pytest.raises(ConnectionError, match="355M/checkpoint: gave up after 5 tries: .") as error:
            download_gpt2_files("355M", tmp_path)
    assert str(error.value).isprintable() and len(str(error.value)) < 500 and "\x1b" not in capsys.readouterr().err
    assert not (tmp_path / "checkpoint").exists()


# --- processes at once ---


@pytest.mark.slow
def test_simultaneous_processes_download_each_file_once(server, tmp_path):
    server.delay = 0.05
    processes = [start(tmp_path) for _ in range(3)]
    for process in processes:
        stderr = process.communicate(timeout=100)[1]
        assert process.returncode == 0, stderr
    assert_complete(tmp_path)
    assert server.requests == [(f"355M/{name}", None) for name in FILES]


@pytest.mark.slow
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
