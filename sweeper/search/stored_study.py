"""Reads a study from the database, so that it can be compared with the store; deletes one that contradicts the store.

Called by `sweeper.recovery`. Adds nothing: `study.Search.sync` adds what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import optuna
import sqlalchemy

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import StoreError, SweeperError
from sweeper.search.distributions import from_shown, shown_distributions
from sweeper.search.mirror import is_infeasible, score_of
from sweeper.search.storage import open_storage, translate_errors
from sweeper.store.sqlite import sqlite_fault, sqlite_files
from sweeper.types import TrialState, ViewedTrial

__all__ = ["database_fault", "database_files", "delete_study", "export_study", "read_study"]

_EXPORTED = (
    "number",
    "values",
    "params",
    "intermediate_values",
    "user_attrs",
    "system_attrs",
    "datetime_start",
    "datetime_complete",
)
_STATES = {
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
}


def database_files(url: str) -> list[Path]:
    """Return the existing files of a SQLite database; none for a database server."""
    path = _sqlite_path(url)
    return sqlite_files(path) if path else []


def database_fault(url: str) -> str:
    """Return why a SQLite database cannot be used; empty if it can, does not exist yet, or belongs to a server."""
    path = _sqlite_path(url)
    if path is None or not path.exists():
        return ""
    if fault := sqlite_fault(path):
        return fault
    try:
        with translate_errors(url):
            open_storage(url).engine.dispose()
    except SweeperError as error:
        return f"the database cannot be read ({error})"
    return ""


def read_study(url: str, name: str, space: SearchSpace) -> list[ViewedTrial] | None:
    """Return the trials of a study, or None if there is no such study. Trials that are only enqueued are left out.

    Raises:
        ConfigError: The database cannot be opened.
        StoreError: The database failed.
    """
    storage = open_storage(url)
    try:
        with translate_errors(url):
            if name not in {summary.study_name for summary in storage.get_all_studies()}:
                return None
            trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
            shown = shown_distributions(space)
            return [
                # Half a configuration is none, and numbers with other distributions than ours may mean something else.
                _viewed(trial, from_shown(space, trial.params) if trial.distributions == shown else {})
                for trial in trials
                if trial.state is not optuna.trial.TrialState.WAITING
            ]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def export_study(url: str, name: str) -> bytes:
    """Return all that the database has of a study's trials as JSON, to keep it before `delete_study`.

    Raises:
        StoreError: The database failed, or has no such study.
    """
    storage = open_storage(url)
    try:
        with translate_errors(url):
            trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
        rows = [{"state": trial.state.name, **{key: getattr(trial, key) for key in _EXPORTED}} for trial in trials]
        return json.dumps(rows, indent=1, default=str).encode()
    except KeyError as error:
        raise StoreError(f"the study database has no study {name}") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def delete_study(url: str, name: str) -> None:
    """Delete a study from the database. It can be rebuilt from the store.

    Raises:
        StoreError: The database failed, or has no such study.
    """
    storage = open_storage(url)
    try:
        with translate_errors(url):
            storage.delete_study(storage.get_study_id_from_name(name))
    except KeyError as error:
        raise StoreError(f"the study database has no study {name}") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _sqlite_path(url: str) -> Path | None:
    parsed = sqlalchemy.make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _viewed(trial: optuna.trial.FrozenTrial, params: Mapping[str, ParamValue]) -> ViewedTrial:
    infeasible = is_infeasible(trial)
    is_complete = trial.state is optuna.trial.TrialState.COMPLETE
    return ViewedTrial(
        number=trial.number,
        # Infeasible trials are stored as complete with a violated constraint (see `StudyMirror.finish`).
        state=TrialState.INFEASIBLE if infeasible and is_complete else _STATES[trial.state],
        value=score_of(trial) if is_complete and not infeasible else None,
        params=params,
        origin=str(trial.user_attrs.get("origin", "")),
    )
