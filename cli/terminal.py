"""A program in a terminal, from its command line to its exit status.

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
        prompt = read_text(prompt)  # cli.text_in
        with argument_errors():  # a ValueError in here: exit status 2
            ...

    if __name__ == "__main__":
        run_command_line(main, short={"n": "n_tokens_to_generate", "t": "temperature"})
"""
import contextlib
import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import NoReturn

from cli.arguments import CommandLineError, Component, bind
from cli.startup import INTERRUPTED, end_line_of_terminal, exit_interrupted, one_line


def notice(text: object) -> None:
    """Print a line to stderr for the person at the terminal: stdout is for results alone. If nobody reads it any more,
    the work goes on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def run_command_line(component: Component, arguments: list[str] | None = None,
                     short: dict[str, str] | None = None) -> NoReturn:
    """Run a function, or one of a dict of functions by its name, on the command line's arguments; then exit.

    Errors are one line on stderr. The exit status is 2 for what is wrong on the command line (`argument_errors`), 1 for
    every other error, 130 after Ctrl-C, 141 if the reader of stdout has gone away.

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
            if hasattr(stream, "reconfigure"):  # a terminal may not have every character; a file or a pipe gets UTF-8
                utf8 = not stream.isatty() and "PYTHONIOENCODING" not in os.environ
                stream.reconfigure(encoding="utf-8" if utf8 else None, errors=errors)
        call = bind(component, list(sys.argv[1:] if arguments is None else arguments), short)
        if guarded:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # KeyboardInterrupt, so that files are tidied up
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy: what is not finite becomes an error of its own
            call()
        sys.stdout.flush()
    except BaseException as error:
        if is_interrupt(error):
            _flush_stdout()
            end_line_of_terminal()
            status = INTERRUPTED
        elif _is_closed_pipe(error):
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


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an exception is Ctrl-C's, or one that Python or a library has made of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _is_closed_pipe(error: BaseException) -> bool:
    """Whether the reader of stdout has gone away, for which Windows has no error of its own."""
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and isinstance(error, OSError)
                                                  and error.errno == errno.EINVAL and error.filename is None)


def _flush_stdout() -> None:
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
