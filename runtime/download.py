"""Download a file over HTTP, whatever the network does."""
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import time

from runtime.terminal import notice

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # seconds
ATTEMPTS, BACKOFF = 5, 1.0  # tries without a byte of progress; seconds before the second one, doubled each time
CHUNK = 2**14  # bytes that are read at once: what is left of them is lost when the connection breaks


def download(url, path, sha256):
    """Fetch `url` to `path`, trying again after transient failures; raises as `utils.download_gpt2_files`."""
    import requests
    from urllib3.exceptions import LocationParseError, NewConnectionError

    partial = path.with_name(path.name + ".part")
    tries, furthest = 0, _size(partial)
    while True:
        try:
            told = _download_rest(url, partial)
            break
        except LocationParseError as error:
            raise OSError(f"{url}: {error}") from None
        except requests.RequestException as error:
            reason = getattr(error.args[0] if error.args else error, "reason", error)
            reason = getattr(reason, "original_error", reason)  # behind a proxy
            unreachable = isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout)
            response = getattr(error, "response", None)
            status = response.status_code if response is not None else None
            if status is not None and status != 429 and status < 500:
                raise OSError(f"{url}: the server answers {status} {response.reason}; GPT2_BASE_URL says where to "
                              "look") from None
            # The connection may break while TLS greets, too: only a certificate that is not trusted stays so.
            if "CERTIFICATE_VERIFY_FAILED" in str(error) or isinstance(error, (
                    requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
                    requests.exceptions.MissingSchema)):
                raise OSError(f"{url}: {reason}") from None
            why = f"{status} {response.reason}" if status else _short(reason)
            if unreachable and not tries:  # after a break the network may take a moment to come back
                raise ConnectionError(f"cannot reach {url}: {why}") from None
            size = _size(partial)
            tries, furthest = (1, size) if size > furthest else (tries + 1, furthest)
            if tries >= ATTEMPTS:
                raise ConnectionError(f"{url}: gave up after {ATTEMPTS} tries: {why}; what came is kept, the next "
                                      "run goes on from there") from None
            delay = BACKOFF * 2 ** (tries - 1)
            notice(f"{path.name}: {why}; trying again in {delay:g} s")
            time.sleep(delay)
    if told["length"] is None and not sha256 and not told["md5"]:
        _remove_partial(partial)
        raise OSError(f"{url}: the server tells neither length nor checksum, so nobody can say whether the file is "
                      "whole; GPT2_BASE_URL says where to look")
    for kind, expected in (("sha256", sha256), ("md5", told["md5"])):
        if expected and expected not in _digest(partial, kind):
            _remove_partial(partial)
            raise OSError(f"{url}: the {kind.upper()} checksum of what came is wrong (the file was damaged on the way "
                          "or is another one); it was removed, try again")
    os.replace(partial, path)
    _remove_partial(partial)


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _download_rest(url, partial):
    """One try: fetch what `partial` lacks. Returns what the server told of the file, a dict with length, md5, ...

    What was told when its first byte came lies in `partial`.json: a server that says otherwise now has another
    version, and that is fetched from its start.
    """
    import requests
    from tqdm import tqdm

    said = partial.with_name(partial.name + ".json")
    told, have = {}, 0
    with contextlib.suppress(OSError, ValueError):
        told, have = json.loads(said.read_text(encoding="utf-8")), _size(partial)
    if not isinstance(told, dict) or told.keys() != {"length", "md5", "ETag", "Last-Modified"}:
        told, have = {}, 0
    if have and have == told["length"]:
        return told
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        rest = response.status_code == 206 and span and int(span[1]) == have > 0 and int(span[2]) == told["length"] \
            and all(response.headers.get(name) == told[name] for name in ("ETag", "Last-Modified"))
        if have and not rest and response.status_code in (206, 416):
            _remove_partial(partial)
            return _download_rest(url, partial)
        if response.status_code != 200 and not rest:
            raise requests.HTTPError(response=response)
        if "text/html" in response.headers.get("Content-Type", ""):
            raise OSError(f"{url}: a web page came instead of the file; a network that wants a login answers so: open "
                          "a browser and try again")
        if not rest:  # the whole file: the first try, or a server without ranges
            have = 0
            # Whom nobody asked to compress and who does it all the same, tells length and checksum of something else.
            plain = response.headers.get("Content-Encoding", "identity") == "identity"
            length = response.headers.get("Content-Length", "")
            told = {"length": int(length) if plain and length.isdigit() else None,
                    "md5": plain and response.headers.get("Content-MD5") or None,
                    "ETag": response.headers.get("ETag"), "Last-Modified": response.headers.get("Last-Modified")}
            _remove_partial(partial)
        length = told["length"]
        free = shutil.disk_usage(partial.parent).free
        if length is not None and length - have > free:
            raise OSError(f"{partial.parent}: {url} needs {length - have:,} bytes, only {free:,} are free on this "
                          "disk; make room or choose another --models_dir")
        try:
            if not rest:
                said.write_text(json.dumps(told), encoding="utf-8")
            with open(partial, "ab") as file, tqdm(total=length, initial=have, unit="B", unit_scale=True,
                                                   desc=partial.stem) as bar:
                for data in response.iter_content(CHUNK):
                    file.write(data)
                    bar.update(len(data))
                have = file.tell()
                file.flush()
                os.fsync(file.fileno())  # the name must not outlive a power cut that the content does not
        except (requests.RequestException, BrokenPipeError):  # BrokenPipeError: nobody watches the progress bar
            raise
        except OSError as error:
            raise OSError(f"{partial} cannot be written ({error.strerror or error}): what came is kept, the next run "
                          "goes on from there") from None
    if length is None and response.headers.get("Transfer-Encoding") == "chunked":
        told["length"] = have  # the last chunk says that it is the last
    if length is not None and have != length:
        raise requests.ConnectionError(f"got {have:,} of {length:,} bytes")
    return told


def _remove_partial(partial):
    for path in (partial, partial.with_name(partial.name + ".json")):
        path.unlink(missing_ok=True)


def _digest(path, kind):
    """The checksum of a file as it is written: in hex, and in the base64 of Content-MD5."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest(), base64.b64encode(digest.digest()).decode()


def _short(error):
    """What went wrong, out of a network error's text: its last phrase, without the objects that it is wrapped in."""
    phrases = re.findall(r"[^'\"()<>]{8,}", str(error))
    return phrases[-1].strip(":, ") if phrases else repr(error)
