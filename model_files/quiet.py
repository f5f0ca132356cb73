"""Silence for what a library written in C++ prints."""
import contextlib
import os
import sys
import threading

_ONE_AT_A_TIME = threading.Lock()  # a second thread would save the first one's silence as the streams to restore


@contextlib.contextmanager
def quiet():
    """Discard what is written to stdout and stderr, by C++ too: TensorFlow logs before its log level can be set.

    It redirects the file descriptors of the whole process, so what other threads print meanwhile is lost as well.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _ONE_AT_A_TIME, open(os.devnull, "wb") as nowhere:
        kept = []
        for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed stream has nothing to flush
                stream.flush()
            with contextlib.suppress(OSError):
                kept.append((fd, os.dup(fd)))
        try:
            for fd, _ in kept:
                os.dup2(nowhere.fileno(), fd)
            yield
        finally:
            for fd, copy in kept:
                os.dup2(copy, fd)
                os.close(copy)
