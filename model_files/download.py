"""Download a file over HTTP, whatever the network does.

A download asks for the bytes that are missing, checks the answer, writes what comes to NAME.part, tries again after a
failure that may pass, verifies the whole file and only then gives it its name.
"""
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
from base64 import b64encode
from collections.abc import Callable
from io import FileIO
from pathlib import Path

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # seconds
ATTEMPTS, BACKOFF = 5, 1.0  # tries in a row without progress; seconds before the second, doubled for each further one
MAX_WAIT = 60  # seconds: a server that asks for more time than this (Retry-After) is given up at once
CHUNK = 2**14  # bytes per read, at most
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|\?xml|html|head|body|script|title)", re.IGNORECASE)
WEB_PAGE_TYPES = ("text/html", "application/xhtml+xml", "text/xml", "application/xml")
A_WEB_PAGE = "a web page came instead of the file; if this network wants you to log in, open a browser and do so"
OTHER_SERVER = "GPT2_BASE_URL can name another server"
KEPT = "what came is kept, and the next run resumes from there"


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
        _verify(partial.path, version, sha256, length, check)
    except _WrongFile as error:
        partial.remove()
        raise OSError(f"{without_password(url)}: {error}; it was removed. Try again; {OTHER_SERVER}") from None
    partial.publish(path)


def without_password(url: str) -> str:
    """`url` without the user and password that it may hold, for messages."""
    return re.sub(r"//[^/]*@", "//", url)


class _TryAgain(Exception):
    """A failure that may pass."""

    def __init__(self, reason, *, unreachable=False, retry_after=0):
        super().__init__(reason)
        self.unreachable, self.retry_after = unreachable, retry_after  # bool; seconds that the server asks to wait


class _WrongFile(Exception):
    """What came is not the file."""


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
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 else 0

    def version(self) -> dict | None:
        """The version that NAME.part belongs to, or None."""
        try:
            with open(self.note, "rb", opener=_open_regular) as file:
                version = json.loads(file.read(2**16))
        except (OSError, ValueError, RecursionError):
            return None
        is_one = isinstance(version, dict) and version.keys() == {"length", "md5", "ETag", "Last-Modified"}
        return version if is_one else None

    def start(self, version: dict) -> None:
        """Begin anew with `version`."""
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
        """Give the complete file its name.

        That is the last step, so that a kill at any moment leaves the next run something to do: if the note went last,
        one that a kill spared would stay for ever, as nothing looks for it beside a complete file.
        """
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


# --- try, and try again -------------------------------------------------------------------------


def _fetch(url, partial, length, max_length):
    """Fetch what `partial` lacks, in as many tries as it takes. Returns the file's version."""
    where, tries, furthest = without_password(url), 0, partial.size()
    while True:
        try:
            return _try(url, partial, length, max_length)
        except _TryAgain as failure:
            if failure.unreachable and not tries:  # later, the network may take a moment to come back
                raise ConnectionError(f"cannot reach {where}: {failure}") from None
            if failure.retry_after > MAX_WAIT:
                raise ConnectionError(f"{where}: {failure}, and the server asks to wait {failure.retry_after:,.0f} s: "
                                      f"try again then; {KEPT}") from None
            size = partial.size()
            tries, furthest = (1, size) if size > furthest else (tries + 1, furthest)
            if tries >= ATTEMPTS:
                raise ConnectionError(f"{where}: gave up after {ATTEMPTS} tries: {failure}; {KEPT}") from None
            delay = max(BACKOFF * 2 ** (tries - 1), failure.retry_after)
            logger.warning(f"{partial.path.stem}: {failure}; trying again in {delay:g} s")
            time.sleep(delay)


def _try(url, partial, length, max_length):
    """One try: ask for the missing bytes, check the answer, write what comes. Returns the file's version."""
    from tqdm import tqdm

    version = partial.version()
    start = partial.size() if version and version["length"] else 0  # without a length there is no end to resume to
    if start and start == version["length"]:
        return version
    with _ask(url, start) as response:
        resumes = _resumes(response, start, version)
        if start and not resumes and response.status_code in (206, 416):  # it has another version, or bad ranges
            partial.remove()
            return _try(url, partial, length, max_length)
        _check_answer(url, response, resumes)
        if not resumes:
            version, start = _version(url, response), 0
        _check_length(url, version["length"], length, max_length)
        _check_room(url, partial.path, (version["length"] or 0) - start)
        if not resumes:
            partial.start(version)
        total = version["length"] or length
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=partial.path.stem) as bar:
            size = _write(_blocks(url, response), partial, start, min(total or max_length, max_length), bar)
        if version["length"] is None and (_chunked(response) or _compressed(response)):  # both say where they end
            version["length"] = size
    if version["length"] is not None and size != version["length"]:
        raise _TryAgain(f"got {size:,} of {version['length']:,} bytes")
    return version


# --- ask ----------------------------------------------------------------------------------------


