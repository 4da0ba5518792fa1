"""The study database: created once, retried while it fails, with clear error messages."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy

from sweeper.errors import ConfigError, DiskFull, StorageDown, StoreError
from sweeper.search.storage import RETRIES, open_storage
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
    connection = sqlite3.connect(folder / "optuna.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        connection.close()


def test_a_locked_database_is_retried_with_growing_pauses_then_reported(tmp_path, quick):
    with open_toy(tmp_path, preset("random")) as search:
        number = search.ask().number
        with locked(tmp_path), pytest.raises(StorageDown, match=r"database is locked.*Trials are safe"):
            search.tell(number, state=TrialState.FAILED)
        assert len(quick) == 4
        assert quick == sorted(quick)
        search.tell(number, state=TrialState.FAILED)


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_proposal_interrupted_by_a_lock_is_made_once_and_is_the_same(tmp_path, quick, monkeypatch, nth):
    with open_toy(tmp_path / "free", preset("tpe")) as search:
        expected = [search.ask() for _ in range(3)]
    with open_toy(tmp_path / "locked", preset("tpe")) as search:
        first, lock = search.ask(), locked(tmp_path / "locked")
        lock.__enter__()
        monkeypatch.setattr(RETRIES, "sleep", lambda pause: (quick.append(pause), unlock_at(lock, quick, nth)))
        found = [first, search.ask(), search.ask()]
    assert len(stored_trials(tmp_path / "locked")) == 3
    assert len(quick) == nth
    assert found == expected


def unlock_at(lock, pauses, nth):
    if len(pauses) == nth:
        lock.__exit__(None, None, None)


def test_a_failure_after_a_trial_was_started_does_not_lose_the_proposal(tmp_path, quick, monkeypatch):
    from sweeper.search import study as study_module

    real, calls = study_module.suggest, []

    def suggest(trial, space):
        calls.append(trial)
        if len(calls) == 1:
            raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception("database is locked"))
        return real(trial, space)

    with open_toy(tmp_path, preset("random")) as search:
        monkeypatch.setattr(study_module, "suggest", suggest)
        assert [search.ask().number, search.ask().number] == [0, 1]
    assert (len(stored_trials(tmp_path)), len(quick)) == (2, 1)


def test_a_full_disk_is_reported_without_retries(tmp_path, quick, monkeypatch):
    with open_toy(tmp_path, preset("random")) as search:
        full = sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))
        monkeypatch.setattr(search._study, "ask", lambda: (_ for _ in ()).throw(full))
        with pytest.raises(DiskFull, match="is full"):
            search.ask()
    assert quick == []


@pytest.mark.usefixtures("quick")
def test_a_database_that_was_deleted_is_rebuilt_from_the_records(tmp_path):
    driver = Driver()
    with open_toy(tmp_path, preset("random")) as search:
        driver.run(search, 6, until=4)
        for path in tmp_path.glob("optuna.db*"):
            path.unlink()
        with suppress(StorageDown):  # SQLite may continue in the deleted file, or refuse to
            driver.run(search, 6, until=5)
    with open_toy(tmp_path, preset("random")) as search:
        search.sync(list(driver.records.values()), value_of)
        driver.run(search, 6)
    assert len(stored_trials(tmp_path)) == 6
    assert all(record.state.is_finished for record in driver.records.values())


@pytest.mark.usefixtures("quick")
def test_the_error_of_a_failing_database_says_that_trials_are_safe(tmp_path):
    with open_toy(tmp_path, preset("random")) as search:
        number = search.ask().number
        with sqlite3.connect(tmp_path / "optuna.db") as connection:
            connection.execute("DROP TABLE trial_values")
        connection.close()
        with pytest.raises(StoreError, match="Trials are safe"):
            search.tell(number, state=TrialState.COMPLETE, value=0.5)
