"""Quiet ends while a program is still importing what it needs."""
import os
import sys
from types import TracebackType

INTERRUPTED = 130  # the exit status after Ctrl-C, as shells have it


def guard_imports() -> None:
    """From here on Ctrl-C ends the program at once, and a missing package ends it with one line: no traceback.

    A program calls this before its imports, which take longer than it takes to press Ctrl-C; so this module imports
    next to nothing itself. `terminal.run_command_line` restores Ctrl-C. A library must not call it: how signals are
    handled is for the program to decide.
    """
    sys.excepthook = excepthook  # first: the next import takes longer than all before it
    sys.unraisablehook = interrupt_again
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in a background job it is ignored: leave that
        signal.signal(signal.SIGINT, exit_interrupted)


def exit_interrupted(*_: object) -> None:
    """End the process, as a handler of SIGINT: nothing has begun, or all is done, so there is nothing to tidy up."""
    end_line_of_terminal()
    os._exit(INTERRUPTED)


def end_line_of_terminal() -> None:
    """Let the shell's prompt begin a line after Ctrl-C, which shows as ^C in the middle of one."""
    for fd in (2, 1):
        if os.isatty(fd):
            os.write(fd, b"\n")
            return


def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """As `sys.excepthook`, but quiet after Ctrl-C, and one line for a package that cannot be imported."""
    if isinstance(error, KeyboardInterrupt):
        exit_interrupted()
    elif isinstance(error, ImportError):
        print("error: " + one_line(error), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """As `sys.unraisablehook`. In a `__del__` or a callback of the garbage collector, such as Dask's, Python can only
    ignore Ctrl-C: there it comes once more a moment later."""
    import signal
    import threading

    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    # in a background job SIGINT is ignored, and the exception came from a handler of SIGTERM
    number = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    if sys.platform == "win32":  # where signal has no pthread_kill
        threading.Timer(0.05, signal.raise_signal, (number,)).start()
    else:  # to the main thread itself: a signal to another one would not end its wait
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number)).start()


def one_line(error: BaseException) -> str:
    """An error's message without line breaks; of a package that cannot be imported, with what to do."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:  # the system's words, without the number
        where = "the output cannot be written" if error.filename is None else error.filename
        message = f"{where}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name.partition('.')[0]} is not installed: pip install -r requirements.txt"
    if isinstance(error, ImportError) and "pip install" not in message:
        message = message if len(message) <= 200 else message[:200] + "…"  # NumPy's fills a page
        return f"a package cannot be imported ({message}): pip install -r requirements.txt"
    return message or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)
