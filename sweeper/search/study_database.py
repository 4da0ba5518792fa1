"""Writes a study to Optuna's database, where people look at it (optuna-dashboard) and `reconcile` audits it.

The database is a view: nothing that the search decides is read from it. `StudyDatabase.update` adds what it lacks of
trials in memory, so it serves every write: the first after a start, those during the search (from the thread of
`write_behind`), and repeated ones after an error. At a start, `StudyDatabase.discard_stale` first deletes what the
store contradicts. Called by `study`.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa

# Optuna's own methods take 6 ms of CPU per trial, because they read before each value that they write. The tables are
# versioned by Optuna's migrations, and the tests read them through its public interface.
from optuna.storages._rdb import models

from sweeper.config.space import SearchSpace
from sweeper.errors import StoreError, SweepMismatch
from sweeper.search.distributions import from_drawn, shown_distributions, to_shown
from sweeper.search.mirror import STATE, is_infeasible
from sweeper.search.storage import RETRIES, open_storage, translate_errors

__all__ = ["StudyDatabase"]

log = logging.getLogger(__name__)

_BATCH = 200
"""Trials per transaction; old versions of SQLite allow 999 variables in a statement."""
_TRIALS: Any = models.TrialModel.__table__
_PARAMS: Any = models.TrialParamModel.__table__
_VALUES: Any = models.TrialValueModel.__table__
_RUNGS: Any = models.TrialIntermediateValueModel.__table__
_USER_ATTRS: Any = models.TrialUserAttributeModel.__table__
_SYSTEM_ATTRS: Any = models.TrialSystemAttributeModel.__table__
_KEYS = {_PARAMS: "param_name", _VALUES: "objective", _RUNGS: "step", _USER_ATTRS: "key", _SYSTEM_ATTRS: "key"}
"""The tables of a trial's properties; each has a row per trial and key."""
_TRIAL_TABLES = [table for table in reversed(models.BaseModel.metadata.sorted_tables) if "trial_id" in table.c]
"""All tables with rows of trials, in an order in which foreign keys allow to delete them."""
_Trial = optuna.trial.FrozenTrial
_Row = dict[str, Any]
T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class _StoredTrial:
    """What the database has of a trial."""

    trial_id: int
    state: optuna.trial.TrialState
    numbers: defaultdict[Any, dict[Any, Any]] = field(default_factory=lambda: defaultdict(dict))
    """Its parameters, values and values at rungs, by table and key; None for a value that is not finite."""
    ending: str | None = None
    """How it ended, as in the store."""
    is_readable: bool = True
    """Whether its parameters have our distributions; otherwise their numbers may mean something else."""


