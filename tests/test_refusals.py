"""Downloads: what is refused, and why: other files, too much of them, bad addresses, proxies, folders of others."""
import itertools
import json
import math
import os
import threading
import types

import pytest
from file_server import (
    DATA,
    HPARAMS,
    LENGTH,
    RawServer,
    assert_complete,
    contents,
    download,
    fail_and_keep,
    partial_of,
    serve,
    use_server,
)
from helpers import DATA as TEST_DATA
from helpers import MODELS

import model_files.download
from model_files.download import ATTEMPTS
from model_files.official_files import (
    CHECKS,
    DATA_FILE,
    FILES,
    LARGEST_DATA_FILE,
    download_gpt2_files,
    parameter_shapes,
)
from utils import load_encoder_hparams_and_params

PAGE = "a web page came instead of the file; .* log in"
NO_LENGTH = "the server sends neither the length nor a checksum"


def refused(folder, message, model_size="355M"):
    """The OSError, one line, with which a download ends at once; the same is not worth another try."""
    with pytest.raises(OSError, match=message) as error:
        download_gpt2_files(model_size, folder)
    assert not isinstance(error.value, ConnectionError) and "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


# --- not the file ---


@pytest.mark.parametrize("status, message", [*[(status, f"the server answers {status}") for status in
                                               (404, 403, 407, 204, 304, 302, 103)], (511, PAGE)])
def test_refusal_is_not_retried(server, tmp_path, status, message, capsys):
    server.faults[DATA] = [status] * 2
    refused(tmp_path, f"{DATA}: {message}.*GPT2_BASE_URL")
    assert [path for path, _ in server.requests].count(DATA) == 1
    assert not (tmp_path / DATA_FILE).exists() and "trying again" not in capsys.readouterr().err


def test_missing_model_is_one_error_line(server, run, tmp_path):
    result = run("x", "--model_size", "774M", "--models_dir", str(tmp_path), env={"GPT2_BASE_URL": server.url})
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (f"downloading the 774M model from {server.url} to {tmp_path / '774M'}\n"
                             f"error: {server.url}/774M/checkpoint: the server answers 404 Not Found; GPT2_BASE_URL "
                             "can name another server\n")


@pytest.mark.parametrize("status", [416, 206])
def test_server_that_insists_on_ranges_is_asked_twice(server, tmp_path, status):
    server.faults[DATA] = [status] * 9
    partial_of(tmp_path).write_bytes(b"x")
    note = {"length": LENGTH, "md5": None, "ETag": None, "Last-Modified": None}
    (tmp_path / f"{DATA_FILE}.part.json").write_text(json.dumps(note))
    refused(tmp_path, f"the server answers {status}")
    assert [span for path, span in server.requests if path == DATA] == ["bytes=1-", None]


@pytest.mark.parametrize("headers, message", [
    *[({"Content-Type": kind}, PAGE) for kind in ("text/html; charset=utf-8", "TEXT/HTML", "application/xhtml+xml",
                                                  "Text/XML ", "application/xml")],
    *[({"Content-Length": length}, NO_LENGTH) for length in ("-5", "abc", "1e3", "", "9" * 5000)],
    ({"Content-Length": "77, 78"}, "Content-Length"),
    ({"Content-Length": str(2**24 + 1)}, "the server announces 16,777,217 bytes, but the file has at most 16,777,216"),
    ({"Content-Encoding": "gzip"}, "an encoding that was not asked for, 'gzip'"),
    ({"Transfer-Encoding": "zip"}, "an encoding that was not asked for, 'zip'"),
    ({"Content-MD5": "not base64"}, "the MD5 checksum is wrong"),
], ids=lambda value: str(value)[:40])
def test_headers_that_are_refused(server, tmp_path, headers, message):
    server.headers = headers
    refused(tmp_path, f"355M/checkpoint: .*{message}")
    assert len(server.requests) == 1 and not list(tmp_path.glob("checkpoint*"))
    server.headers = {}
    download(tmp_path)  # the next run has it right


