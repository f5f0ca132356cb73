"""Download a file over HTTP, whatever the network does.

A download asks for the bytes that are missing, checks the answer, writes what comes to NAME.part, tries again after a
temporary failure, verifies the whole file and only then gives it its name.
"""
import contextlib
import json
import logging
import os
import re
import shutil
import stat
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from io import FileIO
from pathlib import Path

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # seconds
ATTEMPTS, BACKOFF = 5, 1.0  # tries in a row without progress; seconds before the second, doubled for each further one
MAX_WAIT = 60  # seconds: a server that asks for more time than this (Retry-After) is given up at once
CHUNK = 2**14  # bytes per read, at most
WEB_PAGE_TYPES = ("text/html", "application/xhtml+xml", "text/xml", "application/xml")


def download(url: str, path: Path, *, sha256: str | None = None, length: int | None = None, max_length: int = 2**24,
             check: Callable[[Path], object] | None = None) -> None:
    """Download `url` to `path`, which appears under its name when it is complete and verified.

    Until then it grows in NAME.part, from which the next try resumes, in this run or a later one.

    Args:
        url: an http:// or https:// address; a password in it is not repeated in messages.
        path: Path of the file.
        sha256: its SHA-256 in hex, if known.
        length: its length in bytes, if known.
        max_length: the largest length in bytes that is accepted.
        check: function that gets the path of the complete file and raises ValueError if its content is wrong.

    Raises:
        ConnectionError: the server cannot be reached, or keeps failing.
        OSError: the server refuses the file or sends something else, or the file cannot be written.
    """
    partial = Partial(path)
    try:
        version = _fetch(url, partial, length, max_length)
    except KeyboardInterrupt:
        logger.warning(f"{path.name}: interrupted{partial.outlook()}")
        raise
    try:
        _verify(partial.path, version, sha256, length, check)
    except ValueError as error:
        partial.remove()
        raise _refusal(url, f"{error}; it was removed, and the next run tries again") from None
    partial.publish(path)


def without_password(url: str) -> str:
    """`url` without the user and password that it may hold, for messages."""
    return re.sub(r"//[^/]*@", "//", url)


class Partial:
    """The beginning of a file, NAME.part, and a note of which version of the file it belongs to, NAME.part.json.

    The version is a dict: length in bytes and Content-MD5 (None if unknown), ETag and Last-Modified as the server sent
    them. Without a version that fits, the beginning is worthless. The folder may be one that others write to, so
    symlinks, FIFOs and files that have a second name are never opened; what is there is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.note = (path.with_name(path.name + suffix) for suffix in (".part", ".part.json"))

    def size(self) -> int:
        """Bytes that are there."""
        with contextlib.suppress(OSError), open(self.path, "rb", opener=_open_regular) as file:
            return os.fstat(file.fileno()).st_size
        return 0

    def version(self) -> dict | None:
        """The version that NAME.part belongs to, or None."""
        try:
            with open(self.note, "rb", opener=_open_regular) as file:
                version = json.loads(file.read(2**16))
        except (OSError, ValueError, RecursionError):
            return None
        is_one = isinstance(version, dict) and version.keys() == {"length", "md5", "ETag", "Last-Modified"}
        return version if is_one else None

    def resumes_at(self, version: dict | None) -> int:
        """Where the next try begins: 0 also where the file's length is unknown, since the rest has no end then."""
        return self.size() if version and version["length"] else 0

    def outlook(self) -> str:
        """For the end of a message: that the next run resumes, if it does."""
        return "; what came is kept, and the next run resumes from there" if self.resumes_at(self.version()) else ""

    def start(self, version: dict) -> None:
        self.remove()
        with open(self.note, "x", encoding="utf-8") as file:  # "x" creates the file or fails, it follows no symlink
            json.dump(version, file)
        open(self.path, "xb").close()

    def append(self) -> FileIO:
        """NAME.part, opened for appending, unbuffered: what was written stays, however the process ends."""
        return open(self.path, "ab", buffering=0, opener=_open_regular)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def publish(self, path: Path) -> None:
        """Give the complete file its name, as the last step: a kill before it leaves the next run something to do."""
        with self.append() as file:
            os.fsync(file.fileno())  # the name must not survive a power cut that the content does not
        self.note.unlink(missing_ok=True)
        os.replace(self.path, path)


def _open_regular(path, flags):
    """An opener for `open` that accepts nothing but a regular file with a single name, and does not wait for a FIFO."""
    fd = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise OSError(f"{path} is not a regular file of its own: remove it")
    return fd


