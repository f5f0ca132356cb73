"""A real HTTP server of files that can do to a download what networks do."""
import base64
import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class FileServer:
    """Serves `files` {path: bytes} on 127.0.0.1, with ranges and ETags, as OpenAI's server does.

    It answers as a proxy too, for any host: what is asked for is looked up in its own files.

    Attributes:
        faults: {path: list}; each request for a path takes the first of its list: an int is a status to answer with,
            ("cut", n) breaks the connection after n bytes, ("hang", n) sends nothing more after them, and ("gone", n)
            leaves the network for good; ("part", n) answers a range with its first n bytes alone, "whole" with all of
            the file as if it were the range; "reset" resets at once, "corrupt" flips a byte, None serves as usual.
        ranges, etags, length, md5: whether the server knows them.
        headers: dict of more headers, or such as replace its own.
        chunked: whether bodies are sent in chunks.
        requests: list of (path, Range header or None), as they came; hosts: the Host header of each.
        delay: seconds to wait after each 64 KB.
    """

    def __init__(self, files):
        self.files, self.faults, self.requests, self.hosts, self.headers = dict(files), {}, [], [], {}
        self.ranges = self.etags = self.length = True
        self.md5, self.chunked, self.delay = False, False, 0
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.serve(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
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
        start, status, headers = 0, 200, {"Connection": "close"}
        if self.ranges and span and fault != "whole":
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            status = 206 if start < len(data) else 416
        end = len(data)
        if isinstance(fault, tuple) and fault[0] == "part":
            end = start + fault[1]
        body = data[start:end]
        if fault == "whole":
            status = 206
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        if self.etags:
            headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        if self.md5 and status == 200:
            headers["Content-MD5"] = base64.b64encode(hashlib.md5(data).digest()).decode()
        if self.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif self.length:
            headers["Content-Length"] = str(len(body))
        self.head(handler, status, headers | self.headers)
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if isinstance(fault, tuple):
            body = body[: fault[1]]
        if isinstance(fault, tuple) and fault[0] == "gone":
            self.server.shutdown()
            self.server.server_close()
        try:
            for i in range(0, len(body), 65536):
                part = body[i : i + 65536]
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if self.chunked else part)
                if self.delay:
                    handler.wfile.flush()
                    time.sleep(self.delay)
            if self.chunked and not isinstance(fault, tuple):
                handler.wfile.write(b"0\r\n\r\n")
            handler.wfile.flush()
            if isinstance(fault, tuple) and fault[0] == "hang":
                self.closing.wait(30)
        except OSError:
            pass  # the client went away

    def head(self, handler, status, headers):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
