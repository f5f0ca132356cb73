"""A real HTTP server of files that can do to a download what networks do."""
import base64
import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `files` {path: bytes} on 127.0.0.1, with ranges and ETags, as OpenAI's server does.

    Attributes:
        faults: {path: list}; each request for a path takes the first of its list: an int is a status to answer with,
            ("cut", n) breaks the connection after n bytes, "hang" sends nothing more, "reset" resets at once,
            "corrupt" flips a byte, "short" claims and sends less, None serves as usual.
        ranges, etags, md5: whether the server knows them.
        requests: list of (path, Range header or None), as they came.
        delay: seconds to wait after each 64 KB.
    """

    def __init__(self, files):
        self.files, self.faults, self.requests = dict(files), {}, []
        self.ranges = self.etags = True
        self.md5, self.delay, self.length = False, 0, True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.serve(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/models"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def serve(self, handler):
        path = handler.path.removeprefix("/models/")
        span = handler.headers.get("Range")
        self.requests.append((path, span))
        faults = self.faults.get(path)
        fault = faults.pop(0) if faults else None
        data = self.files.get(path)
        handler.close_connection = True
        if isinstance(fault, int) or data is None:
            handler.send_response(fault or 404)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if fault == "reset":
            return
        start, status = 0, 200
        if self.ranges and span:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            status = 206 if start < len(data) else 416
        handler.send_response(status)
        body = data[start:]
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.etags:
            handler.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        if self.md5 and status == 200:
            handler.send_header("Content-MD5", base64.b64encode(hashlib.md5(data).digest()).decode())
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if isinstance(fault, tuple):
            body = body[: fault[1]]
        try:
            for i in range(0, len(body), 65536):
                handler.wfile.write(body[i : i + 65536])
                if self.delay:
                    handler.wfile.flush()
                    time.sleep(self.delay)
            handler.wfile.flush()
            if fault == "hang":
                time.sleep(30)
        except OSError:
            pass  # the client went away
