"""A Hugging Face Hub on this machine: what huggingface_hub asks of one, and the faults of a network."""
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves models on 127.0.0.1 as huggingface.co does.

    Attributes:
        models: dict {"owner/name": {file name: bytes}}.
        commit: str, the commit that `main` is.
        errors: dict {"owner/name": (status, X-Error-Code)} of models that are refused.
        cut: dict {file name: list of int}; each download of the file takes the first of its list and closes the
            connection after so many bytes.
        requests: list of (method, path, Range header or None), as they came.
        url: str, for HF_ENDPOINT.
    """

    def __init__(self, models):
        self.models, self.commit, self.errors, self.cut, self.requests = models, COMMIT, {}, {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.serve(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fetched(self):
        """The names of the files that were downloaded, in order."""
        return [path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]

    def serve(self, handler):
        path = urlsplit(handler.path).path
        self.requests.append((handler.command, path, handler.headers["Range"]))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:|/(revision|tree)/[^/]+)|"
                             r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        name = match and (match[1] or match[3])
        status, code = self.errors.get(name, (404, "RepoNotFound") if name not in self.models else (200, None))
        if status != 200:
            return self.answer(handler, status, b"", {"X-Error-Code": code, "X-Error-Message": f"{code}: no"})
        files = self.models[name]
        if match[1] and match[2] != "tree":
            content = {"id": name, "sha": self.commit, "siblings": [{"rfilename": file} for file in files]}
            return self.answer(handler, 200, json.dumps(content).encode())
        if match[2] == "tree":
            content = [{"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                       for file, data in files.items()]
            return self.answer(handler, 200, json.dumps(content).encode())
        if match[4] not in files:
            return self.answer(handler, 404, b"", {"X-Error-Code": "EntryNotFound"})
        self.send_file(handler, match[4], files[match[4]])

    def send_file(self, handler, name, data):
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.commit}
        start = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        status, start = (206, int(start[1])) if start else (200, 0)
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.cut[name].pop(0) if handler.command == "GET" and self.cut.get(name) else None
        self.answer(handler, status, data[start:], headers, cut)

    def answer(self, handler, status, body, headers=(), cut=None):
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **dict(headers)}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body[:cut])
        if cut is not None:
            handler.close_connection = True
