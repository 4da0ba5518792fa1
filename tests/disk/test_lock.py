"""File locks: where a file system has none, that is an error, never a lock of another kind."""

from __future__ import annotations

import errno
import os

import filelock
import pytest

from sweeper.disk.lock import Timeout, hold_file
from sweeper.errors import DiskError, SweepLocked
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore


@pytest.fixture
def without_flock(monkeypatch):
    """Let the system call fail as on a file system without it."""

    def fail(code):
        def flock(_descriptor, _operation):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("fcntl.flock", flock)

    return fail


def test_a_lock_is_held_by_one_block_at_a_time(tmp_path):
    path = tmp_path / "cache" / "x.lock"
    with hold_file(path), pytest.raises(Timeout), hold_file(path, timeout_s=0):
        pass
    with hold_file(path, timeout_s=0):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_flock_the_error_names_the_file_system_and_the_remedy(tmp_path, without_flock, code):
    without_flock(code)
    message = (
        r"x\.lock cannot be locked: its file system \(\w+\) has no file locks.*Set cache=\.\.\. to a folder on a local"
    )
    with pytest.raises(DiskError, match=message), hold_file(tmp_path / "x.lock"):
        pytest.fail("it was not locked")


def test_a_sweep_without_flock_is_not_run_and_the_remedy_is_another_outputs_folder(tmp_path, without_flock):
    without_flock(errno.ENOSYS)
    with pytest.raises(DiskError, match=r"Set outputs=\.\.\."), hold(TrialStore(tmp_path / "mine")):
        pytest.fail("it was not locked")


def test_the_library_would_have_made_a_soft_lock(tmp_path, without_flock):
    """The reason for `hold_file`; if this fails, the library has changed."""
    without_flock(errno.ENOSYS)
    lock = filelock.FileLock(tmp_path / "x.lock", timeout=0)
    with pytest.warns(UserWarning, match="falling back to SoftFileLock"), lock:
        assert isinstance(lock, filelock.SoftFileLock)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_a_lock_that_cannot_be_created_is_an_error_of_the_disk(tmp_path, monkeypatch, code):
    real = os.open

    def failing(path, *arguments, **options):
        if str(path).endswith(".lock"):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    with (
        pytest.raises(DiskError, match=rf"x\.lock cannot be written \({os.strerror(code)}\)"),
        hold_file(tmp_path / "x.lock"),
    ):
        pytest.fail("it was not locked")


def test_a_sweep_below_a_file_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot be written"), hold(TrialStore(tmp_path / "file" / "mine")):
        pytest.fail("it was not locked")


def test_whoever_takes_the_lock_removes_what_a_killed_holder_left(tmp_path):
    store = TrialStore(tmp_path / "mine")
    left = [
        store.root / ".ledger.json.0-ab.tmp",
        store.paths.sessions / ".0001.json.0-ab.tmp",
        store.paths.study("toy") / ".study.json.0-ab.tmp",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with hold(store):
        assert not any(path.exists() for path in left)
        left[0].touch()
        with pytest.raises(SweepLocked):
            hold(store).__enter__()
        assert left[0].exists(), "it was removed without the lock"
