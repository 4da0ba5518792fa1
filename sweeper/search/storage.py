"""The database of studies: opened, created once, and its errors told in our words.

SQLite (write-ahead log, so that a reader never blocks the controller) or any server that SQLAlchemy knows. Called by
`study`. A password never reaches a message or a log.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock

from sweeper.errors import ConfigError, StoreError
from sweeper.provenance import redact_url

__all__ = ["open_storage", "translated"]

_BUSY_S = 60.0
_KEY = "search.storage"
_DRIVERS = {
    "postgresql": "psycopg2-binary",
    "postgresql+psycopg2": "psycopg2-binary",
    "postgresql+psycopg": "'psycopg[binary]'",
    "postgresql+pg8000": "pg8000",
    "mysql": "mysqlclient",
    "mysql+mysqldb": "mysqlclient",
    "mysql+pymysql": "pymysql",
    "mariadb+pymysql": "pymysql",
}


class _Connection(sqlite3.Connection):
    """A SQLite connection that survives a kill without a flush to disk at each statement."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # With a write-ahead log NORMAL loses nothing when the process dies; after a power cut the last trials may be
        # missing, and `Search.sync` restores them from the store.
        self.execute("PRAGMA journal_mode=WAL").close()
        self.execute("PRAGMA synchronous=NORMAL").close()


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open the database, and create its tables if they are missing, under a lock.

    Args:
        url: SQLAlchemy URL, e.g. ``sqlite:////data/optuna.db`` or ``postgresql://user:secret@host/optuna``.

    Raises:
        ConfigError: The URL is wrong, its driver is not installed, or the database does not answer.
    """
    parsed = _parse(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    path = Path(parsed.database) if is_sqlite and parsed.database else None
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_sqlite:
        options = {"connect_args": {"timeout": _BUSY_S, "factory": _Connection}}
    try:
        with FileLock(_lock_path(url, path)):
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except ImportError as error:
        driver = _DRIVERS.get(parsed.drivername, getattr(error.__cause__ or error, "name", None) or "its driver")
        rule = f"the driver of {parsed.drivername} is not installed"
        raise ConfigError(_KEY, redact_url(url), rule, f"Run: pip install {driver}") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, OSError) as error:
        raise _unreachable(url, error) from None


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn errors of the database into one that says what to do.

    Raises:
        StoreError: The database failed; trials are safe in the store.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = _redact(url, error.__cause__ or error)
        raise StoreError(
            f"the database of studies {redact_url(url)} failed ({cause}). Trials are safe in the sweep's folder: "
            "repair the database, then run the same command again"
        ) from error


def _parse(url: str) -> sqlalchemy.URL:
    try:
        parsed = sqlalchemy.make_url(url)
        parsed.get_dialect()
    except sqlalchemy.exc.NoSuchModuleError:
        rule = "this kind of database is unknown"
    except (sqlalchemy.exc.ArgumentError, ValueError):
        rule = "this is not a database URL"
    except ImportError:
        return parsed
    else:
        return parsed
    remedy = "Write e.g. sqlite:///optuna.db or postgresql://user:password@host/name."
    raise ConfigError(_KEY, redact_url(url), rule, remedy) from None


def _lock_path(url: str, path: Path | None) -> Path:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f"{path.name}.lock")
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sweeper-{digest}.lock"


def _unreachable(url: str, error: Exception) -> ConfigError:
    rule = f"the database cannot be opened ({_redact(url, error)})"
    return ConfigError(_KEY, redact_url(url), rule, "Check that it runs, that the name exists and that you may write.")


def _redact(url: str, error: BaseException) -> str:
    """Return the first line of an error without the password of ``url``."""
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    password = sqlalchemy.make_url(url).password
    line = text[0] if text else type(error).__name__
    return line.replace(str(password), "***") if password else line
