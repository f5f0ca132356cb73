"""Running a program: exit status, one-line errors, encodings, text in and out, where a line begins on the screen."""
import codecs
import contextlib
import errno
import io
import json
import os
import signal
import sys
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import startup, terminal, text_in, text_out
from cli.arguments import CommandLineError


def exit_status(function, *arguments):
    with pytest.raises(SystemExit) as end:
        terminal.run_command_line(function, list(arguments))
    return end.value.code


def raising(error):
    def function():
        raise error

    return function


def test_a_program_that_ends_well(capsys):
    assert exit_status(lambda text="": print(text), "x") == 0
    assert exit_status({"show": lambda text="": print(text)}, "show", "y") == 0
    assert capsys.readouterr() == ("x\ny\n", "")


@pytest.mark.parametrize("error, status, line", [
    (CommandLineError("k must be 1"), 2, "k must be 1"),
    (ValueError("vocab.bpe is\n  damaged"), 1, "vocab.bpe is damaged"),
    (FileNotFoundError(2, "No such file or directory", "x"), 1, "x: No such file or directory"),
    (ConnectionError("cannot reach"), 1, "cannot reach"),
    (TypeError("no"), 1, "no"),
    (OverflowError("too large"), 1, "too large"),
    (MemoryError(), 1, "out of memory"),
    (OSError(), 1, "OSError"),
    (ModuleNotFoundError("No module named 'requests.x'", name="requests.x"), 1,
     "the package requests is not installed: pip install -r requirements.txt"),
    (ImportError("lib.so:\nundefined symbol"), 1,
     "a package cannot be imported (lib.so: undefined symbol): pip install -r requirements.txt"),
    (ImportError("x" * 2000), 1, f"a package cannot be imported ({'x' * 200}…): pip install -r requirements.txt"),
    (ImportError("pictures need matplotlib: pip install matplotlib"), 1,
     "pictures need matplotlib: pip install matplotlib"),
])
def test_an_error_is_one_line(capsys, error, status, line):
    assert exit_status(raising(error)) == status
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_a_closed_pipe_is_no_error(capsys):
    assert exit_status(raising(BrokenPipeError())) == 141
    assert capsys.readouterr() == ("", "")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError):
        terminal.run_command_line(raising(KeyError("x")), [])


def test_on_windows_a_pipe_that_nobody_reads_is_an_invalid_argument(capsys, monkeypatch):
    error = OSError(errno.EINVAL, "Invalid argument")
    assert exit_status(raising(error)) == 1
    monkeypatch.setattr(terminal.os, "name", "nt")
    assert exit_status(raising(error)) == 141
    assert exit_status(raising(OSError(errno.EINVAL, "Invalid argument", "file"))) == 1
    assert capsys.readouterr().err == ("error: the output cannot be written: Invalid argument\n"
                                       "error: file: Invalid argument\n")


class Stream(io.TextIOWrapper):
    """A stream of a locale in which nothing but ASCII can be said."""

    def __init__(self, is_terminal):
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)
        self.isatty = lambda: is_terminal


@pytest.mark.parametrize("is_terminal, forced, written", [
    (False, None, "일 ▏".encode()),  # a file or a pipe: UTF-8 everywhere
    (True, None, b"? ?"),
    (False, "ascii", b"? ?"),
])
def test_what_is_redirected_is_utf8(monkeypatch, is_terminal, forced, written):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    if forced:
        monkeypatch.setenv("PYTHONIOENCODING", forced)
    monkeypatch.setattr(sys, "stdout", stream := Stream(is_terminal))
    assert exit_status(lambda: print("일 ▏", end="")) == 0
    assert stream.buffer.getvalue() == written


def test_warnings_of_numpy_do_not_reach_the_screen(capsys, recwarn):
    def function():
        warnings.warn("invalid value encountered in multiply", RuntimeWarning, stacklevel=1)

    assert exit_status(function) == 0
    assert capsys.readouterr().err == "" and not recwarn.list


def test_errors_of_arguments_are_those_of_the_command_line(capsys):
    def function():
        with terminal.argument_errors():
            raise ValueError("k must be 1 to 5, not 9")

    assert exit_status(function) == 2
    assert capsys.readouterr().err == "error: k must be 1 to 5, not 9\n"


def interrupted_import():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise RuntimeError("Error calling __set_name__") from error


def interrupted_cleanup():
    try:
        raise KeyboardInterrupt
    finally:
        raise OSError("cannot remove x")


@pytest.mark.parametrize("function", [raising(KeyboardInterrupt()), interrupted_import, interrupted_cleanup])
def test_ctrl_c_is_ctrl_c_whatever_became_of_it(capsys, function):
    assert exit_status(function) == 130
    assert capsys.readouterr() == ("", "")


