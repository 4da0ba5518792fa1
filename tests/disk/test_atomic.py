"""Atomic writes: errors of the disk, and what a killed process left unfinished."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from sweeper.disk.atomic import (
    is_unfinished,
    make_folder,
    new_folder,
    remove_folder,
    remove_unfinished,
    temporary_name,
    write_atomic,
)
from sweeper.disk.space import check_space, translate_errors
from sweeper.errors import DataError, DiskError, DiskFull

CODES = [errno.EIO, errno.EROFS, errno.ENOSPC]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def failing(monkeypatch):
    """Let every rename fail with an error code."""

    def fail(code):
        def replace(_source, _target):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("sweeper.disk.atomic.os.replace", replace)

    return fail


@pytest.mark.parametrize("code", CODES)
def test_an_error_of_the_disk_keeps_the_old_content_and_says_what_to_do(tmp_path, failing, code):
    write_atomic(tmp_path / "file", b"old")
    with new_folder(tmp_path / "folder") as new:
        (new / "a").write_bytes(b"old")
    failing(code)
    kind = DiskFull if code == errno.ENOSPC else DiskError
    with pytest.raises(kind, match=rf"file cannot be written \({os.strerror(code)}\).*run the same command again"):
        write_atomic(tmp_path / "file", b"new")
    with pytest.raises(kind, match="folder cannot be written"), new_folder(tmp_path / "folder"):
        pass
    with pytest.raises(kind):
        remove_folder(tmp_path / "folder")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "a").read_bytes() == b"old"


def test_an_error_while_a_folder_moves_into_place_brings_the_old_one_back(tmp_path, monkeypatch):
    with new_folder(tmp_path / "folder") as new:
        (new / "a").write_bytes(b"old")
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr("sweeper.disk.atomic.os.replace", replace)
    with pytest.raises(DiskError), new_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "a").read_bytes() == b"old"


def test_a_path_below_a_file_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("x")
    for call in (make_folder, lambda path: write_atomic(path, b"x")):
        with pytest.raises(DiskError, match=r"/file cannot be written \(it is a file, not a folder\).*the path"):
            call(tmp_path / "file" / "sweep" / "x")
    assert check_space(tmp_path / "file" / "sweep", 0) == ""


def test_a_library_that_says_no_space_is_left_is_understood_and_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(DiskFull, match="MB are free"), translate_errors(tmp_path / "model"):
        raise RuntimeError("IoError(Os { code: 28, message: 'No space left on device' })")
    for error in (ValueError("no"), DataError("rows.csv: no space left for doubt")):
        with pytest.raises(type(error), match=str(error)), translate_errors(tmp_path):
            raise error


def test_a_failing_disk_need_not_say_how_much_space_is_left(tmp_path, monkeypatch):
    def usage(_path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sweeper.disk.space.shutil.disk_usage", usage)
    with pytest.raises(DiskFull, match=r"cannot be written \(No space left\)\. Everything"), translate_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left")


# Unfinished files.


def leave(path, pid):
    """Leave an unfinished version of a file, as a process with this id would."""
    left = temporary_name(path)
    left = left.with_name(left.name.replace(f".{os.getpid()}-", f".{pid}-"))
    left.touch()
    return left


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporary_names_are_hidden_and_differ(tmp_path):
    found = {temporary_name(tmp_path / "file") for _ in range(100)}
    assert len(found) == 100
    assert all(is_unfinished(path) and path.parent == tmp_path for path in found)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path, dead_pid):
    leave(tmp_path / "report.md", dead_pid)
    leave(tmp_path / "sweep.json", os.getpid())  # this process writes nothing else while it holds the lock
    living = leave(tmp_path / "best.json", os.getppid())
    (tmp_path / ".trial.json.tmp").touch()
    (tmp_path / ".adapter.0-0.tmp" / "sub").mkdir(parents=True)
    (tmp_path / ".hidden").touch()
    (tmp_path / "notes.tmp").touch()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == sorted([".hidden", living.name, "notes.tmp"])


def test_only_the_unfinished_versions_of_one_name_are_removed(tmp_path, dead_pid):
    leave(tmp_path / "trec", dead_pid)
    other = leave(tmp_path / "trec.2", dead_pid)
    remove_unfinished(tmp_path, name="trec")
    assert names(tmp_path) == [other.name]
    remove_unfinished(tmp_path / "missing")
