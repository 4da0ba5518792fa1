"""Files and integrity of a SQLite database, for `search` and `track`, which own the two databases of a sweep."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

__all__ = ["sqlite_fault", "sqlite_files"]


def sqlite_files(path: Path) -> list[Path]:
    """Return the existing files of a database: main file, write-ahead log, shared memory and rollback journal."""
    files = [path.with_name(f"{path.name}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")]
    return [file for file in files if file.exists()]


def sqlite_fault(path: Path) -> str:
    """Return why a database cannot be used; empty if it is intact or does not exist."""
    if not path.exists():
        return ""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            (finding,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return f"the database cannot be read ({error})"
    return "" if finding == "ok" else f"the database is damaged ({finding})"
