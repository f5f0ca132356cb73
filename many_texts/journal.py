"""What is finished: a file beside the output that keeps the result of each block, so that an interrupted run goes on.

The first line says which run this is. Every other line is a finished block: a checksum, the block's number, how many
texts and tokens it has and how many rows failed, and its rows as JSON. Blocks are appended as they are finished; a line
that was cut short, or is damaged, is removed with all that follows it.
"""
import json
import os
import zlib
from typing import Any


class Journal:
    """The finished blocks of a run, a dictionary {number: rows} on disk.

    Args:
        path: str, of the file; it is made where it does not exist.
        head: dict of what decides about the results. It must be what the file was begun with, but for drawn_seed.

    Attributes:
        head: the one that the file was begun with.
        n_texts, n_tokens, n_failed: of all finished blocks.

    Raises:
        ValueError: the file belongs to another run.
    """

    def __init__(self, path: str, head: dict[str, Any]):
        self.path, self.head = path, head
        self.places: dict[int, tuple[int, int]] = {}  # number of a block -> (offset, length) of its rows
        self.n_texts = self.n_tokens = self.n_failed = 0
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            self.end = self._read()
            os.ftruncate(self.file, self.end)
            if self.end == 0:
                self._append(json.dumps(head).encode() + b"\n")
        except BaseException:
            self.close()
            raise

    def _read(self):
        """Find the blocks in the file; returns where the last whole one ends."""
        end = 0
        with open(self.path, "rb") as file:
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

    def _check_head(self, line):
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

    def _count(self, block, end):
        """Take note of a block that ends at this offset of the file."""
        number, n_texts, n_tokens, n_failed, rows = block.split(b" ", 4)
        self.n_texts, self.n_tokens = self.n_texts + int(n_texts), self.n_tokens + int(n_tokens)
        self.n_failed += int(n_failed)
        self.places[int(number)] = end - len(rows), len(rows)

    def _append(self, data):
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

    def __contains__(self, number: int) -> bool:
        return number in self.places

    def __len__(self) -> int:
        return len(self.places)

    def __setitem__(self, number: int, rows: list[dict[str, Any]]) -> None:
        n_tokens, n_failed = sum(row.get("n_tokens", 0) for row in rows), sum("error" in row for row in rows)
        block = f"{number} {len(rows)} {n_tokens} {n_failed} {json.dumps(rows)}\n".encode()
        self._append(checksum_of(block) + b" " + block)
        self._count(block, self.end)

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        offset, length = self.places[number]
        os.lseek(self.file, offset, os.SEEK_SET)
        data = b""
        while len(data) < length:
            part = os.read(self.file, length - len(data))
            if not part:
                raise OSError(f"{self.path} became shorter while it was in use")
            data += part
        return json.loads(data)

    def close(self) -> None:
        os.close(self.file)


def checksum_of(block: bytes) -> bytes:
    return b"%08x" % zlib.crc32(block)