def _ask(url, start):
    """Request the file from byte `start` on; the response's body is still to be read."""
    import requests

    redirects = []

    def note_redirect(response, **_):
        if response.is_redirect:
            redirects.append(_printable(response.headers["Location"]))
            response.close()  # requests would read the whole body into memory, and it may have no end

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with _network_errors(url):
        try:
            return requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                                hooks={"response": note_redirect})
        except requests.TooManyRedirects:
            raise _refusal(url, "the server redirects in circles") from None
        except ValueError as error:  # an address that is none, or a header that makes no sense
            reason = f"the server redirects to {redirects[-1]!r}: " if redirects else ""
            raise _refusal(url, reason + _printable(error)) from None


# --- check the answer ---------------------------------------------------------------------------


def _resumes(response, start, version):
    """Whether the answer has exactly the bytes from `start` to the end of the same version of the file."""
    span = re.fullmatch("bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", response.headers.get("Content-Range", ""))
    if not start or response.status_code != 206 or not span or _compressed(response):
        return False
    first, last, total = map(int, span.groups())
    return (first == start and total == version["length"]
            and response.headers.get("Content-Length") in (None, str(last - first + 1))
            and all(response.headers.get(name) == version[name] for name in ("ETag", "Last-Modified")))


def _check_answer(url, response, resumes):
    """Raise OSError if the answer is not the file, `_TryAgain` if a later one may be."""
    status, phrase = response.status_code, _status(response.status_code)
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if status == 511 or (status == 200 and content_type in WEB_PAGE_TYPES):  # 511: Network Authentication Required
        raise OSError(f"{without_password(url)}: {A_WEB_PAGE}, then try again")
    if status in (408, 429) or status >= 500:
        raise _TryAgain(phrase, retry_after=_retry_after(response))
    if status == 407:
        raise OSError(f"{without_password(url)}: {_proxy(response.request.url)} answers {phrase}; put the user and "
                      "password into http_proxy and https_proxy")
    if status != 200 and not resumes:
        raise _refusal(url, f"the server answers {phrase}")
    transfer, content = (response.headers.get(name, "identity").strip().lower() for name in
                         ("Transfer-Encoding", "Content-Encoding"))
    if transfer not in ("identity", "chunked") or content not in ("identity", "gzip", "x-gzip"):
        raise _refusal(url, "the server sends the file in an encoding that was not asked for (Transfer-Encoding "
                            f"{_printable(transfer)}, Content-Encoding {_printable(content)})")


def _refusal(url, reason):
    return OSError(f"{without_password(url)}: {reason}; {OTHER_SERVER}")


def _status(code):
    """An HTTP status in words, not in those of the server, which could be anything."""
    from http.client import responses

    return f"{code} {responses.get(code, '')}".strip()


def _retry_after(response):
    """Seconds that the server asks to wait, 0 if it does not."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().get_retry_after(response.raw) or 0
    except (InvalidHeader, ValueError, OverflowError):
        return 0


def _chunked(response):
    return response.headers.get("Transfer-Encoding", "").strip().lower() == "chunked"


def _compressed(response):
    return response.headers.get("Content-Encoding", "identity").strip().lower() != "identity"


def _version(url, response):
    """What the server says about the file that it begins to send; see `Partial`."""
    length, md5 = response.headers.get("Content-Length"), response.headers.get("Content-MD5")
    if length is not None:
        lengths = {value.strip() for value in length.split(",")}  # the header may come twice
        length = lengths.pop()
        if lengths or not re.fullmatch("[0-9]{1,19}", length):
            raise _refusal(url, "the server sends a Content-Length that is no length: "
                                f"{_printable(response.headers['Content-Length'])!r}")
    if _compressed(response):  # then both are about the compressed file
        length = md5 = None
    if _chunked(response):  # RFC 9112, 6.3: a length beside it is to be ignored
        length = None
    return {"length": None if length is None else int(length), "md5": md5,
            "ETag": response.headers.get("ETag"), "Last-Modified": response.headers.get("Last-Modified")}


def _check_length(url, announced, length, max_length):
    if announced is None:
        return
    if length is not None and announced != length:
        raise _refusal(url, f"the server announces {announced:,} bytes, but the file has {length:,}")
    if announced > max_length:
        raise _refusal(url, f"the server announces {announced:,} bytes, but the file has at most {max_length:,}")


def _check_room(url, path, n_bytes):
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise OSError(f"{path.parent}: {without_password(url)} needs {n_bytes:,} bytes, only {free:,} are free on this "
                      "disk; make room or choose another models_dir")


# --- write --------------------------------------------------------------------------------------


def _blocks(url, response):
    """The body in blocks of at most CHUNK bytes, each as soon as it comes, decompressed."""
    import gzip
    import zlib

    # gzip checks that its stream is complete, urllib3's decoder does not.
    body = gzip.GzipFile(fileobj=response.raw, mode="rb") if _compressed(response) else response.raw
    with _network_errors(url):
        try:
            while block := body.read1(CHUNK):  # read() would wait for a full block and lose what it has in a break
                yield block
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise _TryAgain("the compressed file is cut short or damaged") from None


def _write(blocks, partial, size, end, bar):
    """Append blocks to `partial`, from `size` to at most `end` bytes, and advance `bar`. Returns the new size."""
    with partial.append() as file:
        for block in blocks:
            if size + len(block) > end:
                raise _WrongFile(f"the server sends more than {end:,} bytes")
            try:
                left = memoryview(block)
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                raise OSError(f"{partial.path} cannot be written ({error.strerror or error}): {KEPT}") from None
            size += len(block)
            bar.update(len(block))
    return size


# --- verify -------------------------------------------------------------------------------------


def _verify(path, version, sha256, length, check):
    """Raise `_WrongFile` unless the complete file at `path` is what it should be."""
    size = path.stat().st_size
    if version["length"] is None and length is None and not sha256 and not version["md5"]:
        raise _WrongFile("the server sends neither the length nor a checksum, so the file may be incomplete")
    with open(path, "rb", opener=_open_regular) as file:
        if WEB_PAGE.match(file.read(1024)):
            raise _WrongFile(A_WEB_PAGE)
    if not size:
        raise _WrongFile("the server sends an empty file")
    if length is not None and size != length:
        raise _WrongFile(f"{size:,} bytes came, but the file has {length:,}")
    for kind, expected in (("sha256", sha256), ("md5", version["md5"])):
        if expected and expected not in _digest(path, kind):
            raise _WrongFile(f"the {kind.upper()} checksum is wrong: the file was damaged on the way or is another one")
    if check:
        try:
            check(path)
        except ValueError as error:
            raise _WrongFile(f"what came is not this file: {error}") from None


def _digest(path, kind):
    """The checksum of a file, as it may be written: in hex, and in the base64 of Content-MD5."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest(), b64encode(digest.digest()).decode()


