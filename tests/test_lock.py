"""The lock on a folder: one at a time, and nothing left behind where nothing was done."""
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
from helpers import ROOT, in_threads, wait_for

import model_files.lock
from model_files.lock import locked


def test_one_at_a_time_and_the_wait_is_announced(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model_files.lock, "SILENT_WAIT", 0.05)
    order = []

    def second():
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        heard = []
        wait_for(lambda: heard.append(capsys.readouterr().err) or "".join(heard))
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert "".join(heard) == f"waiting for another process that is using {tmp_path} ...\n"


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_a_killed_process_leaves_no_lock(tmp_path):
    program = (f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; "
               "from model_files.lock import locked\nwith locked(Path(sys.argv[1])): print('held', flush=True); "
               "time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="Windows lets not everybody make links")
def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"\.lock is a symbolic link: remove it"), locked(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_is_made_and_removed_again_where_nothing_was_put_into_it(tmp_path):
    folder = tmp_path / "models" / "124M"
    with locked(folder):
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionError), locked(folder):
        raise ConnectionError
    assert list(tmp_path.iterdir()) == []
    with locked(folder):
        (folder / "checkpoint.part").touch()
    assert (folder / "checkpoint.part").exists()


def test_a_folder_is_removed_where_an_open_file_cannot_be(tmp_path, monkeypatch):  # as on Windows
    release = filelock.FileLock.release

    def unlink(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used", self)

    def release_and_remove(self, *arguments, **options):
        release(self, *arguments, **options)
        if os.path.exists(self.lock_file):
            os.unlink(self.lock_file)

    monkeypatch.setattr(filelock.FileLock, "release", release_and_remove)
    monkeypatch.setattr(Path, "unlink", unlink)
    with locked(tmp_path / "models" / "124M"):
        assert (tmp_path / "models" / "124M" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    with locked(tmp_path):
        pass
    assert tmp_path.is_dir() and not any(tmp_path.iterdir())


def test_many_that_make_and_remove_the_folder_keep_apart(tmp_path):
    folder, inside, most = tmp_path / "models" / "124M", [], []

    def work(i):
        for _ in range(20):
            with locked(folder):
                inside.append(i)
                most.append(len(inside))
                assert folder.is_dir()
                time.sleep(0.001)
                inside.remove(i)
        return "done"

    assert in_threads(4, work) == ["done"] * 4
    assert set(most) == {1} and not any(folder.glob("*"))


def test_who_waited_for_a_folder_that_is_removed_makes_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_files.lock, "SILENT_WAIT", 0.05)
    folder, saw = tmp_path / "models" / "124M", []

    def second():
        with locked(folder):
            saw.append(folder.is_dir())

    with locked(folder):
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: capsys.readouterr().err)
    thread.join(30)
    assert saw == [True]
