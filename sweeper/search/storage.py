"""The study database: opens it, creates it once, retries failed calls, and translates its errors into ours.

SQLite (with a write-ahead log, so that a reader never blocks the controller) or any server that SQLAlchemy supports.
Called by `study_database` and `stored_study`. Passwords never appear in messages or logs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import tenacity

from sweeper.disk.lock import hold_file
from sweeper.disk.space import free_mb
from sweeper.errors import ConfigError, DiskError, DiskFull, StorageDown
from sweeper.failures import POLICIES, is_full
from sweeper.types import FailureKind
from sweeper.urls import redact_urls

__all__ = ["RETRIES", "check_url", "open_storage", "translate_errors"]

log = logging.getLogger(__name__)

_BUSY_S = 15.0
"""How long SQLite waits for a lock, before `RETRIES` apply."""
_DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
_FULL_MB = 1.0
"""Free space below which an I/O error of SQLite means that the disk is full."""
_ATTEMPTS = 5

RETRIES = tenacity.Retrying(
    retry=tenacity.retry_if_exception(lambda error: isinstance(error, _DATABASE_ERRORS) and not is_full(error)),
    stop=tenacity.stop_after_attempt(_ATTEMPTS),
    wait=tenacity.wait_exponential(multiplier=0.5, max=10.0),
    before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
    reraise=True,
)
"""For calls to a database that fails: 5 attempts within about 8 s, plus SQLite's own wait for a lock each time."""
_KEY = "search.storage"
_NOT_REACHED = (
    "Stop the process that locks the database, or move the database away (it is rebuilt from the sweep's folder); then "
    "run the same command again"
)
_DAMAGED = (
    "The file is damaged. Run the same command again: a database in the sweep's own folder is then rebuilt. Any other "
    "one may have more than this sweep, so it is left as it is: restore it from a backup, or move it away; each sweep "
    "rebuilds its studies there at its next start"
)
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
    """A SQLite connection that loses nothing when the process is killed, without a flush to disk per transaction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # With a write-ahead log, NORMAL loses nothing when the process dies. A loss of power may lose the last
        # transactions; the next start writes them again from the store (`StudyDatabase.discard_stale`, `update`).
        self.execute("PRAGMA journal_mode=WAL").close()
        self.execute("PRAGMA synchronous=NORMAL").close()


def check_url(url: str) -> None:
    """Check a database's URL and that its driver is installed, without connecting.

    Raises:
        ConfigError: The URL is wrong, or the driver is missing.
    """
    parsed = _parse(url)
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError as error:
        raise _no_driver(parsed, error) from None


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open the database; create missing tables, under a lock.

    Args:
        url: SQLAlchemy URL, e.g. ``sqlite:////data/optuna.db`` or ``postgresql://user:secret@host/optuna``.

    Raises:
        ConfigError: The URL is wrong, its driver is not installed, or the database does not answer.
        DiskFull: The disk of a SQLite database has no space left.
    """
    parsed = _parse(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    path = Path(parsed.database) if is_sqlite and parsed.database else None
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_sqlite:
        options = {"connect_args": {"timeout": _BUSY_S, "factory": _Connection}}
    try:
        with _creation_lock(url, path):
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except ImportError as error:
        raise _no_driver(parsed, error) from None
    except DiskFull:
        raise
    except DiskError as error:
        rule = f"the database cannot be opened ({str(error).partition('. ')[0]})"
        raise ConfigError(_KEY, redact_urls(url), rule, "Check its folder, or name another file.") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, OSError) as error:
        cause = _redact(url, error)
        if is_full(error) or _is_disk_full(url, cause):
            raise _disk_full(url, cause) from error
        rule = f"the database cannot be opened ({cause})"
        remedy = "Check that it runs, that the name exists and that you may write to it."
        if _is_damaged(cause):
            remedy = _DAMAGED
        raise ConfigError(_KEY, redact_urls(url), rule, remedy) from None


@contextlib.contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Turn errors of the database into errors with a remedy.

    Raises:
        StorageDown: The database failed; trials are safe in the store.
        DiskFull: Its disk has no space left.
    """
    try:
        yield
    except _DATABASE_ERRORS as error:
        cause = _redact(url, error.__cause__ or error)
        if _is_disk_full(url, cause):
            raise _disk_full(url, cause) from error
        remedy = _DAMAGED if _is_damaged(cause) else _NOT_REACHED
        raise StorageDown(
            f"the study database {redact_urls(url)} failed ({cause}). Trials are safe in the sweep's folder. {remedy}"
        ) from error


def _is_disk_full(url: str, cause: str) -> bool:
    """Whether an error of the database means that its disk is full.

    SQLite says "disk I/O error" if it cannot create or enlarge the shared-memory file of a write-ahead log.
    """
    path = sqlalchemy.make_url(url).database if url.startswith("sqlite") else None
    has_io_error = bool(path) and "disk I/O error" in cause
    return is_full(cause) or (has_io_error and free_mb(Path(str(path))) < _FULL_MB)


def _disk_full(url: str, cause: str) -> DiskFull:
    remedy = POLICIES[FailureKind.DISK_FULL].remedy
    return DiskFull(f"the disk of the study database {redact_urls(url)} is full ({cause}). {remedy}")


def _parse(url: str) -> sqlalchemy.URL:
    try:
        parsed = sqlalchemy.make_url(url)
        parsed.get_dialect()
    except sqlalchemy.exc.NoSuchModuleError:
        rule = "this type of database is not supported"
    except (sqlalchemy.exc.ArgumentError, ValueError):
        rule = "this is not a database URL"
    except ImportError:
        return parsed
    else:
        return parsed
    remedy = "Write e.g. sqlite:///optuna.db or postgresql://user:password@host/name."
    raise ConfigError(_KEY, redact_urls(url), rule, remedy) from None


def _no_driver(parsed: sqlalchemy.URL, error: ImportError) -> ConfigError:
    driver = _DRIVERS.get(parsed.drivername, getattr(error.__cause__ or error, "name", None) or "its driver")
    rule = f"the driver for {parsed.drivername} is not installed"
    shown = redact_urls(parsed.render_as_string(hide_password=False))
    return ConfigError(_KEY, shown, rule, f"Run: pip install {driver}")


def _is_damaged(cause: str) -> bool:
    """Whether an error of SQLite says that a page of the database is damaged, or that the file is none."""
    return "malformed" in cause or "not a database" in cause


@contextlib.contextmanager
def _creation_lock(url: str, path: Path | None) -> Iterator[None]:
    """Hold a lock while tables are created, so that processes of one user on this machine do not create them twice.

    A lock beside a SQLite database must be held. That for a server is a convenience, since processes elsewhere do not
    see it: if its file cannot be opened, the block runs without.
    """
    with contextlib.ExitStack() as stack:
        if path is not None:
            stack.enter_context(hold_file(path.with_name(f"{path.name}.lock"), key=_KEY))
        else:
            try:
                stack.enter_context(hold_file(_server_lock(url)))
            except DiskError as error:
                log.warning("no lock while the tables of the study database are created: %s", error)
        yield


def _server_lock(url: str) -> Path:
    """Return the lock file for a database server. Each user has an own one, since nobody may open that of another."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sweeper-{os.getuid()}-{digest}.lock"


def _redact(url: str, error: BaseException) -> str:
    """Return the first line of an error without the password of ``url``."""
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    password = sqlalchemy.make_url(url).password
    line = text[0] if text else type(error).__name__
    return line.replace(str(password), "***") if password else line
