"""The server of the live page, for one person on their own machine."""
import contextlib
import errno
import hmac
import http.server
import json
import os
import re
import secrets
import sys
import threading
from http import HTTPStatus

from inside.explore import Explorer, Interrupted
from inside.page import as_json, page_of
from inside.serve import PORT, TEXT

NEXT_PORTS = 100  # where the port is taken, one of the next 100
MOST_BYTES = 8_000_000  # of a request: far more than any context holds
WAIT = 60  # seconds for a browser that does not go on with its request


class Server(http.server.ThreadingHTTPServer):
    """The live page at `address`: GET gives the page, POST to `see` what it shows, POST to `save` a page in a file.

    It listens on 127.0.0.1 alone. Only someone who knows the address, with its random token, gets an answer, and no
    other site's page: Host and Origin must be the server's own (a page of another site can send requests to it, and a
    name of that site's can lead to 127.0.0.1).

    Args:
        explorer: what answers, one request at a time.
        text: what the page begins with.
        port: where to listen, or one of the next 100 where it is taken; 0 for any that is free.
        token: the address's last part; random if not given.
    """

    daemon_threads = True  # they do not keep a program from ending
    allow_reuse_address = os.name == "posix"  # elsewhere it would allow two servers on one port

    def __init__(self, explorer: Explorer, text: str = TEXT, port: int = PORT, token: str | None = None):
        self.explorer, self.text, self.token = explorer, text, token or secrets.token_urlsafe(16)
        self.one_at_a_time, self.waiting = threading.Lock(), set[int]()
        last = min(port + NEXT_PORTS, 65535)
        for candidate in range(port, last + 1):
            try:
                super().__init__(("127.0.0.1", candidate), Handler)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or candidate == last:
                    raise OSError(f"the port {candidate} cannot be used ({error.strerror}): give another one with "
                                  "--port") from None
        self.hosts = {f"{name}:{self.server_port}".removesuffix(":80") for name in ("127.0.0.1", "localhost")}
        self.address = f"http://127.0.0.1:{self.server_port}/{self.token}/"

    @contextlib.contextmanager
    def turn(self, in_a_hurry: bool = True):
        """Wait for one's turn: the explorer does one thing at a time, and ends measuring for those in a hurry."""
        thread = threading.get_ident()
        if in_a_hurry:
            self.waiting.add(thread)
        with self.one_at_a_time:
            self.waiting.discard(thread)
            yield

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):  # the browser went away: no error
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Server
    protocol_version, timeout = "HTTP/1.1", WAIT
    server_version, sys_version = "lens.py", ""

    def do_GET(self):
        if self.allowed(""):
            with self.server.turn():
                page = page_of(self.server.explorer.see({"text": self.server.text}))
            self.send(HTTPStatus.OK, "text/html; charset=utf-8", page.html)

    def do_POST(self):
        if not self.allowed("see", "measure", "save"):
            return
        explorer, kind = self.server.explorer, "application/json"
        try:
            asked = json.loads(self.rfile.read(self.length()))
            with self.server.turn(in_a_hurry=not self.path.endswith("measure")):
                if self.path.endswith("see"):
                    answer = as_json(explorer.see(asked))
                elif self.path.endswith("measure"):
                    answer = as_json(explorer.measure(asked, lambda: bool(self.server.waiting)))
                else:
                    kind, answer = "text/html; charset=utf-8", explorer.page(asked).html
        except (TypeError, ValueError, RecursionError, MemoryError) as error:
            self.send(HTTPStatus.BAD_REQUEST, "text/plain; charset=utf-8", str(error) or "out of memory")
        except Interrupted:
            self.send(HTTPStatus.OK, kind, '{"interrupted": true}')
        except Exception as error:  # a mistake of the program's: one line for the page, the traceback for the terminal
            self.send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8",
                      f"the server failed ({type(error).__name__}: {error}); see its terminal for details")
            raise
        else:
            self.send(HTTPStatus.OK, kind, answer)

    def length(self):
        """How many bytes the request's body has."""
        n = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", n) or int(n) > MOST_BYTES:
            self.close_connection = True
            raise ValueError(f"a request must say how long it is, at most {MOST_BYTES:,} bytes")
        return int(n)

    def allowed(self, *names):
        """Whether the request is for one of these names at the server's address, and from its own page. If not, it is
        answered."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        _, token, name = ("/" + self.path.lstrip("/")).split("/", 2) if self.path.count("/") > 1 else ("", "", None)
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        own = host in self.server.hosts and origin in (None, f"http://{host}")
        if known and own and name in names:
            return True
        self.close_connection = True  # the rest of the request is not read
        self.send(HTTPStatus.NOT_FOUND if known and own else HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8",
                  "there is nothing here: open the address that lens.py serve has printed")
        return False

    def send(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
                            ("Referrer-Policy", "no-referrer"), ("X-Content-Type-Options", "nosniff"),
                            ("Content-Security-Policy", "frame-ancestors 'none'"),
                            ("Cross-Origin-Resource-Policy", "same-origin")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Nothing: the terminal is for the person, and the address holds the token."""
