"""Files and integrity of a SQLite database, for `search` and `track`, which own the two databases of a sweep."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

__all__ = ["sqlite_damage", "sqlite_fault", "sqlite_files"]

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRIMARY_CODE = 0xFF
"""SQLite's extended error codes have the general one in their last byte."""


def sqlite_files(path: Path) -> list[Path]:
    """Return the existing files of a database: main file, write-ahead log, shared memory and rollback journal."""
    files = [path.with_name(f"{path.name}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")]
    return [file for file in files if file.exists()]


def sqlite_fault(path: Path) -> str:
    """Return why a database cannot be used; empty if it is intact or does not exist."""
    try:
        return _integrity_fault(path)
    except sqlite3.DatabaseError as error:
        return f"the database cannot be read ({error})"


def sqlite_damage(path: Path) -> str:
    """Return how the content of a database is damaged; empty if it is intact, or cannot be opened, e.g. is locked."""
    try:
        return _integrity_fault(path)
    except sqlite3.DatabaseError as error:
        is_damage = error.sqlite_errorcode & _PRIMARY_CODE in _DAMAGE
        return f"the database cannot be read ({error})" if is_damage else ""


def _integrity_fault(path: Path) -> str:
    if not path.exists():
        return ""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (finding,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return "" if finding == "ok" else f"the database is damaged ({finding})"
