"""The database of studies: created once, and clear about what is wrong with it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.errors import ConfigError, StoreError
from sweeper.search.storage import open_storage
from sweeper.types import TrialState
from tests.search.toy import open_toy, preset


def test_sqlite_uses_a_write_ahead_log(tmp_path):
    open_toy(tmp_path / "new" / "folder", preset("random")).close()
    with sqlite3.connect(tmp_path / "new" / "folder" / "optuna.db") as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert mode == ("wal",)


def test_several_processes_may_open_an_empty_database_at_once(tmp_path):
    code = f"from sweeper.search.storage import open_storage; open_storage('sqlite:///{tmp_path}/optuna.db')"
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=root) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("optuna.db", r"not a database URL.*Write e\.g\. sqlite:///"),
        ("nosuch://host/x", "kind of database is unknown"),
        ("mysql+pymysql://me:pw5@host/x", "driver of mysql\\+pymysql is not installed.*pip install pymysql"),
        ("sqlite:////proc/none/optuna.db", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_opened_says_why(url, message):
    with pytest.raises(ConfigError, match=f"search.storage=.*{message}") as caught:
        open_storage(url)
    assert "pw5" not in str(caught.value)


def test_a_file_that_is_no_database_says_so(tmp_path):
    (tmp_path / "optuna.db").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(ConfigError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/optuna.db")


def test_a_database_that_fails_later_says_that_trials_are_safe(tmp_path):
    with open_toy(tmp_path, preset("random")) as search:
        number = search.ask().number
        with sqlite3.connect(tmp_path / "optuna.db") as connection:
            connection.execute("DROP TABLE trial_values")
        connection.close()
        with pytest.raises(StoreError, match="Trials are safe"):
            search.tell(number, state=TrialState.COMPLETE, value=0.5)