# --- ask, and ask again -------------------------------------------------------------------------


class _TryAgain(Exception):
    """A temporary failure."""

    def __init__(self, reason, *, unreachable=False, retry_after=0):
        super().__init__(reason)
        self.unreachable, self.retry_after = unreachable, retry_after  # bool; seconds that the server asks to wait


def _fetch(url, partial, length, max_length):
    """Fetch what `partial` lacks, in as many tries as it takes. Returns the file's version."""
    where, tries, furthest = without_password(url), 0, partial.size()
    while True:
        try:
            return _try(url, partial, length, max_length)
        except _TryAgain as failure:
            if failure.unreachable and not tries:  # later, the network may take a moment to come back
                raise ConnectionError(f"cannot reach {where}: {failure}") from None
            size = partial.size()
            tries, furthest = (1, size) if size > furthest else (tries + 1, furthest)
            if failure.retry_after > MAX_WAIT or tries >= ATTEMPTS:
                count = "1 try" if tries == 1 else f"{tries} tries"
                wait = f", and the server asks to wait {failure.retry_after:,.0f} s" if failure.retry_after else ""
                raise ConnectionError(f"{where}: gave up after {count}: {failure}{wait}{partial.outlook()}") from None
            delay = max(BACKOFF * 2 ** (tries - 1), failure.retry_after)
            logger.warning(f"{partial.path.stem}: {failure}; trying again in {delay:g} s")
            time.sleep(delay)


def _try(url, partial, length, max_length):
    """One try: ask for the missing bytes, check the answer, write what comes. Returns the file's version."""
    version = partial.version()
    start = partial.resumes_at(version)
    if start and start == version["length"]:
        return version
    with _ask(url, start) as response:
        resumes = start and response.status_code == 206 and _fits(response.headers, start, version)
        if start and not resumes and response.status_code in (206, 416):  # it has another version, or bad ranges
            partial.remove()
            return _try(url, partial, length, max_length)
        _check_answer(url, response, resumes)
        if not resumes:
            version = {"length": response.raw.length_remaining, "md5": response.headers.get("Content-MD5"),
                       **{name: response.headers.get(name) for name in ("ETag", "Last-Modified")}}
            start = 0
        _check_size(url, partial.path, start, version["length"], length, max_length)
        if not resumes:
            partial.start(version)
        size = _write(url, response, partial, start, version["length"] or length, max_length)
    if version["length"] is None and response.headers.get("Transfer-Encoding"):  # chunks say where they end
        version["length"] = size
    if version["length"] not in (None, size):
        raise _TryAgain(f"got {size:,} of {version['length']:,} bytes")
    return version


def _ask(url, start):
    """Request the file from byte `start` on; the response's body is still to be read."""
    import requests

    def drop_body(response, **_):
        if response.is_redirect:
            response.close()  # requests would read the whole body into memory, and it may have no end

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with _network_errors(url):
        return requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                            hooks={"response": drop_body})


def _fits(headers, start, version):
    """Whether an answer has the bytes from `start` on of the same version of the file."""
    span = headers.get("Content-Range", "")
    return (span.startswith(f"bytes {start}-") and span.endswith(f"/{version['length']}")
            and all(headers.get(name) == version[name] for name in ("ETag", "Last-Modified")))


def _check_answer(url, response, resumes):
    """Raise OSError if the answer is not the file, `_TryAgain` if a later one may be."""
    status = response.status_code
    phrase = f"{status} {HTTPStatus(status).phrase}" if status in [*HTTPStatus] else str(status)
    kind, content, transfer = (response.headers.get(name, "").partition(";")[0].strip().lower() for name in
                               ("Content-Type", "Content-Encoding", "Transfer-Encoding"))
    if status == 511 or (status == 200 and kind in WEB_PAGE_TYPES):  # 511: Network Authentication Required
        raise _refusal(url, "a web page came instead of the file; if this network wants you to log in, open a browser "
                            "and do so")
    if status in (408, 429) or status >= 500:
        raise _TryAgain(f"the server answers {phrase}", retry_after=_retry_after(response))
    if status != 200 and not resumes:
        raise _refusal(url, f"the server answers {phrase}")
    if content not in ("", "identity") or transfer not in ("", "identity", "chunked"):
        raise _refusal(url, f"the server sends the file in an encoding that was not asked for, {content or transfer!a}")


