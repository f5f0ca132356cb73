"""Real servers that can do to a download what networks do, and a made-up model for them to serve."""
import base64
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

import model_files.download
from model_files import official_files
from model_files.download import ATTEMPTS
from model_files.official_files import DATA_FILE, FILES, download_gpt2_files

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
    monkeypatch.setattr(official_files, "SHA256", sha256(files))
    monkeypatch.setattr(model_files.download, "BACKOFF", 0.001)


def serve(monkeypatch, files, certificate=None):
    """A server of `files` as the 355M and the 124M."""
    server = FileServer({f"{size}/{name}": data for size in ("355M", "124M") for name, data in files.items()},
                        certificate)
    use_server(monkeypatch, server.url, files)
    return server


def download(folder, model_size="355M"):
    """Download into `folder` and make sure that every file is there as it should be, and nothing else."""
    download_gpt2_files(model_size, folder)
    assert_complete(folder)


def assert_complete(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == contents()


def partial_of(folder):
    return folder / f"{DATA_FILE}.part"


def fail_and_keep(server, folder, n=98_304):
    """A download that gives up after `n` bytes of the weights."""
    server.faults[DATA] = [("cut", n), *["reset"] * ATTEMPTS]
    with pytest.raises(ConnectionError):
        download_gpt2_files("355M", folder)
    assert partial_of(folder).stat().st_size == n
    del server.faults[DATA], server.requests[:]


class FileServer:
    """Serves `files` {path: bytes} on 127.0.0.1, with ranges and ETags, as OpenAI's server does.

    It answers as a proxy too, for any host: what is asked for is looked up in its own files.

    Attributes:
        faults: {path: list}; each request for a path takes the first of its list: an int is a status to answer with,
            ("cut", n) closes the connection after n bytes, ("reset", n) resets it, ("hang", n) sends nothing more after
            them, and ("gone", n) leaves the network for good; ("part", n) answers a range with its first n bytes alone,
            "whole" with all of the file as if it were the range, ("more", n) with n bytes more than it announces;
            "reset" closes without an answer, "corrupt" flips a byte, None serves as usual.
        ranges, length, md5: whether the server knows them.
        headers: dict of more headers, or such as replace its own; headers_of_ranges: those of answers to ranges alone.
        chunked: whether bodies are sent in chunks.
        connect: the status with which it answers CONNECT, as a proxy that refuses to.
        requests: list of (path, Range header or None), as they came; hosts: the Host header of each.
        delay: seconds to wait after each 64 KB.

    Args:
        files: dict {path: bytes}.
        certificate: path of a PEM file with certificate and key, to serve over TLS.
    """

    def __init__(self, files, certificate=None):
        self.files, self.faults, self.requests, self.hosts, self.headers = dict(files), {}, [], [], {}
        self.ranges = self.length = True
        self.md5, self.chunked, self.delay, self.connect, self.headers_of_ranges = False, False, 0, 403, {}
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # a reset would drop what it holds back

            def do_GET(self):
                outer.serve(self)

            def do_CONNECT(self):
                outer.requests.append((self.path, None))
                self.close_connection = True
                outer.head(self, outer.connect, {"Content-Length": "0", "Connection": "close"})

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)  # in the thread that serves it
        self.address = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.address}/models"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def serve(self, handler):
        path = urlsplit(handler.path).path.removeprefix("/models/")
        span = handler.headers.get("Range")
        self.requests.append((path, span))
        self.hosts.append(handler.headers.get("Host"))
        faults = self.faults.get(path)
        fault = faults.pop(0) if faults else None
        data = self.files.get(path)
        handler.close_connection = True
        if isinstance(fault, int) or data is None:
            self.head(handler, fault or 404, {"Content-Length": "0", "Connection": "close"} | self.headers)
            return
        if fault == "reset":
            return
        kind, n = fault if isinstance(fault, tuple) else (fault, None)
        start, status, headers = 0, 200, {"Connection": "close"}
        if self.ranges and span and kind != "whole":
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            status = 206 if start < len(data) else 416
        end = len(data)
        if kind == "part":
            end = start + n
        body = data[start:end]
        if kind == "whole":
            status = 206
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        if self.md5 and status == 200:
            headers["Content-MD5"] = base64.b64encode(hashlib.md5(data).digest()).decode()
        if self.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif self.length and kind != "more":
            headers["Content-Length"] = str(len(body))
        self.head(handler, status, headers | self.headers | (self.headers_of_ranges if status == 206 else {}))
        if kind == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if kind == "more":
            body += bytes(n)
        elif n is not None:
            body = body[:n]
        if kind == "gone":
            self.server.shutdown()
            self.server.server_close()
        try:
            for i in range(0, len(body), 65536):
                part = body[i : i + 65536]
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if self.chunked else part)
                if self.delay:
                    handler.wfile.flush()
                    time.sleep(self.delay)
            if self.chunked and (n is None or kind == "more"):
                handler.wfile.write(b"0\r\n\r\n")
            handler.wfile.flush()
            if kind == "hang":
                self.closing.wait(30)
            if kind == "reset":
                reset(handler.connection)
        except OSError:
            pass  # the client went away

    def head(self, handler, status, headers):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()


class RawServer:
    """Answers each connection with the next of `answers`, bytes to be sent as they are, and closes it.

    An answer may also be an iterable of bytes, which are sent one after the other until the client goes away.

    Attributes:
        n_sent: bytes sent so far.
    """

    def __init__(self, answers):
        self.answers, self.n_sent = iter(answers), 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()

    def serve(self):
        for answer in self.answers:
            try:
                connection, _ = self.socket.accept()
            except OSError:  # closed
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536) or b"\r\n\r\n"
                try:
                    for part in [answer] if isinstance(answer, bytes) else answer:
                        connection.sendall(part)
                        self.n_sent += len(part)
                except OSError:
                    pass  # the client went away


def reset(connection):
    """Close a socket with a reset instead of the usual farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
