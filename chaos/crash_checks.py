"""The checks of `crash_points`: a disturbed sweep must end like the undisturbed one, and leave nothing behind.

`read_state` reads a sweep: store, reports, Optuna and MLflow (both databases without sweeper), in a process of its own.
The other functions return complaints, whose first word is the name of the rule that was violated.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.crash_session import CHUNK_S, STUDY, SWEEP
from sweeper.disk.atomic import is_unfinished
from sweeper.errors import StoreError
from sweeper.store.paths import OutputsPaths
from sweeper.store.serialization import to_jsonable
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState

__all__ = ["State", "compare", "not_durable", "read_records", "read_state"]

_TIMES = {"started_at", "finished_at"}
_OPTUNA_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "infeasible": "COMPLETE", "failed": "FAIL"}
_MLFLOW_STATES = {"complete": "FINISHED", "pruned": "FINISHED", "running": "SCHEDULED"}
_VOLATILE = ("sessions", "damaged", "logs", "mlartifacts")
"""Folders whose content depends on how often a sweep was stopped or repaired, or has random names."""


@dataclass(kw_only=True)
class State:
    """A sweep as it is on disk, without times."""

    records: dict[int, Any] = field(default_factory=dict)
    """Records of the trials by number, times included; `seen` and `compare` look at them."""
    confirmation: Any = None
    study: Any = None
    best: Any = None
    csv: Any = None
    files: set[str] = field(default_factory=set)
    optuna: dict[int, Any] = field(default_factory=dict)
    runs: dict[int, list[Any]] = field(default_factory=dict)
    """State, status, final value and points of each run in MLflow, by trial."""
    extra_s: float = 0.0
    """Device seconds in the ledger beyond those of the trials."""
    charged_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    """What is wrong whatever the undisturbed sweep is like."""


def read_records(outputs: Path) -> dict[int, Any]:
    """Return the records of all trials that can be read, by number, as plain values."""
    store = TrialStore(OutputsPaths(outputs).sweep(SWEEP))
    found = {}
    for paths in store.paths.trials(STUDY):
        with contextlib.suppress(StoreError):
            found[paths.number] = to_jsonable(store.read_trial(STUDY, paths.number))
    return found


def read_state(disk: Path, *, audits: bool = True) -> State:
    """Read the sweep on a disk.

    Args:
        disk: The folder of outputs and cache.
        audits: Whether to complain if `sweeper reconcile` finds anything to repair.
    """
    outputs = disk / "outputs"
    store = TrialStore(OutputsPaths(outputs).sweep(SWEEP))
    records = store.trials(STUDY)
    state = State(records={record.spec.number: to_jsonable(record) for record in records})
    state.problems += [
        f"unfinished-file: {path.relative_to(disk)}" for path in sorted(disk.rglob("*")) if _is_left_over(path)
    ]
    state.study = to_jsonable(store.read_study(STUDY))
    confirmation = store.read_confirmation(STUDY)
    state.confirmation = None if confirmation is None else to_jsonable(confirmation)
    state.best = _best(store)
    state.csv = _csv(store)
    state.files = set(_files(disk))
    cost = json.loads(store.paths.ledger.read_text())["cost"]
    state.charged_s = cost["device_s"]
    for name in ("device_s", "rows", "tokens"):
        total = sum(getattr(record.cost, name) for record in records)
        if total > cost[name] * (1 + 1e-9):
            state.problems.append(f"ledger-low: it has {cost[name]} {name}, but the trials have {total}")
    state.extra_s = state.charged_s - sum(record.cost.device_s for record in records)
    searched = {number: each for number, each in state.records.items() if each["spec"]["phase"] == "search"}
    state.optuna = _optuna(store.paths.optuna_db)
    state.problems += _optuna_problems(state.optuna, searched)
    if store.read_sweep()["settings"]["tracker"]["name"] == "mlflow":
        state.runs = _runs(OutputsPaths(outputs).mlflow_db)
        state.problems += [*_run_problems(state.runs, state.records), *_artifact_problems(outputs, store)]
    if audits:
        state.problems += _audit(store)
    return state


def compare(state: State, undisturbed: State, *, seen: Mapping[int, Any], lanes: int, num_lost: int = 1) -> list[str]:
    """Return how a sweep differs from the undisturbed one.

    Args:
        state: The sweep.
        undisturbed: The sweep that was not disturbed.
        seen: Records at an earlier time; those of finished trials must not have changed.
        lanes: Trials in a pack; a lost chunk of it may be in the ledger.
        num_lost: Chunks that may have been lost.
    """
    found = list(state.problems)
    mine, other = ({n: _timeless(r) for n, r in each.records.items()} for each in (state, undisturbed))
    found += [f"lost-trial: {number} is missing" for number in other.keys() - mine.keys()]
    found += [f"extra-trial: {number} is not in the undisturbed sweep" for number in mine.keys() - other.keys()]
    found += [
        f"differing-trial: {number}: {_difference(mine[number], other[number])}"
        for number in sorted(mine.keys() & other.keys())
        if mine[number] != other[number]
    ]
    found += [
        f"changed-trial: {number} changed after it had finished: {_difference(state.records.get(number), record)}"
        for number, record in seen.items()
        if TrialState(record["state"]).is_finished and state.records.get(number) != record
    ]
    for name in ("confirmation", "study", "best", "csv"):
        if getattr(state, name) != getattr(undisturbed, name):
            what = _difference(getattr(state, name), getattr(undisturbed, name))
            found.append(f"differing-{name}: {what}")
    found += [f"missing-file: {name}" for name in sorted(undisturbed.files - state.files)]
    found += [f"leftover-file: {name}" for name in sorted(state.files - undisturbed.files)]
    for name in ("optuna", "runs"):
        if getattr(state, name) != getattr(undisturbed, name):
            what = _difference(getattr(state, name), getattr(undisturbed, name))
            found.append(f"differing-{'mlflow' if name == 'runs' else name}: {what}")
    if state.extra_s > undisturbed.extra_s + lanes * CHUNK_S * num_lost + 1e-6:
        found.append(
            f"ledger-high: by {state.extra_s - undisturbed.extra_s:g} s, but a chunk costs {lanes * CHUNK_S:g}"
        )
    return found


def not_durable(outputs: Path, reported: Mapping[Any, Any]) -> list[str]:
    """Return what a session had saved, but is not on the disk that a power failure left."""
    records = read_records(outputs)
    found: list[str] = []
    for key, value in reported.items():
        if key == "charged":
            found += _not_charged(outputs, value)
            continue
        (_, number), (chunks, state) = key, value
        record = records.get(number)
        if record is None:
            found.append(f"not-durable: trial {number} was saved, but is gone")
        elif TrialState(state).is_finished and record["state"] != state:
            found.append(f"not-durable: trial {number} was {state}, but is {record['state']}")
        elif len(record["measurements"]) < chunks:
            found.append(f"not-durable: trial {number} had {chunks} chunks, but has {len(record['measurements'])}")
    return found


def _not_charged(outputs: Path, charged_s: float) -> Iterator[str]:
    path = TrialStore(OutputsPaths(outputs).sweep(SWEEP)).paths.ledger
    try:
        found = json.loads(path.read_text())["cost"]["device_s"]
    except (OSError, ValueError, KeyError) as error:
        yield f"not-durable: the ledger had {charged_s:g} device seconds, but cannot be read ({type(error).__name__})"
    else:
        if found < charged_s:
            yield f"not-durable: the ledger had {charged_s:g} device seconds, but has {found:g}"


def _is_left_over(path: Path) -> bool:
    return is_unfinished(path) and not {"mlartifacts", "damaged"} & set(path.parts)


def _files(disk: Path) -> Iterator[str]:
    for path in (disk / "outputs").rglob("*"):
        name = path.relative_to(disk / "outputs")
        hidden = path.name.endswith((".lock", "-wal", "-shm")) or ".damaged-" in path.name
        if path.is_file() and not hidden and not _is_left_over(path) and not set(_VOLATILE) & set(name.parts):
            yield str(name)


def _timeless(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in _TIMES}


def _best(store: TrialStore) -> Any:
    if not store.paths.best.exists():
        return None
    content = json.loads(store.paths.best.read_text())
    for study in content["studies"]:
        for name in ("device_s", "wall_s"):  # lost chunks and repeated starts included
            study.pop(name)
    return content


def _csv(store: TrialStore) -> Any:
    if not store.paths.trials_csv.exists():
        return None
    rows = csv.DictReader(io.StringIO(store.paths.trials_csv.read_text()))
    return {row["trial"]: {key: value for key, value in row.items() if key not in _TIMES} for row in rows}


def _optuna(path: Path) -> dict[int, Any]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT trial_id, number, state FROM trials ORDER BY number").fetchall()
        tables = {
            "params": "SELECT param_name, param_value FROM trial_params WHERE trial_id = ?",
            "values": "SELECT objective, value FROM trial_values WHERE trial_id = ?",
            "rungs": "SELECT step, intermediate_value FROM trial_intermediate_values WHERE trial_id = ?",
        }
        return {
            number: {
                "state": state,
                **{name: sorted(database.execute(query, (trial,)).fetchall()) for name, query in tables.items()},
            }
            for trial, number, state in rows
        }


def _optuna_problems(optuna: Mapping[int, Any], records: Mapping[int, Any]) -> Iterator[str]:
    for number in sorted(optuna.keys() ^ records.keys()):
        yield f"optuna-differs: trial {number} is only in {'Optuna' if number in optuna else 'the store'}"
    for number in sorted(optuna.keys() & records.keys()):
        expected = _OPTUNA_STATES.get(records[number]["state"], "RUNNING")
        if optuna[number]["state"] != expected:
            yield f"optuna-differs: trial {number} is {optuna[number]['state']}, but should be {expected}"


def _runs(path: Path) -> dict[int, list[Any]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        experiments = "SELECT experiment_id FROM experiments WHERE name = ?"
        runs = database.execute(
            f"SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active' AND experiment_id IN ({experiments})",  # noqa: S608
            (f"{SWEEP}/{STUDY}",),
        ).fetchall()
        found: dict[int, list[Any]] = {}
        for run, status in runs:
            tags = dict(database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,)).fetchall())
            points = database.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run,)).fetchall()
            if "trial" in tags:
                content = {"status": status, "state": tags.get("state"), "points": sorted(set(points))}
                found.setdefault(int(tags["trial"]), []).append(content)
        return found


def _run_problems(runs: Mapping[int, list[Any]], records: Mapping[int, Any]) -> Iterator[str]:
    for number in sorted(runs.keys() ^ records.keys()):
        yield f"mlflow-differs: trial {number} is only in {'MLflow' if number in runs else 'the store'}"
    for number in sorted(runs.keys() & records.keys()):
        if len(runs[number]) != 1:
            yield f"mlflow-repeated: trial {number} has {len(runs[number])} runs"
        (run, *_), record = runs[number], records[number]
        expected = (_MLFLOW_STATES.get(record["state"], "FAILED"), record["state"])
        if (run["status"], run["state"]) != expected:
            found = f"{run['status']} {run['state']}"
            yield f"mlflow-differs: trial {number} is {found}, but should be {' '.join(expected)}"


def _artifact_problems(outputs: Path, store: TrialStore) -> Iterator[str]:
    """Complain about copies in MLflow that differ from the store: a kill may leave a part of one."""
    with contextlib.closing(sqlite3.connect(OutputsPaths(outputs).mlflow_db)) as database:
        query = "SELECT artifact_uri, value FROM runs JOIN tags USING (run_uuid) WHERE key = 'trial'"
        rows = database.execute(f"{query} AND lifecycle_stage = 'active'").fetchall()
    for uri, number in rows:
        folder, paths = Path(uri.removeprefix("file://")), store.paths.trial(STUDY, int(number))
        copies = Counter(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if paths.record.exists() and "trial.json" not in copies and _is_finished(paths.record):
            yield f"mlflow-artifact: trial {number} has no copy of its record"
        for name in copies:
            original = paths.folder / name
            if original.is_file() and original.read_bytes() != (folder / name).read_bytes():
                yield f"mlflow-artifact: {name} of trial {number} differs from the store's"


def _is_finished(path: Path) -> bool:
    return json.loads(path.read_text())["state"] != TrialState.RUNNING.value


def _audit(store: TrialStore) -> list[str]:
    from rich.console import Console

    from sweeper.recovery.reconcile import reconcile_sweep

    page = io.StringIO()
    if reconcile_sweep(store, console=Console(file=page, width=200), dry_run=True):
        return []
    rows = [" ".join(line.replace("│", " ").split()) for line in page.getvalue().splitlines() if line.startswith("│")]
    return [f"reconcile-needed: {row}" for row in rows] or ["reconcile-needed: it found differences"]


def _difference(mine: Any, other: Any, where: str = "") -> str:
    """Return the first place where two values differ, and what they are there."""
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        for key in [*other, *mine]:
            if mine.get(key) != other.get(key):
                return _difference(mine.get(key), other.get(key), f"{where}/{key}")
    if isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        for index, (left, right) in enumerate(zip(mine, other, strict=True)):
            if left != right:
                return _difference(left, right, f"{where}[{index}]")
    return f"{where or 'value'} is {str(mine)[:80]}, but should be {str(other)[:80]}"