def _retry_after(response):
    """Seconds that the server asks to wait, 0 if it does not."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().get_retry_after(response.raw) or 0
    except (InvalidHeader, ValueError, OverflowError):
        return 0


def _check_size(url, path, start, announced, length, max_length):
    """OSError if the file is longer than it may be, or than there is room for."""
    if announced is None:
        return
    if announced > max_length or length not in (None, announced):
        right = f"at most {max_length:,}" if announced > max_length else f"{length:,}"
        raise _refusal(url, f"the server announces {announced:,} bytes, but the file has {right}")
    free = shutil.disk_usage(path.parent).free
    if announced - start > free:
        raise OSError(f"{path.parent}: {without_password(url)} needs {announced - start:,} bytes, only {free:,} are "
                      "free on this disk; make room or choose another models_dir")


def _write(url, response, partial, start, total, max_length):
    """Append the body to `partial`, from `start` on, and show how far it is. Returns the new size."""
    from tqdm import tqdm

    size, end = start, min(total or max_length, max_length)
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=partial.path.stem,
              disable=sys.stderr is None) as bar:
        with partial.append() as file, _network_errors(url):
            while block := response.raw.read1(CHUNK):  # read() would lose what it has when the connection breaks
                size += len(block)
                bar.update(len(block))
                if size > end:
                    file.close()
                    partial.remove()
                    raise _refusal(url, f"the server sends more than {end:,} bytes; what came was removed")
                try:
                    while block:
                        block = block[file.write(block) :]
                except OSError as error:
                    raise OSError(f"{partial.path} cannot be written: {error.strerror}{partial.outlook()}") from None
    return size


# --- verify -------------------------------------------------------------------------------------


def _verify(path, version, sha256, length, check):
    """ValueError unless the complete file at `path` is what it should be."""
    if version["length"] is None and length is None and not sha256 and not version["md5"]:
        raise ValueError("the server sends neither the length nor a checksum, so the file may be incomplete")
    size = path.stat().st_size
    if length not in (None, size):
        raise ValueError(f"{size:,} bytes came, but the file has {length:,}")
    for kind, expected in (("sha256", sha256), ("md5", version["md5"])):
        if expected and expected not in ((found := digest(path, kind)).hex(), b64encode(found).decode()):
            raise ValueError(f"the {kind.upper()} checksum is wrong: the file was damaged on the way or is another one")
    if check:
        try:
            check(path)
        except ValueError as error:
            raise ValueError(f"what came is not this file: {error}") from None


def digest(path: Path, kind: str = "sha256") -> bytes:
    """The checksum of a file of any size."""
    import hashlib  # it loads OpenSSL

    found = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while data := file.read(2**20):
            found.update(data)
    return found.digest()


# --- failures in words --------------------------------------------------------------------------


def _refusal(url, reason):
    return OSError(f"{without_password(url)}: {reason}; GPT2_BASE_URL can name another server")


@contextlib.contextmanager
def _network_errors(url):
    """Turn what requests and urllib3 raise into `_TryAgain`, or into OSError if another try cannot help."""
    import ssl

    import requests
    from requests.utils import get_environ_proxies, select_proxy
    from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError

    try:
        yield
    except (requests.RequestException, HTTPError, ValueError) as error:
        causes = list(_causes(error))
        cause = causes[-1]
        is_final = isinstance(error, (ValueError, requests.TooManyRedirects))  # ValueError: a bad address
        reason = without_password(getattr(cause, "strerror", None) or f"{type(cause).__name__}: {cause}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason, is_final = (f"the server's certificate is not trusted ({cause.verify_message}); if you trust it, "
                                "REQUESTS_CA_BUNDLE names a file with its certificate"), True
        elif any(isinstance(cause, ReadTimeoutError) for cause in causes):
            reason = f"nothing came for {READ_TIMEOUT:g} s"
        elif isinstance(error, requests.exceptions.ProxyError):
            is_final = bool(re.search("Tunnel connection failed: 4(?!08|29)", reason))  # the words of http.client
            reason = f"the proxy {without_password(select_proxy(url, get_environ_proxies(url)) or '')}: {reason}"
        reason = "".join(character if character.isprintable() else "?" for character in reason[:300])
        if is_final:
            raise _refusal(url, reason) from None
        raise _TryAgain(reason, unreachable=any(isinstance(cause, (NewConnectionError, requests.ConnectTimeout))
                                                for cause in causes)) from None


def _causes(error):
    """`error` and the errors inside it, outermost first: requests and urllib3 wrap each error that they pass on."""
    while error is not None:
        yield error
        wrapped = [argument for argument in error.args if isinstance(argument, BaseException)]
        error = error.__cause__ or (wrapped[0] if wrapped else error.__context__)
