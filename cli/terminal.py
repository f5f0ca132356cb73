"""A program's terminal: its run from the command line to the exit status, its input, its output.

How a program uses it (`arguments` says how signature and docstring become options and help):

    if __name__ == "__main__":
        from cli.startup import guard_imports

        guard_imports()  # Ctrl-C or a missing package ends the program without a traceback

    import numpy as np
    from cli.terminal import run_command_line

    def main(prompt: str | None = None, n_tokens_to_generate: int = 40, *, temperature: float = 0):
        '''Continue a text.

        Args:
            prompt: the text to continue; without it, what is piped into stdin.
            ...
        '''
        with argument_errors():  # a ValueError in here: exit status 2
            ...
        prompt = read_text(prompt)

    if __name__ == "__main__":
        run_command_line(main, short={"n": "n_tokens_to_generate", "t": "temperature"})
"""
import contextlib
import itertools
import os
import re
import signal
import stat
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import NoReturn

from cli.arguments import CommandLineError, Component, bind, stdin_has_text, unread_bytes
from cli.startup import INTERRUPTED, end_line_of_terminal, exit_interrupted, one_line


def notice(text: object) -> None:
    """Print a line to stderr for the person at the terminal: stdout is for results alone."""
    print(text, file=sys.stderr, flush=True)


# --- run a program ------------------------------------------------------------------------------


def run_command_line(component: Component, arguments: list[str] | None = None,
                     short: dict[str, str] | None = None) -> NoReturn:
    """Run a function, or one of a dict of functions by its name, on the command line's arguments; then exit.

    Errors are one line on stderr. The exit status is 2 for what is wrong on the command line (`argument_errors`), 1 for
    every other error, 130 after Ctrl-C, 141 where the reader of stdout has gone away.

    Args:
        component: function, or dict {command: function}.
        arguments: list of str; None is the process's own.
        short: dict {letter: parameter}, the one-letter options.
    """
    if sys.stderr is None:  # closed by the caller: notices go nowhere
        sys.stderr = open(os.devnull, "w")
    status, guarded = 0, signal.getsignal(signal.SIGINT) is exit_interrupted  # by `guard_imports`
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed: there is nowhere to write to")
        for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=errors)  # for characters that the terminal's encoding does not have
        call = bind(component, list(sys.argv[1:] if arguments is None else arguments), short)
        if guarded:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # KeyboardInterrupt, so that files are tidied up
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy: what is not finite becomes an error of its own
            call()
        sys.stdout.flush()
    except BaseException as error:
        if _is_interrupt(error):
            _flush_stdout()
            end_line_of_terminal()
            status = INTERRUPTED
        elif isinstance(error, BrokenPipeError):
            status = 141
        elif isinstance(error, (OSError, ValueError, TypeError, OverflowError, ImportError, MemoryError)):
            notice(f"error: {one_line(error)}")
            status = 2 if isinstance(error, CommandLineError) else 1
        else:
            raise
    if guarded:
        signal.signal(signal.SIGINT, exit_interrupted)  # nothing is left to tidy up
    _flush_stdout()
    sys.exit(status)


def _is_interrupt(error):
    """Whether an exception is Ctrl-C's, or one that Python or a library has made of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _flush_stdout():
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # Python would try once more at exit, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def argument_errors() -> Iterator[None]:
    """A ValueError or TypeError inside this `with` is about a value on the command line: exit status 2."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise CommandLineError(str(error)) from None


# --- text in ------------------------------------------------------------------------------------


def read_text(text: str | None, max_bytes: int | None = None) -> str:
    """The text given as an argument or, without one (None), what is piped into stdin; "" if nothing is.

    Args:
        text: str or None.
        max_bytes: refuse a text that is longer than this in UTF-8; hardly more is read.

    Raises:
        CommandLineError: the text is too long.
        ValueError: stdin is not UTF-8.
    """
    if text is None:
        return "" if sys.stdin is None or sys.stdin.isatty() else read_stdin(max_bytes)
    if stdin_has_text():
        notice("stdin is not read: there is a text on the command line")
    if max_bytes is not None and len(text) > max_bytes:
        raise _too_long(max_bytes)
    return text


def read_stdin(max_bytes: int | None = None) -> str:
    """The text piped into stdin, without the newline that `echo` puts at its end. Raises as `read_text`."""
    line_end = 2  # \r\n
    data = sys.stdin.buffer.read(-1 if max_bytes is None else max_bytes + line_end + 1)
    if max_bytes is not None and len(data) > max_bytes + line_end:
        raise _too_long(max_bytes)
    return _decoded(data, "stdin").removesuffix("\n").removesuffix("\r")


def read_file(path: str | os.PathLike) -> str:
    """The text of a file, whole. ValueError if it is not UTF-8."""
    with open(path, "rb") as file:
        return _decoded(file.read(), path)


def _decoded(data, source):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text: byte 0x{data[error.start]:02X} at {error.start}; "
                         "convert it first, for instance with iconv") from None


def _too_long(max_bytes):
    return CommandLineError(f"the text is longer than {max_bytes:,} bytes, which is more than can fit into the model's "
                            "context: shorten it")


def unescape(text: str) -> str:
    r"""The text with \n, \r, \t and \\ replaced by what they stand for: a shell passes on both characters."""
    return re.sub(r"\\([nrt\\])", lambda match: {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}[match[1]], text)


# --- text out -----------------------------------------------------------------------------------


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


def print_pieces(pieces: Iterable[str], before: str = "") -> str:
    """Print pieces of text as they come, and what goes before the first one; returns all of it."""
    text = ""
    for piece in itertools.chain([before], pieces):
        print(piece, end="", flush=True)
        text += piece
    return text


def end_line(text: str, anyway: bool = False) -> None:
    """Let what comes after `text`, which was just printed, begin a line on the screen.

    A file or a pipe gets what was printed and no more, unless notices go to the same one.

    Args:
        text: str.
        anyway: end the line wherever stdout goes.
    """
    if anyway:
        print(flush=True)
        return
    if not text or text.endswith("\n"):
        return
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
        together = os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):  # a stream that is not a file
        return
    if sys.stdout.isatty() or together:
        print(flush=True)
    elif sys.stderr.isatty() and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        _wait_for_reader(sys.stdout.fileno())
        notice("")  # `| tee` shows the text on the same screen


def _wait_for_reader(fd):
    """Give the reader of a pipe a moment to read what is in it, and to print it."""
    deadline = time.monotonic() + 0.5
    while unread_bytes(fd) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.02)


class Stopwatch:
    """Counts the tokens that pass through it, and the seconds; as str it is the line with which a program closes."""

    def __init__(self):
        self.n_tokens, self.first, self.last = 0, 0.0, 0.0
        self.start = time.perf_counter()

    def __call__(self, ids: Iterable[int]) -> Iterator[int]:
        """The same ids, each counted as it comes."""
        for i in ids:
            self.last = time.perf_counter() - self.start
            self.first = self.first if self.n_tokens else self.last
            self.n_tokens += 1
            yield i

    def __str__(self):
        return (f"{self.n_tokens} token{'s' * (self.n_tokens != 1)} in {self.last:.2f} s "
                f"({self.n_tokens / max(self.last, 1e-9):.1f} tokens/s), the first after {self.first:.2f} s")
