"""The study database: created once, retried while it fails, with clear error messages."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy
from filelock import FileLock, Timeout

from sweeper.errors import ConfigError, DiskFull, StorageDown, StoreError
from sweeper.search import storage
from sweeper.search.storage import RETRIES, open_storage
from sweeper.search.study_database import StudyDatabase
from sweeper.types import TrialState
from tests.search.toy import Driver, open_toy, preset, stored_trials, value_of


def test_sqlite_uses_a_write_ahead_log(tmp_path):
    open_toy(tmp_path / "new" / "folder", preset("random")).close()
    with sqlite3.connect(tmp_path / "new" / "folder" / "optuna.db") as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert mode == ("wal",)


@pytest.mark.slow
def test_several_processes_may_open_an_empty_database_at_once(tmp_path):
    code = f"from sweeper.search.storage import open_storage; open_storage('sqlite:///{tmp_path}/optuna.db')"
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=root) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("optuna.db", r"not a database URL.*Write e\.g\. sqlite:///"),
        ("nosuch://host/x", "type of database is not supported"),
        ("mysql+pymysql://me:pw5@host/x", "driver for mysql\\+pymysql is not installed.*pip install pymysql"),
        ("sqlite:////proc/none/optuna.db", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_opened_says_why(url, message):
    with pytest.raises(ConfigError, match=f"search.storage=.*{message}") as caught:
        open_storage(url)
    assert "pw5" not in str(caught.value)


def test_a_file_that_is_not_a_database_is_an_error(tmp_path):
    (tmp_path / "optuna.db").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(ConfigError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/optuna.db")


@pytest.fixture
def quick(monkeypatch):
    """Make SQLite and the retries wait for almost no time; return the pauses that were requested."""
    pauses = []
    monkeypatch.setattr("sweeper.search.storage._BUSY_S", 0.01)
    monkeypatch.setattr(RETRIES, "sleep", pauses.append)
    return pauses


@contextmanager
def locked(folder):
    connection = sqlite3.connect(folder / "optuna.db", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        connection.close()


def test_a_locked_database_is_retried_with_growing_pauses_then_reported(tmp_path, quick):
    search = open_toy(tmp_path, preset("random"))
    number = search.ask().number
    with locked(tmp_path):
        search.publish()
        search._writer._thread.join(60)
        with pytest.raises(StorageDown, match=r"database is locked.*Trials are safe"):
            search.tell(number, state=TrialState.FAILED)
        with pytest.raises(StorageDown):
            search.close()
    assert len(quick) == 4
    assert quick == sorted(quick)


def test_a_lock_that_ends_in_time_loses_nothing_and_delays_nothing(tmp_path, quick, monkeypatch):
    driver, lock = Driver(), locked(tmp_path)
    with open_toy(tmp_path, preset("random")) as search:
        monkeypatch.setattr(RETRIES, "sleep", lambda pause: (quick.append(pause), unlock_at(lock, quick, 2)))
        lock.__enter__()
        search.ask()
        search.publish()
        search.tell(0, state=TrialState.FAILED)
        driver.admit(search.ask())
    assert [trial.state.name for trial in stored_trials(tmp_path)] == ["FAIL", "RUNNING"]
    assert len(quick) == 2


def unlock_at(lock, pauses, nth):
    if len(pauses) == nth:
        lock.__exit__(None, None, None)


def test_a_write_that_failed_halfway_is_repeated_as_a_whole(tmp_path, quick, monkeypatch):
    real, calls = StudyDatabase._insert_missing, []

    def insert(*args):
        calls.append(args)
        if len(calls) == 2:
            raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database is locked"))
        real(*args)

    monkeypatch.setattr(StudyDatabase, "_insert_missing", staticmethod(insert))
    driver = Driver()
    with open_toy(tmp_path, preset("random")) as search:
        driver.run(search, 4)
    assert len(quick) == 1
    assert [t.params for t in stored_trials(tmp_path)] == [p for _, _, p in driver.proposals]


def test_a_full_disk_is_reported_without_retries(tmp_path, quick, monkeypatch):
    def write(*_, **__):
        raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(StudyDatabase, "_write", write)
    search = open_toy(tmp_path, preset("random"))
    search.ask()
    search.publish()
    with pytest.raises(DiskFull, match="is full"):
        search.close()
    assert quick == []


@pytest.mark.usefixtures("quick")
def test_an_error_that_ends_the_session_is_not_replaced_by_one_of_the_database(tmp_path, caplog):
    def fail():
        with open_toy(tmp_path, preset("random")) as search:
            stack.enter_context(locked(tmp_path))
            search.ask()
            search.publish()
            raise KeyError("the first")

    with ExitStack() as stack, pytest.raises(KeyError, match="the first"):
        fail()
    assert "database is locked" in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_database_that_was_deleted_is_rebuilt_from_the_records(tmp_path):
    driver = Driver()
    with open_toy(tmp_path, preset("random")) as search:
        driver.run(search, 6, until=4)
        for path in tmp_path.glob("optuna.db*"):
            path.unlink()
        driver.run(search, 6, until=5)
        with suppress(StorageDown):  # SQLite may continue in the deleted file, or refuse to
            search.publish()
            search.close()
    with open_toy(tmp_path, preset("random")) as search:
        search.sync(list(driver.records.values()), value_of)
        driver.run(search, 6)
    assert len(stored_trials(tmp_path)) == 6
    assert all(record.state.is_finished for record in driver.records.values())


@pytest.mark.usefixtures("quick")
def test_the_error_of_a_failing_database_says_that_trials_are_safe(tmp_path):
    search = open_toy(tmp_path, preset("random"))
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("DROP TABLE trial_values")
    connection.close()
    search.tell(search.ask().number, state=TrialState.COMPLETE, value=0.5)
    search.publish()
    with pytest.raises(StoreError, match="Trials are safe"):
        search.close()


SERVER = "postgresql://me:pw5@host/optuna"


def refuse_to_open(monkeypatch, *paths):
    """Let files be those of another user, which cannot be opened."""
    real = os.open

    def opened(path, *args, **kwargs):
        if Path(os.fsdecode(path)) in paths:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_the_lock_of_a_server_database_belongs_to_one_user(temporary, monkeypatch):
    first = storage._server_lock(SERVER)
    assert first.parent == temporary
    first.touch()
    refuse_to_open(monkeypatch, first)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with storage._creation_lock(SERVER, None):
        held = storage._server_lock(SERVER)
        assert held != first
        assert held.exists()
        with pytest.raises(Timeout):
            FileLock(held, timeout=0).acquire()


def test_a_lock_file_that_cannot_be_opened_does_not_stop_a_user_of_a_server_database(temporary, monkeypatch, caplog):
    assert not list(temporary.iterdir())
    path = storage._server_lock(SERVER)
    refuse_to_open(monkeypatch, path)
    with storage._creation_lock(SERVER, None):
        pass
    assert "no lock while the tables" in caplog.text
    assert "Permission denied" in caplog.text


def test_the_error_of_a_damaged_database_says_which_ones_are_rebuilt(tmp_path):
    (tmp_path / "optuna.db").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(ConfigError, match=r"own folder is then rebuilt.*left as it is: restore it from a backup"):
        open_storage(f"sqlite:///{tmp_path}/optuna.db")


@pytest.mark.usefixtures("quick")
def test_the_error_of_a_database_that_is_damaged_while_it_is_open_names_the_remedy(tmp_path, monkeypatch):
    def write(*_, **__):
        raise sqlalchemy.exc.DatabaseError("INSERT", {}, sqlite3.DatabaseError("database disk image is malformed"))

    monkeypatch.setattr(StudyDatabase, "_write", write)
    search = open_toy(tmp_path, preset("random"))
    search.ask()
    search.publish()
    with pytest.raises(StorageDown, match=r"malformed.*Trials are safe.*Run the same command again"):
        search.close()