class StudyDatabase:
    """A study in the database. Use `StudyDatabase.open` to create one.

    Args:
        storage: The database.
        study: The study in it.
        space: The search space.
    """

    def __init__(self, storage: optuna.storages.RDBStorage, study: optuna.Study, space: SearchSpace) -> None:
        self._storage, self._space = storage, space
        self._name = study.study_name
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._has_cost = len(study.directions) > 1
        self._distributions = shown_distributions(space)
        self._distributions_json = {
            key: optuna.distributions.distribution_to_json(each) for key, each in self._distributions.items()
        }

    @classmethod
    def open(cls, name: str, space: SearchSpace, *, directions: Mapping[str, str], url: str) -> StudyDatabase:
        """Open a study; create it if it does not exist.

        Args:
            name: ``<sweep>/<study>``.
            space: The search space; must be the one the study was started with.
            directions: ``maximize`` or ``minimize`` by objective: the metric, and the cost if there is one.
            url: SQLAlchemy URL of the database.

        Raises:
            ConfigError: The database cannot be opened.
            SweepMismatch: The study was started with another space or other directions.
            StorageDown: The database failed.
        """
        storage = open_storage(url)
        try:
            with translate_errors(url):
                study = RETRIES(
                    optuna.create_study,
                    study_name=name,
                    storage=storage,
                    directions=list(directions.values()),
                    load_if_exists=True,
                )
                _check_same(study, space, directions)
                return cls(storage, study, space)
        except BaseException:
            storage.engine.dispose()
            raise

    def close(self) -> None:
        """Close the connections to the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def num_trials(self) -> int:
        """Trials in the database, whatever their state."""
        query = sa.select(sa.func.max(_TRIALS.c.number)).where(_TRIALS.c.study_id == self._study_id)
        last: int | None = self._retry(lambda connection: connection.execute(query).scalar())
        return 0 if last is None else last + 1

    def discard_stale(self, trials: Sequence[_Trial]) -> None:
        """Delete the trials that the store contradicts; `update` then writes them again.

        Such trials are left by a loss of power, a database from a backup, or a process that died while it drew: part of
        a configuration, an end or a score that the store does not have.

        Args:
            trials: All trials of the store.

        Raises:
            StoreError: A whole configuration differs, so the database belongs to another sweep.
            StorageDown: The database failed.
        """
        stored = self._retry(self._read_study)
        stale = [
            stored[trial.number].trial_id
            for trial in trials
            if trial.number in stored and self._is_stale(stored[trial.number], trial)
        ]
        if stale:
            log.warning("%s: trials written again in the study database: %d", self._name, len(stale))
        for start in range(0, len(stale), _BATCH):
            self._retry(partial(_delete, trial_ids=stale[start : start + _BATCH]))

    def update(self, trials: Sequence[_Trial]) -> None:
        """Write what the database lacks of these trials. A trial that ended in the database is not changed.

        Raises:
            StorageDown: The database failed.
            DiskFull: Its disk has no space left.
        """
        for start in range(0, len(trials), _BATCH):
            batch = trials[start : start + _BATCH]
            self._retry(partial(self._write, trials=batch))

    def _retry(self, call: Callable[[sa.Connection], T]) -> T:
        """Make a call in a transaction of its own, and retry it while the database fails."""

        def attempt() -> T:
            with self._storage.engine.begin() as connection:
                return call(connection)

        with translate_errors(self._storage.url):
            return RETRIES(attempt)

    def _read_study(self, connection: sa.Connection) -> dict[int, _StoredTrial]:
        """Return what the database has of all trials of the study, by number."""
        is_ours = _TRIALS.c.study_id == self._study_id
        rows = connection.execute(sa.select(_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.state).where(is_ours)).all()
        found = {trial_id: _StoredTrial(trial_id=trial_id, state=state) for trial_id, _, state in rows}
        params = sa.select(
            _PARAMS.c.trial_id, _PARAMS.c.param_name, _PARAMS.c.param_value, _PARAMS.c.distribution_json
        ).join(_TRIALS, _TRIALS.c.trial_id == _PARAMS.c.trial_id)
        for trial_id, name, number, distribution in connection.execute(params.where(is_ours)):
            found[trial_id].numbers[_PARAMS][name] = number
            found[trial_id].is_readable &= distribution == self._distributions_json.get(name, distribution)
        columns = (
            (_VALUES.c.objective, _VALUES.c.value),
            (_RUNGS.c.step, _RUNGS.c.intermediate_value),
        )
        for key, value in columns:
            for trial_id, name, number in connection.execute(_of_trials(key, value).where(is_ours)):
                found[trial_id].numbers[key.table][name] = number
        endings = _of_trials(_USER_ATTRS.c.key, _USER_ATTRS.c.value_json).where(is_ours, _USER_ATTRS.c.key == STATE)
        for trial_id, _, text in connection.execute(endings):
            found[trial_id].ending = json.loads(text)
        return {number: found[trial_id] for trial_id, number, _ in rows}

    def _is_stale(self, stored: _StoredTrial, trial: _Trial) -> bool:
        """Whether `update`, which only adds, cannot turn what the database has of a trial into what the store has.

        Raises:
            StoreError: The configuration differs.
        """
        params, wanted = stored.numbers[_PARAMS], self._shown(trial)
        if not stored.is_readable or wanted.keys() - params.keys():
            return True
        if not _are_among(params, wanted):
            raise self._mismatch(trial, params)
        rungs = {} if self._has_cost else trial.intermediate_values
        # The value of an infeasible trial is the worst one seen before it ended, an order that a restart may change.
        values = stored.numbers[_VALUES] if is_infeasible(trial) else dict(enumerate(trial.values or ()))
        ending = trial.user_attrs.get(STATE)
        has_more = (
            stored.state is optuna.trial.TrialState.WAITING
            or stored.ending not in (None, ending)
            or not _are_among(stored.numbers[_RUNGS], rungs)
            or not _are_among(stored.numbers[_VALUES], values)
        )
        if has_more or not stored.state.is_finished():
            return has_more
        has_less = len(stored.numbers[_RUNGS]) < len(rungs) or len(stored.numbers[_VALUES]) < len(values)
        return has_less or stored.state is not trial.state or stored.ending != ending

    def _mismatch(self, trial: _Trial, params: Mapping[str, Any]) -> StoreError:
        known = {
            name: self._distributions[name].to_external_repr(value) if name in self._distributions else value
            for name, value in params.items()
        }
        return StoreError(
            f"trial {trial.number} of {self._name} has {from_drawn(self._space, trial.params)} in the sweep's folder "
            f"but {known} in the study database, so the database belongs to another sweep. Move the database away (it "
            "is rebuilt from the sweep's folder), or use a new sweep name"
        )

    def _write(self, connection: sa.Connection, trials: Sequence[_Trial]) -> None:
        known = self._read(connection, trials)
        new = [trial for trial in trials if trial.number not in known]
        if new:
            connection.execute(sa.insert(_TRIALS), [self._trial_row(trial) for trial in new])
        created = self._read(connection, new) if new else {}
        changed = [
            (trial, known.get(trial.number, created.get(trial.number, (0, trial.state)))[0])
            for trial in trials
            if trial.number in created or not known[trial.number][1].is_finished()
        ]
        rows: defaultdict[Any, list[_Row]] = defaultdict(list)
        for trial, trial_id in changed:
            for table, row in self._property_rows(trial):
                rows[table].append({"trial_id": trial_id, **row})
        existing = [trial_id for trial, trial_id in changed if trial.number not in created]
        for table, wanted in rows.items():
            self._insert_missing(connection, table, wanted, existing)
        for trial, trial_id in changed:
            if trial.number not in created and trial.state is not known[trial.number][1]:
                row = {key: value for key, value in self._trial_row(trial).items() if key != "datetime_start"}
                connection.execute(sa.update(_TRIALS).where(_TRIALS.c.trial_id == trial_id).values(row))

    def _read(
        self, connection: sa.Connection, trials: Iterable[_Trial]
    ) -> dict[int, tuple[int, optuna.trial.TrialState]]:
        """Return identifier and state of the trials that the database has, by number."""
        query = sa.select(_TRIALS.c.number, _TRIALS.c.trial_id, _TRIALS.c.state).where(
            _TRIALS.c.study_id == self._study_id, _TRIALS.c.number.in_([trial.number for trial in trials])
        )
        return {number: (trial_id, state) for number, trial_id, state in connection.execute(query)}

    @staticmethod
    def _insert_missing(connection: sa.Connection, table: Any, wanted: Sequence[_Row], existing: Sequence[int]) -> None:
        """Insert rows, except those that the database has of trials that were there before."""
        key = _KEYS[table]
        found: set[tuple[int, Any]] = set()
        if existing:
            query = sa.select(table.c.trial_id, table.c[key]).where(table.c.trial_id.in_(existing))
            found = {(trial_id, name) for trial_id, name in connection.execute(query)}
        missing = [row for row in wanted if (row["trial_id"], row[key]) not in found]
        if missing:
            connection.execute(sa.insert(table), missing)

    def _trial_row(self, trial: _Trial) -> _Row:
        return {
            "number": trial.number,
            "study_id": self._study_id,
            "state": trial.state,
            "datetime_start": _utc(trial.datetime_start),
            "datetime_complete": _utc(trial.datetime_complete),
        }

    def _property_rows(self, trial: _Trial) -> Iterator[tuple[Any, _Row]]:
        for name, value in self._shown(trial).items():
            distribution = self._distributions_json[name]
            yield _PARAMS, {"param_name": name, "param_value": value, "distribution_json": distribution}
        for objective, value in enumerate(trial.values or ()):
            finite = models.TrialValueModel.TrialValueType.FINITE
            yield _VALUES, {"objective": objective, "value": value, "value_type": finite}
        # Optuna knows no values at rungs of studies with two objectives; the mirror has them as user attributes.
        for step, value in () if self._has_cost else trial.intermediate_values.items():
            finite_rung = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
            yield _RUNGS, {"step": step, "intermediate_value": value, "intermediate_value_type": finite_rung}
        for name, attribute in trial.user_attrs.items():
            yield _USER_ATTRS, {"key": name, "value_json": json.dumps(attribute)}
        if trial.constraints:
            # In the older of the two forms that Optuna reads: optuna-dashboard 0.21 knows no other.
            yield _SYSTEM_ATTRS, {"key": "constraints", "value_json": json.dumps(list(trial.constraints.values()))}

    def _shown(self, trial: _Trial) -> dict[str, float]:
        """Return the numbers that the database should have of a trial's parameters; none if the trial was lost."""
        params = to_shown(self._space, from_drawn(self._space, trial.params)) if trial.params else {}
        return {name: self._distributions[name].to_internal_repr(value) for name, value in params.items()}


