"""Text that comes out of a program: streamed, cut at a stop, timed."""
import itertools
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO


def until(pieces: Iterable[str], stop: str | None) -> Iterator[str]:
    """Pieces of text up to where `stop` begins, which may be spread over several of them.

    The end of a piece is held back for as long as it may be the beginning of `stop`.

    Args:
        pieces: iterable of str.
        stop: str, not empty; or None, for all pieces.

    Yields:
        str, never empty.
    """
    if stop is None:
        yield from pieces
        return
    held = ""
    for piece in pieces:
        held += piece
        end = held.find(stop)
        if end < 0:
            end = len(held) - next(n for n in range(len(stop) - 1, -1, -1) if held.endswith(stop[:n]))
        if end:
            yield held[:end]
        if held.startswith(stop, end):
            return
        held = held[end:]
    if held:
        yield held


def print_text(pieces: Iterable[str], before: str = "", number: int | None = None) -> None:
    """Print pieces of text as they come, after the text `before`. What is printed next begins a line on the screen.

    With a number (one of several texts), the number is printed above it, on stderr, and the text ends with a newline.
    """
    if number is not None:
        print(f"{'=' * 30} SAMPLE {number} {'=' * 30}", file=sys.stderr, flush=True)
    text = ""
    for piece in itertools.chain([before], pieces):
        print(piece, end="", flush=True)
        text += piece
    unfinished = text != "" and not text.endswith("\n")
    if number is not None or unfinished and (sys.stdout.isatty() or _same_file(sys.stdout, sys.stderr)):
        print(flush=True)  # else a file or a pipe gets the text and no more
    elif unfinished and sys.stderr.isatty() and _is_pipe(sys.stdout):
        print(file=sys.stderr, flush=True)  # `| tee` shows the text on the same screen


def print_json(**values: object) -> None:
    """Print a dict as one line of JSON, without the values that are None."""
    import json

    given = {name: value for name, value in values.items() if value is not None}
    print(json.dumps(given, ensure_ascii=False), flush=True)


def _same_file(a: TextIO, b: TextIO) -> bool:
    first, second = _status(a), _status(b)
    return first is not None and second is not None and first.st_ino != 0 and os.path.samestat(first, second)


def _is_pipe(stream: TextIO) -> bool:
    status = _status(stream)
    return status is not None and stat.S_ISFIFO(status.st_mode)


def _status(stream: TextIO) -> os.stat_result | None:
    """What the system knows of a stream; of a pipe on Windows, nothing but that it is one: all have the number 0."""
    try:
        return os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is not a file
        return None


class Stopwatch:
    """Counts the tokens that pass through it, and the seconds; as str it is the last line that a program prints."""

    def __init__(self) -> None:
        self.n_tokens, self.first, self.last = 0, 0.0, 0.0
        self.start = time.perf_counter()

    def __call__(self, ids: Iterable[int]) -> Iterator[int]:
        """The same ids, each counted as it comes."""
        for i in ids:
            self.last = time.perf_counter() - self.start
            self.first = self.first if self.n_tokens else self.last
            self.n_tokens += 1
            yield i

    def __str__(self) -> str:
        return (f"{self.n_tokens} token{'s' * (self.n_tokens != 1)} in {self.last:.2f} s "
                f"({self.n_tokens / max(self.last, 1e-9):.1f} tokens/s), the first after {self.first:.2f} s")
