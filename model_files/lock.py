"""A lock on a folder, among processes."""
import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

SILENT_WAIT = 1  # seconds that another process may hold the lock before the wait is announced


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A lock on `folder` among processes; the kernel releases it when its holder dies, however it dies.

    A folder that does not exist is made, and removed again if nothing was put into it.
    """
    from filelock import FileLock, Timeout

    lock, timeout, tries = FileLock(folder / ".lock"), SILENT_WAIT, 100
    while not lock.is_locked:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout)
        except Timeout:
            logger.warning(f"waiting for another process that is using {folder} ...")
            timeout = -1
        except (FileNotFoundError, FileExistsError):  # another process has just removed a folder that it had made
            tries -= 1
            if not tries:
                raise
        except NotImplementedError:  # some network file systems
            raise OSError(f"{folder} is on a file system without locks, which keep processes apart: choose another "
                          "models_dir") from None
        except OSError as error:
            if error.errno == errno.ELOOP:  # filelock follows no link: whoever made it would choose what is opened
                raise OSError(f"{folder / '.lock'} is a symbolic link: remove it") from None
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if [path.name for path in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
        lock.release()
        with contextlib.suppress(OSError):  # Windows keeps a file that is open: there the release removes .lock
            for path in made:
                path.rmdir()