def _check_same(study: optuna.Study, space: SearchSpace, directions: Mapping[str, str]) -> None:
    """Check that a study has the space and the directions it was started with; describe the study if it is new.

    Raises:
        SweepMismatch: A direction or a dimension of the space differs.
    """
    known = study.user_attrs.get("space")
    if known is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(directions))
        study.set_user_attr("space", json.dumps(space.texts))
        return
    stored = [direction.name.lower() for direction in study.directions]
    if stored != list(directions.values()):
        now, before = ",".join(directions.values()), ",".join(stored)
        raise SweepMismatch(
            f"direction={now}: {study.study_name} was started with direction={before}. Use a new sweep name"
        )
    space_before = json.loads(known)
    for key in dict.fromkeys([*space_before, *space.texts]):
        old, new = space_before.get(key, "fixed"), space.texts.get(key, "fixed")
        if old != new:
            raise SweepMismatch(
                f"{key}={new}: {study.study_name} was started with {key}={old}, and trials of different spaces cannot "
                f"be compared. Use a new sweep name, or set {key}={old} again"
            )


def _of_trials(key: Any, value: Any) -> sa.Select[Any]:
    """Return a query for identifier, key and value of a property, joined with the trials."""
    trial_id = key.table.c.trial_id
    return sa.select(trial_id, key, value).join(_TRIALS, _TRIALS.c.trial_id == trial_id)


def _delete(connection: sa.Connection, *, trial_ids: Sequence[int]) -> None:
    for table in _TRIAL_TABLES:
        connection.execute(sa.delete(table).where(table.c.trial_id.in_(trial_ids)))


def _are_among(stored: Mapping[Any, float | None], wanted: Mapping[Any, float]) -> bool:
    """Whether each stored number is a wanted one, up to what a database server may round."""
    return all(
        key in wanted and value is not None and math.isclose(value, wanted[key], rel_tol=1e-9)
        for key, value in stored.items()
    )


def _utc(moment: datetime | None) -> datetime | None:
    """Return a moment as the tables have it: UTC without a time zone, from local time without one."""
    return moment and moment.astimezone(UTC).replace(tzinfo=None)