def test_the_hook_for_exceptions_hides_no_bug(capsys):
    for error in (ModuleNotFoundError("No module named 'numpy'", name="numpy"), KeyError("bug")):
        startup.excepthook(type(error), error, None)
    assert capsys.readouterr().err == ("error: the package numpy is not installed: pip install -r requirements.txt\n"
                                       "KeyError: 'bug'\n")


def test_a_notice_that_nobody_reads_does_not_end_the_work(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(BrokenPipeError), open(write, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        status = exit_status(lambda: terminal.notice("2 texts on 2 workers"))
    assert status == 0


@pytest.mark.skipif(os.name != "posix", reason="sends signals as POSIX does")
def test_a_second_ctrl_c_while_the_first_is_answered_does_not_end_the_program(monkeypatch):
    """timeout --foreground sends one when the terminal has sent one."""
    before, lines, answered = signal.getsignal(signal.SIGINT), iter(["a", "b", None]), []

    def answer(text):
        answered.append(text)
        if text == "a":
            signal.raise_signal(signal.SIGINT)

    def notice(text):
        if text == "":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(text_in, "_at_keyboard", lambda: True)
    monkeypatch.setattr(text_in, "ask", lambda prompt: next(lines))
    monkeypatch.setattr(text_in, "notice", notice)
    try:
        text_in.for_each_prompt(answer, None)
    except KeyboardInterrupt:
        pytest.fail("the second one ended it")
    finally:
        signal.signal(signal.SIGINT, before)
    assert answered == ["a", "b"]


# --- text in ------------------------------------------------------------------------------------


@pytest.fixture
def stdin(monkeypatch):
    """Let stdin hold these bytes."""
    def stdin(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return stdin


@pytest.mark.parametrize("data, text", [(b"", ""), (b"x", "x"), (b"x\n", "x"), (b"x\r\n", "x"), (b"x\n\n", "x\n"),
                                        ("안녕 🤖\n".encode(), "안녕 🤖"),
                                        ("\ufeffx\r\n".encode(), "x"),  # as PowerShell sends it
                                        ("\ufeff\ufeffx".encode(), "\ufeffx")])
def test_stdin(stdin, data, text):
    stdin(data)
    assert text_in.read_text(None) == text
    stdin(data)
    assert text_in.read_text(None, max_bytes=len(data)) == text


def test_stdin_that_is_not_utf8(stdin):
    stdin(b"caf\xe9")
    with pytest.raises(ValueError, match="not UTF-8 text: byte 0xE9 at 3; convert it to UTF-8 first") as error:
        text_in.read_text(None)
    assert not isinstance(error.value, CommandLineError)


def test_a_text_of_exactly_the_size_that_is_allowed(stdin):
    for end in (b"", b"\n", b"\r\n"):
        stdin(b"12345" + end)
        assert text_in.read_text(None, max_bytes=5) == "12345"
        stdin(codecs.BOM_UTF8 + b"12345" + end)
        assert text_in.read_text(None, max_bytes=5) == "12345"
    assert text_in.read_text("12345", max_bytes=5) == "12345"
    stdin(b"123456789")
    for text in (None, "123456"):
        with pytest.raises(CommandLineError, match="longer than 5 bytes"):
            text_in.read_text(text, max_bytes=5)


def test_of_a_stdin_that_is_too_long_little_is_read(monkeypatch):
    source = io.BytesIO(b"x" * 10**6)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source))
    with pytest.raises(CommandLineError):
        text_in.read_text(None, max_bytes=1000)
    assert source.tell() < 10_000


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "text").write_bytes("\ufeff안녕\r\n".encode())
    assert text_in.read_file(tmp_path / "text") == "안녕\r\n"
    (tmp_path / "text").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="text is not UTF-8 text: byte 0xE9 at 3"):
        text_in.read_file(tmp_path / "text")


def test_a_text_arrives_as_it_was_typed_whatever_the_locale():
    assert text_in.as_typed("안녕".encode().decode("ascii", "surrogateescape")) == "안녕"
    for text in ("안녕", "Ã©", "caf\udce9", "\ud800"):  # the last two are UTF-8 in no locale
        assert text_in.as_typed(text) == text


def test_without_stdin_the_text_is_empty(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert text_in.read_text(None) == ""


@pytest.mark.parametrize("typed, text", [(r"\n", "\n"), (r"a\tb\r\n", "a\tb\r\n"), (r"\\n", r"\n"), (r"\\\n", "\\\n"),
                                         (r"C:\dir", r"C:\dir"), ("\udcc3\udca9", "é"), ("\\", "\\"), ("\n", "\n"),
                                         ("", "")])
def test_unescape(typed, text):
    assert text_in.unescape(typed) == text


# --- text out -----------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None, database=None)
@given(st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=8), st.text("ab\n", min_size=1, max_size=4))
def test_until(pieces, stop):
    shown = list(text_out.until(iter(pieces), stop))
    assert "".join(shown) == "".join(pieces).partition(stop)[0]
    assert all(shown)


