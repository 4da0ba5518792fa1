"""Prepares MLflow for our clients and server: URIs, environment variables, and the schema of its database.

Importing mlflow takes seconds, so it is imported only in functions that run in the tracker's thread, in `server` or in
`sweeper.recovery`. Called by `make_tracker` and `server.serve`; `mlflow_runs` does the writing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.disk.atomic import move
from sweeper.disk.lock import hold_file
from sweeper.errors import ConfigError
from sweeper.store.paths import OutputsPaths
from sweeper.store.sqlite import sqlite_fault, sqlite_files
from sweeper.track.background import Writer
from sweeper.urls import redact_urls

if TYPE_CHECKING:
    from sweeper.track.mlflow_audit import MlflowAudit

__all__ = [
    "artifact_folder",
    "connect",
    "database_fault",
    "database_files",
    "open_audit",
    "prepare_database",
    "set_environment",
    "tracking_uri",
]

_SQLITE = "sqlite:///"
_SCHEMES = ("http://", "https://", "sqlite://", "postgresql", "mysql", "mssql", "databricks")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # with the default, one call to a dead server takes 4 minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # one line per run would break the live view
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
}


def tracking_uri(uri: str, outputs: Path) -> str:
    """Return the tracking URI to use: the one given, or a SQLite file in the outputs folder; paths become absolute.

    Raises:
        ConfigError: The URI is not one of a server or a database.
    """
    if not uri:
        return f"{_SQLITE}{OutputsPaths(outputs).mlflow_db}"
    if not uri.startswith(_SCHEMES):
        raise ConfigError(
            "tracker.uri",
            redact_urls(uri),
            "MLflow needs the URI of a server or a database",
            "Give http://host:port, sqlite:///path/to/mlflow.db or postgresql://…, or leave it empty.",
        )
    path = _sqlite_path(uri)
    return f"{_SQLITE}{path.absolute()}" if path else uri


def artifact_folder(uri: str, outputs: Path) -> str:
    """Return the URI of the folder for artifacts; empty if a tracking server chooses it."""
    return OutputsPaths(outputs).mlflow_artifacts.as_uri() if uri.startswith(_DATABASES) else ""


def set_environment() -> None:
    """Set our defaults for variables that the user has not set; must be called before mlflow is first imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It logs the traceback of every failing query. The error is raised as well, and `background` logs it once.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # mlflow 3.17 with SQLAlchemy 2.1; users cannot do anything about it.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated", module=r"mlflow\.")


def prepare_database(uri: str) -> None:
    """Create the schema of a SQLite database before several processes open it.

    Two processes that open an empty database at the same time corrupt it, and so does a kill while its 65 tables are
    created. So one process creates them under a lock, in a temporary file, and moves the finished file into place.
    An empty file counts as absent: SQLite creates one when a connection reopens a database that was moved away.
    """
    path = _sqlite_path(uri)
    if path is None or _has_content(path):
        return
    with hold_file(path.with_name(f".{path.name}.lock"), key="tracker.uri"):
        if _has_content(path):
            return
        aside = path.with_name(f".{path.name}.tmp")
        # A journal that was left behind would be played back into the new database.
        for leftover in [*sqlite_files(aside), *sqlite_files(path)]:
            leftover.unlink()
        _make_schema(f"{_SQLITE}{aside}")
        move(aside, path)


def connect(uri: str, *, artifacts: str, sweep: str, tags: Mapping[str, str]) -> Writer:
    """Return the writer of a sweep; takes seconds the first time. For the arguments see `MlflowRuns`."""
    set_environment()
    prepare_database(uri)
    from sweeper.track.mlflow_runs import MlflowRuns  # imports mlflow

    return MlflowRuns(uri, artifacts=artifacts, sweep=sweep, tags=tags)


def open_audit(uri: str, *, sweep: str) -> MlflowAudit:
    """Return the reader of a sweep's runs; takes seconds the first time. For the arguments see `MlflowAudit`."""
    set_environment()
    prepare_database(uri)
    from sweeper.track.mlflow_audit import MlflowAudit  # imports mlflow

    return MlflowAudit(uri, sweep=sweep)


def database_files(uri: str) -> list[Path]:
    """Return the existing files of a SQLite database; none for a tracking or database server."""
    path = _sqlite_path(uri)
    return sqlite_files(path) if path else []


def database_fault(uri: str) -> str:
    """Return why a SQLite database cannot be used; empty if it can, does not exist yet, or belongs to a server."""
    path = _sqlite_path(uri)
    if path is None or not path.exists():
        return ""
    if fault := sqlite_fault(path):
        return fault
    with contextlib.closing(sqlite3.connect(path)) as connection:
        has_tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    return "" if has_tables else "the database has none of MLflow's tables"


def _sqlite_path(uri: str) -> Path | None:
    path = uri.removeprefix(_SQLITE)
    return Path(path) if uri.startswith(_SQLITE) and path and path != ":memory:" else None


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _make_schema(uri: str) -> None:
    from mlflow.tracking import MlflowClient  # imports mlflow

    MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
