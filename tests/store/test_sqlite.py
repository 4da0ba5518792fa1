"""Files and integrity of SQLite databases."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial

from sweeper.store.sqlite import sqlite_damage, sqlite_fault, sqlite_files


def make_database(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE numbers (value INTEGER)")
        connection.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(5000)])
        connection.execute("CREATE INDEX by_value ON numbers (value)")
        connection.commit()
    return path


def test_an_intact_database_has_no_fault(tmp_path):
    assert sqlite_fault(make_database(tmp_path / "x.db")) == ""


def test_a_missing_database_has_no_fault_and_is_not_created(tmp_path):
    assert sqlite_fault(tmp_path / "x.db") == ""
    assert sqlite_files(tmp_path / "x.db") == []


def test_a_file_that_is_not_a_database_cannot_be_read(tmp_path):
    (tmp_path / "x.db").write_text("no database, but long enough to be read as one" * 50)
    assert sqlite_fault(tmp_path / "x.db") == "the database cannot be read (file is not a database)"
    assert sqlite_damage(tmp_path / "x.db") == sqlite_fault(tmp_path / "x.db")


def test_an_overwritten_page_is_a_fault(tmp_path):
    path = make_database(tmp_path / "x.db")
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 4 * 4096] = bytes(4096)
    path.write_bytes(content)
    assert sqlite_fault(path).startswith("the database is damaged (")
    assert sqlite_damage(path) == sqlite_fault(path)


def test_a_locked_database_cannot_be_used_but_is_not_damaged(tmp_path, monkeypatch):
    path = make_database(tmp_path / "x.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
        assert sqlite_fault(path) == "the database cannot be read (database is locked)"
        assert sqlite_damage(path) == ""


def test_the_log_and_the_journal_belong_to_a_database(tmp_path):
    for name in ("x.db", "x.db-wal", "x.db-journal", "y.db"):
        (tmp_path / name).touch()
    assert [file.name for file in sqlite_files(tmp_path / "x.db")] == ["x.db", "x.db-wal", "x.db-journal"]