@given(st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=8), st.text("ab\n", min_size=1, max_size=4))
def test_until_holds_nothing_back_that_cannot_begin_the_stop(pieces, stop):
    read, shown = [], ""
    for piece in text_out.until((read.append(piece) or piece for piece in pieces), stop):
        shown += piece
        rest = "".join(read)[len(shown):]
        assert stop.startswith(rest) or stop in "".join(read) or read == pieces


def test_until_without_a_stop():
    assert list(text_out.until(iter(["a", "b"]), None)) == ["a", "b"]


def test_print_text(capsys):
    text_out.print_text(iter(["a", "\n", "b"]), before="x ")
    assert capsys.readouterr() == ("x a\nb", "")
    text_out.print_text(iter(["a", "b"]), number=2)
    out, err = capsys.readouterr()
    assert out == "ab\n" and " SAMPLE 2 " in err and len(err) < 81


def test_the_stopwatch(monkeypatch):
    times = iter([100.0, 100.5, 101.0, 102.0, 104.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    stopwatch = text_out.Stopwatch()
    assert str(stopwatch) == "0 tokens in 0.00 s (0.0 tokens/s), the first after 0.00 s"
    assert list(stopwatch([7])) == [7]
    assert str(stopwatch) == "1 token in 0.50 s (2.0 tokens/s), the first after 0.50 s"
    assert list(stopwatch([8, 9, 10])) == [8, 9, 10]
    assert str(stopwatch) == "4 tokens in 4.00 s (1.0 tokens/s), the first after 0.50 s"


@pytest.fixture
def streams(monkeypatch, tmp_path):
    """streams(stdout, stderr, text): what "terminal", "pipe", "file" or "null" get of the text and a closing line.

    As a list: what the terminal, the pipe and the file got.
    """
    if os.name != "posix":
        pytest.skip("needs a pseudo-terminal")

    def streams(stdout, stderr, text):
        (screen, tty), (reader, writer) = os.openpty(), os.pipe()
        file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_WRONLY)
        fds = {"terminal": tty, "pipe": writer, "file": file, "null": null}
        with open(os.dup(fds[stdout]), "w") as out, open(os.dup(fds[stderr]), "w") as err:
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            text_out.print_text([text])
            terminal.notice("closing line")
            monkeypatch.undo()
        os.write(tty, b"$")  # the shell's prompt
        os.close(writer)
        shown = b""
        while not shown.endswith(b"$"):
            shown += os.read(screen, 1000)
        got = [shown.decode().replace("\r\n", "\n"), os.read(reader, 1000).decode(), os.pread(file, 1000, 0).decode()]
        for fd in (screen, tty, reader, file, null):
            os.close(fd)
        return got

    return streams


@pytest.mark.parametrize("stdout, stderr, screen, pipe, file", [
    ("terminal", "terminal", "text\nclosing line\n$", "", ""),
    ("terminal", "null", "text\n$", "", ""),
    ("terminal", "file", "text\n$", "", "closing line\n"),
    ("pipe", "terminal", "\nclosing line\n$", "text", ""),  # | tee: it shows "text" on the screen
    ("file", "terminal", "closing line\n$", "", "text"),
    ("null", "terminal", "closing line\n$", "", ""),
    ("file", "file", "$", "", "text\nclosing line\n"),  # > file 2>&1
    ("pipe", "pipe", "$", "text\nclosing line\n", ""),  # 2>&1 | less
    ("pipe", "null", "$", "text", ""),
    ("file", "null", "$", "", "text"),
])
def test_the_closing_line_begins_a_line(streams, stdout, stderr, screen, pipe, file):
    assert streams(stdout, stderr, "text") == [screen, pipe, file]
    same = [got.replace("text", "text\n").replace("text\n\n", "text\n") for got in (screen.lstrip("\n"), pipe, file)]
    assert streams(stdout, stderr, "text\n") == same  # a text that ends a line gets no second one


def test_pipes_that_cannot_be_told_apart_are_not_the_same(monkeypatch):
    """On Windows, fstat gives 0 for the number of every pipe."""
    nameless = os.stat_result((0o10600, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda fd: nameless)
    assert not text_out._same_file(sys.__stdout__, sys.__stderr__)


def test_a_stream_that_is_not_a_file_gets_no_line_end(capsys):
    text_out.print_text(["text"])
    assert capsys.readouterr().out == "text"


def test_json_lines(capsys):
    text_out.print_json(prompt='"안녕"\n', continuation="\u2028", seed=None)
    line = capsys.readouterr().out
    assert json.loads(line) == {"prompt": '"안녕"\n', "continuation": "\u2028"}
    assert line.count("\n") == 1 and "안녕" in line
