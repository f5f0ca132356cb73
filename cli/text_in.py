"""Text that goes into a program: from its command line, a pipe, the keyboard or a file."""
import codecs
import contextlib
import math
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable

from cli.arguments import CommandLineError
from cli.terminal import is_interrupt, notice


def read_text(text: str | None, max_bytes: int | None = None) -> str:
    """The text given as an argument. Without one (None), that of stdin: what is piped into it, or a line typed there.

    Args:
        text: str or None.
        max_bytes: refuse a text that is longer than this in UTF-8; hardly more is read.

    Raises:
        CommandLineError: the text is too long.
        ValueError: stdin is not UTF-8.
    """
    if text is None:
        if not _at_keyboard():
            return read_stdin(max_bytes)
        if (text := ask("text: ")) is None:
            sys.exit()  # Ctrl-D: there is nothing to do
    elif text.isdecimal() and _stdin_is_unread():
        notice(f"stdin is not read: {text!r} was taken as the text; if it is an option's value, name the option")
    if max_bytes is not None and len(text) > max_bytes:
        raise _too_long(max_bytes)
    return as_typed(text)


def for_each_prompt(answer: Callable[[str], None], text: str | None, max_bytes: int | None = None) -> None:
    """Call `answer` with the text that `read_text` gives. At the keyboard, ask for one text after the other instead.

    There Ctrl-C ends an answer, not the program, which goes on after a text that is refused; Ctrl-D ends it.
    """
    if text is not None or not _at_keyboard():
        answer(read_text(text, max_bytes))
        return
    ends = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
    notice(f"type a text to continue; Ctrl-C ends a continuation, {ends} the program")
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt_once)
    while True:
        try:
            line = ask("> ")
            if line is None:
                return
            answer(line)
        except CommandLineError as error:
            notice(f"error: {error}")
        except BaseException as error:
            if not is_interrupt(error):
                raise
            notice("")  # after ^C


last_interrupt = -math.inf  # when it came, in seconds


def interrupt_once(*_: object) -> None:
    """Ctrl-C, as a handler of SIGINT: `timeout --foreground` and other wrappers send it a second time, which would end
    the program if it came before the next text is asked for."""
    global last_interrupt
    before, last_interrupt = last_interrupt, time.monotonic()
    if last_interrupt - before > 0.02:
        raise KeyboardInterrupt


def ask(prompt: str) -> str | None:
    """A line typed at the keyboard, with editing and history where Python has readline; None for the end of input."""
    with contextlib.suppress(ImportError):  # on Windows
        import readline  # noqa: F401  input() uses it
    if not sys.stdout.isatty():  # input() would print the prompt there
        print(prompt, end="", file=sys.stderr, flush=True)
        prompt = ""
    try:
        return input(prompt)
    except EOFError:
        notice("")
        return None


def read_stdin(max_bytes: int | None = None) -> str:
    """The text piped into stdin, without the newline that `echo` puts at its end. Raises as `read_text`."""
    if sys.stdin is None:  # closed
        return ""
    mark, line_end = 3, 2  # bytes that do not count: a byte-order mark, \r\n
    data = sys.stdin.buffer.read(-1 if max_bytes is None else max_bytes + mark + line_end + 1)
    data = data.removeprefix(codecs.BOM_UTF8)  # PowerShell sends one
    if max_bytes is not None and len(data) > max_bytes + line_end:
        raise _too_long(max_bytes)
    return _decoded(data, "stdin").removesuffix("\n").removesuffix("\r")


def read_file(path: str | os.PathLike[str]) -> str:
    """The text of a file, whole. ValueError if it is not UTF-8."""
    with open(path, "rb") as file:
        return _decoded(file.read().removeprefix(codecs.BOM_UTF8), path)


def _decoded(data: bytes, source: object) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text: byte 0x{data[error.start]:02X} at {error.start}; convert it to "
                         "UTF-8 first") from None


def _too_long(max_bytes: int) -> CommandLineError:
    return CommandLineError(f"the text is longer than {max_bytes:,} bytes, which is more than can fit into the model's "
                            "context: shorten it")


def _at_keyboard() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _stdin_is_unread() -> bool:
    """Whether stdin is a pipe, or a file of which nothing has been read."""
    try:
        status = os.fstat(0)
        if stat.S_ISREG(status.st_mode):
            return status.st_size > 0 and os.lseek(0, 0, os.SEEK_CUR) == 0
        return stat.S_ISFIFO(status.st_mode)
    except OSError:  # it is closed
        return False


def as_typed(text: str) -> str:
    """A text of the command line. Python decodes UTF-8 to lone surrogates if the locale has another encoding."""
    if any("\udc80" <= character <= "\udcff" for character in text):
        with contextlib.suppress(UnicodeError):
            return os.fsencode(text).decode("utf-8")
    return text


def unescape(text: str) -> str:
    r"""A text of a command line in which \n, \r, \t and \\ are what they stand for: a shell passes both characters."""
    stands_for = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nrt\\])", lambda match: stands_for[match[1]], as_typed(text))