# --- failures in words --------------------------------------------------------------------------


@contextlib.contextmanager
def _network_errors(url):
    """Turn what requests and urllib3 raise into `_TryAgain`, or into OSError if another try cannot help."""
    import requests
    import urllib3

    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _failure(url, error) from None


def _failure(url, error):
    """The exception to raise for an error of requests or urllib3."""
    import ssl

    import requests
    from urllib3.exceptions import NewConnectionError

    where, causes = without_password(url), list(_causes(error))
    unreachable = any(isinstance(cause, (NewConnectionError, requests.ConnectTimeout)) for cause in causes)
    reason = _reason(causes)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return OSError(f"{where}: {reason}; if you trust it, REQUESTS_CA_BUNDLE names a file with its certificate")
    if not isinstance(error, requests.exceptions.ProxyError):
        return _TryAgain(reason, unreachable=unreachable)
    proxy = _proxy(error.request.url if error.request is not None else url)
    refusal = re.search(r"Tunnel connection failed: (\d{3})", str(causes[-1]))  # the words of http.client
    if refusal and int(refusal[1]) < 500 and int(refusal[1]) not in (408, 429):
        advice = "; put the user and password into https_proxy" if refusal[1] == "407" else ""
        return OSError(f"{where}: {proxy} answers {_status(int(refusal[1]))}{advice}")
    return _TryAgain(f"{proxy} answers {_status(int(refusal[1]))}" if refusal else f"{proxy}: {reason}",
                     unreachable=unreachable)


def _causes(error):
    """`error` and the errors inside it, outermost first: requests and urllib3 wrap each error that they pass on."""
    while error is not None:
        yield error
        wrapped = [argument for argument in error.args if isinstance(argument, BaseException)]
        error = error.__cause__ or (wrapped[0] if wrapped else error.__context__)


def _reason(causes):
    """What went wrong, in a few words, from a list of errors, the outermost first."""
    import http.client
    import ssl

    from urllib3.exceptions import ReadTimeoutError

    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted ({cause.verify_message.rstrip('.')})"
        if isinstance(cause, ssl.SSLError):
            return f"the encrypted connection failed ({(cause.reason or 'no reason given').replace('_', ' ').lower()})"
        if isinstance(cause, http.client.IncompleteRead):
            return "the connection broke" + (f" {cause.expected:,} bytes before the end" if cause.expected else "")
        if isinstance(cause, http.client.RemoteDisconnected):
            return "the server closed the connection without an answer"
        if isinstance(cause, http.client.BadStatusLine):
            return f"the answer is not HTTP, but {_printable(str(cause).strip())!r}"
        if isinstance(cause, ReadTimeoutError):
            return f"nothing came for {READ_TIMEOUT:g} s"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, TimeoutError):
            return f"no answer for {CONNECT_TIMEOUT:g} s"
    return _printable(causes[-1])


def _printable(text):
    """Text from the network, made safe for a terminal: short, on one line, without control characters."""
    text = "".join(char if char.isprintable() else "?" for char in str(text))
    return text if len(text) <= 200 else text[:200] + "..."


def _proxy(url):
    """The name of the proxy through which `url` is asked for."""
    from requests.utils import get_environ_proxies, select_proxy

    return f"the proxy {without_password(select_proxy(url, get_environ_proxies(url)) or '')}".strip()
