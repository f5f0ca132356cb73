"""What is finished: a file beside the output that keeps the results, so that an interrupted run goes on.

The first line says which run this is. Every other line is a finished block: a checksum, the place of the block's first
text, how many texts and tokens it has and how many rows failed, and its results as JSON. Blocks are appended as they
are finished; a line that was cut short, or is damaged, is removed with all that follows it.
"""
import contextlib
import json
import os
import stat
import zlib
from typing import Any

Result = dict[str, Any] | list[dict[str, Any]]  # what is added to a text's row, or one dict for each of its rows


def rows_of(result: Result) -> list[dict[str, Any]]:
    """The added columns of each row that a text has in the output."""
    return result if isinstance(result, list) else [result]


class Journal:
    """The finished blocks of a run, a dictionary {place of the first text: results} on disk.

    Args:
        path: of the file; it is made where it does not exist.
        head: what decides about the results. It must be what the file was begun with, but for drawn_seed.

    Attributes:
        head: the one that the file was begun with.
        n_texts, n_tokens, n_failed: of all finished blocks.

    Raises:
        OSError: the file is a link, a named pipe or the like, or somebody else's.
        ValueError: the file belongs to another run.
    """

    def __init__(self, path: str, head: dict[str, Any]):
        self.path, self.head = path, head
        self.blocks: dict[int, tuple[int, int, int]] = {}  # place -> number of texts; offset and length of the results
        self.n_texts = self.n_tokens = self.n_failed = 0
        self.file = open_own(path)
        try:
            self.end = self._read()
            os.ftruncate(self.file, self.end)
            if self.end == 0:
                self._append(json.dumps(head).encode() + b"\n")
        except BaseException:
            self.close()
            raise

    def _read(self) -> int:
        """Find the blocks in the file; returns where the last whole one ends."""
        end = 0
        with open(self.file, "rb", closefd=False) as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if end == 0:
                    self._check_head(line)
                else:
                    checksum, _, block = line.partition(b" ")
                    if checksum != checksum_of(block):
                        break
                    self._count(block, end + len(line))
                end += len(line)
        return end

    def _check_head(self, line: bytes) -> None:
        try:
            old, new = dict(json.loads(line)), json.loads(json.dumps(self.head))
        except (ValueError, TypeError):
            raise ValueError(f"{self.path} is not the unfinished work of a run: move it away, or begin anew with "
                             "--overwrite") from None
        different = [name for name in new if name != "drawn_seed" and old.get(name) != new[name]]
        if different:
            differences = ", ".join(f"{name} was {old.get(name)!r} and is {new[name]!r}" for name in different[:3])
            raise ValueError(f"{self.path} is the unfinished work of another run: {differences}. Finish that one with "
                             "its own options, or begin anew with --overwrite")
        self.head = old

    def _count(self, block: bytes, end: int) -> None:
        """Take note of a block that ends at this offset of the file."""
        place, n_texts, n_tokens, n_failed, results = block.split(b" ", 4)
        self.n_texts, self.n_tokens = self.n_texts + int(n_texts), self.n_tokens + int(n_tokens)
        self.n_failed += int(n_failed)
        self.blocks[int(place)] = int(n_texts), end - len(results), len(results)

    def _append(self, data: bytes) -> None:
        """Append whole or not at all, however the disk is filled."""
        try:
            written = 0
            while written < len(data):
                os.lseek(self.file, self.end + written, os.SEEK_SET)
                written += os.write(self.file, data[written:])
        except OSError:
            os.ftruncate(self.file, self.end)
            raise
        self.end += len(data)

    def end_of(self, place: int) -> int:
        """The place after the finished block that begins here; `place` itself if none does."""
        return place + self.blocks.get(place, (0,))[0]

    def __setitem__(self, place: int, results: list[Result]) -> None:
        rows = [row for result in results for row in rows_of(result)]
        n_tokens, n_failed = sum(row.get("n_tokens", 0) for row in rows), sum("error" in row for row in rows)
        block = f"{place} {len(results)} {n_tokens} {n_failed} {json.dumps(results)}\n".encode()
        self._append(checksum_of(block) + b" " + block)
        self._count(block, self.end)

    def __getitem__(self, place: int) -> list[Result]:
        _, offset, length = self.blocks[place]
        with open(self.file, "rb", closefd=False) as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise OSError(f"{self.path} became shorter while it was in use")
        return json.loads(data)

    def close(self) -> None:
        os.close(self.file)


def open_own(path: str) -> int:
    """Open a file for reading and writing, a regular one that is the user's own; OSError if it is anything else.

    In a folder where others may write, a link would have another file changed, and a named pipe would wait for ever.
    """
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with contextlib.suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    check_own(path)
    file = os.open(path, flags)
    if not os.path.samestat(os.fstat(file), os.lstat(path)):
        os.close(file)
        raise OSError(f"{path} was replaced while it was opened")
    return file


def check_own(path: str) -> None:
    """OSError unless a path is a regular file with one name that belongs to the user."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(f"{path} is not a regular file with a single name, but a link or the like: remove it")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to another user: give another name for the output")


def checksum_of(block: bytes) -> bytes:
    return b"%08x" % zlib.crc32(block)