@pytest.mark.parametrize("name, data, message", [
    *[(name, data, "(what came is not this file|the SHA256 checksum is wrong): ") for name in FILES
      if name != DATA_FILE for data in (b"", b"<!DOCTYPE html><title>Log in</title>")],
    *[(DATA_FILE, bytes(n), f"the server announces {n:,} bytes, but the file has 300,000") for n in
      (0, LENGTH - 1, LENGTH + 1)],
    ("checkpoint", b"Not found\n", "it has no line model_checkpoint_path"),
    ("checkpoint", b'model_checkpoint_path: "other"\n', "it has no line"),
    ("hparams.json", b'{"n_vocab": 50', "it is not JSON"), ("hparams.json", b"[" * 100_000, "it is not JSON"),
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
    refused(tmp_path, f"355M/{name}: (what came is not this file: )?{message}")
    assert not list(tmp_path.glob(f"{name}*"))
    server.files[f"355M/{name}"] = contents()[name]
    download(tmp_path)


@pytest.mark.parametrize("model_size, name, kind, faults", [
    ("124M", DATA_FILE, "SHA256", ["corrupt"]), ("124M", "checkpoint", "SHA256", ["corrupt"]),
    ("355M", "encoder.json", "SHA256", ["corrupt"]), ("355M", DATA_FILE, "MD5", ["corrupt"]),
    ("355M", DATA_FILE, "MD5", [("cut", 98_304), "corrupt"])])  # of the resumed file
def test_wrong_checksum_removes_the_file(server, tmp_path, model_size, name, kind, faults):
    server.md5 = kind == "MD5"
    server.faults[f"{model_size}/{name}"] = faults
    refused(tmp_path, f"{model_size}/{name}: the {kind} checksum is wrong: .* it was removed", model_size)
    assert not list(tmp_path.glob(f"{name}*"))
    download(tmp_path, model_size)


@pytest.mark.parametrize("folder", [MODELS / "shakespeare", TEST_DATA / "openai-tiny"], ids=lambda folder: folder.name)
def test_checks_accept_what_tensorflow_and_openai_write(folder):
    checked = [CHECKS[path.name](path) for path in sorted(folder.iterdir()) if path.name in CHECKS]
    assert len(checked) == 3


def test_unknown_length_without_a_checksum(server, tmp_path):
    server.length = False
    refused(tmp_path, f"355M/checkpoint: {NO_LENGTH}")
    assert not list(tmp_path.glob("checkpoint*"))
    download(tmp_path, "124M")  # whose checksums are known


def test_web_page_does_not_cost_what_came_before(server, tmp_path):
    fail_and_keep(server, tmp_path)
    for page, headers in (b"<html>", {}), (contents()[DATA_FILE], {"Content-Type": "text/html"}):
        server.ranges, server.files[DATA], server.headers = False, page, headers
        refused(tmp_path, f"{DATA}: ")
    server.ranges, server.files[DATA], server.headers = True, contents()[DATA_FILE], {}
    download(tmp_path)
    assert [span for path, span in server.requests if path == DATA] == ["bytes=98304-"] * 3


@pytest.mark.parametrize("n", [0, 20])
def test_chunked_file_that_is_cut_short_is_never_complete(server, tmp_path, n):
    server.chunked = True
    server.faults["355M/checkpoint"] = [("cut", n)] * ATTEMPTS
    with pytest.raises(ConnectionError, match="355M/checkpoint: gave up after 5 tries"):
        download_gpt2_files("355M", tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    download(tmp_path)


# --- more than it should be ---


def test_sizes_in_hparams_do_not_raise_the_limit(server, tmp_path):
    hparams = json.dumps(HPARAMS | {"n_vocab": 10**7, "n_embd": 10**6}).encode()
    server.headers["Content-Length"] = n = str(4 * (10**13 + 16 * 10**6 + 12 * 10**12 + 13 * 10**6 + 2 * 10**6))
    for name in ("checkpoint", "encoder.json", "hparams.json"):
        (tmp_path / name).write_bytes(hparams)
    refused(tmp_path, f"{DATA}: the server announces {int(n):,} bytes, .* at most 6,230,444,800")


def test_largest_file_is_that_of_the_1558M():
    sizes = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48}
    assert 4 * sum(math.prod(shape) for shape in parameter_shapes(sizes).values()) == LARGEST_DATA_FILE


@pytest.mark.parametrize("head, part", [("Connection: close", b"x" * 65536),
                                        ("Transfer-Encoding: chunked", b"10000\r\n%s\r\n" % (b"x" * 65536))])
def test_endless_file_is_cut_off(tmp_path, monkeypatch, head, part):
    answer = itertools.chain([f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode()], itertools.repeat(part))
    with RawServer([answer]) as server:
        use_server(monkeypatch, server.url, contents())
        refused(tmp_path, "checkpoint: the server sends more than 16,777,216 bytes; what came was removed")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunked", [False, True])
def test_range_that_does_not_end_is_cut_off(server, tmp_path, chunked):
    fail_and_keep(server, tmp_path)
    server.chunked = chunked
    server.faults[DATA] = [("more", 1)]
    refused(tmp_path, f"{DATA}: the server sends more than 300,000 bytes; what came was removed")
    assert not list(tmp_path.glob(f"{DATA_FILE}*"))
    server.chunked = False
    download(tmp_path)


# --- addresses, proxies and encryption ---


@pytest.mark.parametrize("location, message", [
    ("file:///etc/passwd", "'file:///etc/passwd'"), ("http://[bad", "Invalid IPv6 URL"),
    ("http://127.0.0.1:99999/", "(Port out of range|Failed to parse)"),
    ("/models/355M/checkpoint", "TooManyRedirects")])
def test_redirect_to_nowhere_is_refused(server, tmp_path, location, message):
    server.faults["355M/checkpoint"] = [302] * 99
    server.headers["Location"] = location
    refused(tmp_path, f"{server.url}/355M/checkpoint: .*{message}")
    assert not (tmp_path / "checkpoint").exists() and len(server.requests) <= 31


@pytest.mark.parametrize("base_url", ["no-scheme/models", "http://", "ftp://127.0.0.1/models", "http://[bad/models",
                                      "http://" + "a" * 70 + ".invalid/models", "http://127.0.0.1:99999/models"])
def test_malformed_base_url(tmp_path, monkeypatch, base_url):
    monkeypatch.setenv("GPT2_BASE_URL", base_url)
    refused(tmp_path, "355M/checkpoint: ")


def test_unreachable_server_is_reported_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", "http://127.0.0.1:9/models")
    with pytest.raises(ConnectionError, match="cannot reach http://127.0.0.1:9/models/355M/checkpoint: .*refused"):
        download_gpt2_files("355M", tmp_path)
    assert "trying again" not in capsys.readouterr().err


@pytest.mark.parametrize("status, final", [(403, True), (407, True), (502, False), (429, False)])
def test_proxy_that_does_not_connect(server, tmp_path, monkeypatch, status, final):
    monkeypatch.setenv("https_proxy", server.address.replace("//", "//me:secret@"))
    monkeypatch.setenv("GPT2_BASE_URL", "https://models.invalid/models")
    server.connect = status
    message = f"checkpoint: .*the proxy {server.address}: .*: {status} "
    with pytest.raises(OSError, match=message) as error:
        download_gpt2_files("355M", tmp_path)
    assert isinstance(error.value, ConnectionError) != final and "secret" not in str(error.value)
    assert server.requests == [("models.invalid:443", None)] * (1 if final else ATTEMPTS)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_there_is_named(tmp_path, monkeypatch, scheme):
    use_server(monkeypatch, f"{scheme}://models.invalid/models", contents())
    monkeypatch.setenv(f"{scheme}_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ConnectionError, match="checkpoint: the proxy http://127.0.0.1:9: .*refused") as error:
        download_gpt2_files("355M", tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("faults", [[503, 404], [302]])
def test_password_in_the_base_url_is_not_shown(server, tmp_path, monkeypatch, capsys, faults):
    monkeypatch.setenv("GPT2_BASE_URL", server.url.replace("//", "//me:se@cret@"))
    server.faults["355M/checkpoint"] = faults
    server.headers["Location"] = "gopher://me:secret@elsewhere"
    message = refused(tmp_path, "404|gopher")
    download(tmp_path)
    assert "cret" not in message + capsys.readouterr().err


def test_certificate_that_is_not_trusted(monkeypatch, tmp_path):
    import trustme

    authority, certificate, folder = trustme.CA(), tmp_path / "server.pem", tmp_path / "model"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with serve(monkeypatch, contents(), certificate) as server:
        message = refused(folder, "checkpoint: the server's certificate is not trusted .unable to get local issuer "
                                  "certificate.; .*REQUESTS_CA_BUNDLE")
        assert "_ssl.c" not in message and server.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        monkeypatch.setenv("GPT2_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
        refused(folder, "not trusted .*not valid for 'localhost'")
        monkeypatch.setenv("GPT2_BASE_URL", server.url)
        server.faults[DATA] = [("reset", 98_304)]
        download(folder)
        assert (DATA, "bytes=98304-") in server.requests


# --- this machine ---


def test_too_little_disk_space_is_reported_before_the_first_byte(server, tmp_path, monkeypatch):
    url, path = f"{server.url}/{DATA}", tmp_path / DATA_FILE
    server.headers["Content-Length"] = str(10**18)
    with pytest.raises(OSError, match=f"{tmp_path}: .*/{DATA} needs 1,000,000,000,000,000,000 bytes, only .* are free"):
        model_files.download.download(url, path, max_length=10**18)
    assert not list(tmp_path.iterdir())
    server.headers.clear()
    fail_and_keep(server, tmp_path)
    monkeypatch.setattr(model_files.download.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=201_695))
    refused(tmp_path, f"{DATA} needs 201,696 bytes, only 201,695 are free")  # the rest of it
    assert partial_of(tmp_path).stat().st_size == 98_304


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX can")
def test_disk_that_fills_up(server, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        refused(tmp_path, "[.]part cannot be written: File too large; what came is kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    download(tmp_path)
    assert (DATA, "bytes=200000-") in server.requests


def test_file_in_place_of_the_folder_and_a_folder_of_a_file(server, tmp_path):
    (tmp_path / "355M").write_text("mine")
    with pytest.raises(OSError, match="355M"):
        load_encoder_hparams_and_params("355M", tmp_path)
    assert (tmp_path / "355M").read_text() == "mine" and not server.requests
    (tmp_path / "folder" / f"{DATA_FILE}.part").mkdir(parents=True)
    with pytest.raises(OSError, match=f"{DATA_FILE}.part"):
        download_gpt2_files("355M", tmp_path / "folder")


@pytest.mark.skipif(os.name != "posix", reason="needs symlinks and FIFOs")
@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "hard link"])
@pytest.mark.parametrize("name", [f"{DATA_FILE}.part", f"{DATA_FILE}.part.json", "checkpoint.part",
                                  "checkpoint.part.json"])
def test_what_others_put_in_place_of_partial_files_is_not_opened(server, tmp_path, name, kind):
    """In a folder that others may write to."""
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    folder.mkdir()
    data = b"mine"
    if DATA_FILE in name:
        fail_and_keep(server, folder)
        data = (folder / name).read_bytes()
        (folder / name).unlink()
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
    for use in (partial.append, lambda: partial.publish(tmp_path / "file")):
        with pytest.raises(OSError):
            use()
    assert (tmp_path / "mine").read_text() == "mine"
