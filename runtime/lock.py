"""A lock on a folder, among processes."""
import contextlib

from runtime.terminal import notice

SILENT_WAIT = 1  # seconds for which another process may hold the lock before the wait is said


@contextlib.contextmanager
def locked(folder):
    """A lock on `folder` among processes; the kernel drops it when its holder dies, however it dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        try:
            lock.acquire(timeout=SILENT_WAIT)
        except Timeout:
            notice(f"waiting for another process that is at work in {folder} ...")
            lock.acquire()
    except NotImplementedError:  # some network file systems
        raise OSError(f"{folder} is on a file system without locks, which keep processes apart: choose another "
                      "--models_dir") from None
    try:
        yield
    finally:
        lock.release()
