"""The invariants of a sweep after fault injection. Reads Optuna and MLflow directly, not through sweeper.

Each function returns problems as text; an empty list means that the check passed. `run` calls `check_all`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from mlflow.tracking import MlflowClient
from safetensors import safe_open

from chaos.adapters import check_adapter
from chaos.events import count_hung
from chaos.faults import is_expected
from chaos.undisturbed import Undisturbed, recorded_losses
from chaos.workload import KEEP_ADAPTERS, Workload
from sweeper.config.compose import compose
from sweeper.data import prepare_splits
from sweeper.recovery.differences import Place
from sweeper.store.damage import has_checksum
from sweeper.store.paths import OutputsPaths
from sweeper.store.retention import adapters_to_keep, rung_adapter_to_keep
from sweeper.store.trials import TrialStore
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = [
    "LOSS_TOLERANCE",
    "Findings",
    "MlflowRun",
    "check_all",
    "check_best",
    "compare_rows",
    "curve_problems",
    "needed_repairs",
]

LOSS_TOLERANCE = 1e-4
"""Relative, in float32. A matrix product's rounding depends on its number of rows, so on the other trials in a pack."""
_IN_OPTUNA = {"complete": "COMPLETE", "pruned": "PRUNED", "infeasible": "COMPLETE", "failed": "FAIL"}
_IN_MLFLOW = {"complete": "FINISHED", "pruned": "FINISHED", "infeasible": "FAILED", "failed": "FAILED"}


@dataclass
class Findings:
    """What the checks of a sweep found."""

    lost: list[str] = field(default_factory=list)
    """Trials that are missing or unfinished in the store, in Optuna or in MLflow."""
    repeated: list[str] = field(default_factory=list)
    """Trials that exist twice, or whose result changed after they had finished."""
    differing: list[str] = field(default_factory=list)
    """Trials whose state or value differs between the three places, or from undisturbed training."""
    broken: list[str] = field(default_factory=list)
    """Unreadable adapters, leftover files, and costs that do not add up."""
    zombies: list[int] = field(default_factory=list)
    max_loss_difference: float = 0.0
    num_compared: int = 0
    num_infeasible: int = 0
    """Trials that ended as infeasible because of an injected fault."""
    num_hung: int = 0
    """Workers that the watchdog killed."""

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, as lines of text."""
        return [
            *self.lost,
            *self.repeated,
            *self.differing,
            *self.broken,
            *(f"process {n} is still running" for n in self.zombies),
        ]


def check_all(
    workload: Workload, *, seen: Mapping[str, Mapping[int, TrialRecord]], spent_s: float, undisturbed: Undisturbed
) -> Findings:
    """Check a finished sweep, and the one beside it.

    Args:
        workload: The sweep.
        seen: Each trial of each study as it was when it was first seen finished.
        spent_s: The largest number of device seconds that the ledger has shown.
        undisturbed: Trains the trials again without disturbance.
    """
    found = Findings()
    store = TrialStore(OutputsPaths(workload.outputs).sweep(workload.sweep))
    found.broken += _account(store, workload, spent_s)
    for study in workload.studies:
        _check_study(found, store, workload, store.read_study(study), seen=seen.get(study, {}), undisturbed=undisturbed)
    found.num_hung = count_hung(store.paths.log)
    if workload.twin is not None:
        _check_twin(found, workload.twin)
    return found


def _check_twin(found: Findings, workload: Workload) -> None:
    """Check that the sweep beside the disturbed one is complete, and that the shared database has it once."""
    store = TrialStore(OutputsPaths(workload.outputs).sweep(workload.sweep))
    for name in workload.studies:
        study, records = store.read_study(name), {r.spec.number: r for r in store.trials(name)}
        found.lost += [f"twin: trial {n} is missing" for n in range(workload.trials) if n not in records]
        found.lost += [f"twin: trial {n} is still running" for n, r in records.items() if not r.state.is_finished]
        experiment = _mlflow(workload, study)
        compare_rows(found, "MLflow", [run.row for run in experiment], study=study, records=records)


def _check_study(
    found: Findings,
    store: TrialStore,
    workload: Workload,
    study: StudyRecord,
    *,
    seen: Mapping[int, TrialRecord],
    undisturbed: Undisturbed,
) -> None:
    everyone = {r.spec.number: r for r in store.trials(study.name)}
    records = {number: r for number, r in everyone.items() if r.spec.phase is Phase.SEARCH}
    confirmation = store.read_confirmation(study.name)
    if confirmation is None or not confirmation.state.is_over:
        found.lost.append("store: the confirmation is not finished")
    found.lost += [f"store: trial {n} is missing" for n in range(workload.trials) if n not in records]
    found.lost += [f"store: trial {n} is still running" for n, r in everyone.items() if not r.state.is_finished]
    found.repeated += [
        f"store: trial {n} changed after it had finished" for n, r in seen.items() if everyone.get(n) != r
    ]
    found.broken += [f"trial {n} exceeds the budget" for n in records if n >= workload.trials]
    found.broken += _files(store, study, everyone)
    left = sorted(path for path in store.paths.incoming(study.name).rglob("*") if path.is_file())
    found.broken += [f"left-over: {path.relative_to(store.root)}" for path in left]
    runs = _mlflow(workload, study)
    compare_rows(found, "Optuna", _optuna(store, study), study=study, records=records)
    compare_rows(found, "MLflow", [run.row for run in runs], study=study, records=everyone)
    found.differing += [*curve_problems(runs, everyone), *check_best(store, study, everyone)]
    found.differing += [f"trial {n} ended as {r.state}" for n, r in everyone.items() if not _is_allowed(r)]
    found.differing += _adapters(store, workload, study, everyone)
    found.num_infeasible += sum(record.state is TrialState.INFEASIBLE for record in everyone.values())
    _retrain(found, workload, study, everyone, undisturbed)


def _is_allowed(record: TrialRecord) -> bool:
    return is_expected(record.state, record.spec.by_key()) and record.state is not TrialState.FAILED


def _files(store: TrialStore, study: StudyRecord, records: Mapping[int, TrialRecord]) -> Iterator[str]:
    keep = adapters_to_keep(study, records.values(), KEEP_ADAPTERS)
    for number, record in records.items():
        paths = store.paths.trial(study.name, number)
        adapter = paths.adapter
        rung = rung_adapter_to_keep(study, record, keeps_adapter=number in keep)
        adapters = {adapter} if rung is None else {adapter, paths.rung_adapter(rung)}
        outcomes = store.rung_outcomes(record)
        yield from (
            f"{path.name} of trial {number} is lost" for path, sha in outcomes.items() if not has_checksum(path, sha)
        )
        if extra := set(paths.folder.iterdir()) - {paths.record, *adapters, *store.useful_outcomes(record)}:
            yield f"trial {number} left behind {sorted(path.name for path in extra)}"
        for folder in sorted(path for path in adapters if path.exists()):
            yield from (f"{folder.name} of trial {number} {fault}" for fault in _adapter_faults(folder))
        if adapter.exists() != (number in keep):
            yield f"trial {number} has {'an' if adapter.exists() else 'no'} adapter, contrary to store.keep_adapters"


def _adapter_faults(folder: Path) -> Iterator[str]:
    try:
        json.loads((folder / "adapter_config.json").read_text())
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            bad = [name for name in file.keys() if not file.get_tensor(name).isfinite().all()]  # noqa: SIM118
    except Exception as error:  # noqa: BLE001  any reason for which it cannot be read is a problem to report
        yield f"cannot be read: {error}"
    else:
        yield from (f"is not finite: {name}" for name in bad)


def _account(store: TrialStore, workload: Workload, spent_s: float) -> Iterator[str]:
    cost = json.loads(store.paths.ledger.read_text())["cost"]
    records = [record for study in workload.studies for record in store.trials(study)]
    for name in ("device_s", "rows", "tokens"):
        total = sum(getattr(record.cost, name) for record in records)
        if total > cost[name] * (1 + 1e-9):
            yield f"the ledger has {cost[name]} {name}, but the trials have {total}"
    if cost["device_s"] < spent_s:
        yield f"the ledger shrank from {spent_s} to {cost['device_s']} device seconds"
    for record in records:
        chunks = [m.chunk for m in record.measurements]
        if chunks != list(range(1, len(chunks) + 1)):
            yield f"trial {record.spec.number} has measurements of chunks {chunks}"


def check_best(store: TrialStore, study: StudyRecord, records: Mapping[int, TrialRecord]) -> Iterator[str]:
    """Yield what is wrong with the best trial in best.json, computed from the records alone."""
    values = {
        n: r.measurements[-1].metrics[study.metric]
        for n, r in records.items()
        if r.spec.phase is Phase.SEARCH and r.state is TrialState.COMPLETE
    }
    best = (max if study.direction == "maximize" else min)(values.values(), default=None)
    (shown,) = (
        each["best"] for each in json.loads(store.paths.best.read_text())["studies"] if each["name"] == study.name
    )
    if shown is None or best is None:
        if shown is not best:
            yield f"best-follows: best.json has {shown}, but the best value of the records is {best}"
    elif shown["value"] != best or values.get(shown["trial"]) != best:
        yield (
            f"best-follows: best.json has trial {shown['trial']} with {shown['value']}, but the best value of the "
            f"records is {best}"
        )


def _adapters(
    store: TrialStore, workload: Workload, study: StudyRecord, records: Mapping[int, TrialRecord]
) -> Iterator[str]:
    """Yield the adapters that do not score, with PEFT alone, what the record of their trial says."""
    config = compose(workload.overrides, config_dir=workload.config_dir)
    settings = config.settings
    (dataset,) = (each for each in settings.dataset.values() if each.name == study.dataset)
    is_language_model = settings.task.name == "causal_lm"
    splits = prepare_splits(dataset, cache=Path(settings.cache), completions=is_language_model)
    for number, record in records.items():
        folder = store.adapter_dir(study.name, number)
        if not folder.exists() or record.state is not TrialState.COMPLETE:
            continue
        is_confirmation = record.spec.phase is Phase.CONFIRMATION and len(splits.confirmation) > 0
        differences = check_adapter(
            folder,
            splits.confirmation if is_confirmation else splits.validation,
            record.measurements[-1].metrics,
            base=Path(settings.model.id),
            num_labels=0 if is_language_model else len(study.labels),
            max_length=int(settings.model.max_length),
        )
        yield from (f"adapter-own: trial {number}: {difference}" for difference in differences)


def _optuna(store: TrialStore, study: StudyRecord) -> list[tuple[int, str, float | None]]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{store.paths.optuna_db}")
    try:
        trials = optuna.load_study(study_name=f"{store.root.name}/{study.name}", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()
    infeasible = {t.number for t in trials if any(v > 0 for v in t.constraints.values())}
    return [
        (
            t.number,
            f"{t.state.name}{' infeasible' * (t.number in infeasible)}",
            None if t.number in infeasible else t.value,
        )
        for t in trials
    ]


@dataclass(frozen=True)
class MlflowRun:
    """What MLflow has of a trial."""

    row: tuple[int, str, float | None]
    """Number, state and final value."""
    curves: Mapping[str, Mapping[int, float]]
    """Points of every metric by name and step."""


def _mlflow(workload: Workload, study: StudyRecord) -> list[MlflowRun]:
    client = MlflowClient(tracking_uri=f"sqlite:///{OutputsPaths(workload.outputs).mlflow_db}")
    experiment = client.get_experiment_by_name(f"{workload.sweep}/{study.name}")
    runs: list[Any] = list(client.search_runs([experiment.experiment_id], max_results=5000)) if experiment else []
    final = study.metric.replace("validation/", "final/")
    rows = []
    for run in runs:
        if "report" in run.data.tags:
            continue
        number, state = int(run.data.tags["trial"]), run.data.tags.get("state", "")
        curves = {
            name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
            for name in run.data.metrics
            if name.startswith(("train/", "validation/"))
        }
        rows.append(MlflowRun((number, f"{run.info.status} {state}", run.data.metrics.get(final)), curves))
    return rows


def curve_problems(runs: Sequence[MlflowRun], records: Mapping[int, TrialRecord]) -> Iterator[str]:
    """Yield the trials whose points in MLflow are not those of their records."""
    for run in runs:
        number = run.row[0]
        expected: dict[str, dict[int, float]] = {}
        for measurement in records[number].measurements if number in records else ():
            for name, value in measurement.metrics.items():
                if math.isfinite(value):
                    expected.setdefault(name, {})[measurement.chunk] = value
        if run.curves != expected:
            yield (
                f"curves-sent: trial {number} has {sum(map(len, run.curves.values()))} points in MLflow, but "
                f"{sum(map(len, expected.values()))} in its record, or other values"
            )


def compare_rows(
    found: Findings,
    where: str,
    rows: Sequence[tuple[int, str, float | None]],
    *,
    study: StudyRecord,
    records: Mapping[int, TrialRecord],
) -> None:
    """Compare the rows (number, state, value) of Optuna or MLflow with the store's records."""
    counts = Counter(number for number, _, _ in rows)
    found.lost += [f"{where}: trial {n} is missing" for n in records if n not in counts]
    found.repeated += [f"{where}: trial {n} exists {c} times" for n, c in counts.items() if c > 1]
    found.repeated += [f"{where}: trial {n} is unknown to the store" for n in counts if n not in records]
    for number, state, value in rows:
        record = records.get(number)
        if record is None:
            continue
        expected, score = _expected(where, record), study.value(record)
        if state != expected:
            kind = found.lost if "RUNNING" in state or "SCHEDULED" in state else found.differing
            kind.append(f"{where}: trial {number} is {state}, but should be {expected}")
        shown = record.state is TrialState.COMPLETE or where == "MLflow"
        if shown and value is not score and not math.isclose(value or 0, score or 0, abs_tol=1e-12):
            found.differing.append(f"{where}: trial {number} has value {value}, but should have {score}")


def _expected(where: str, record: TrialRecord) -> str:
    state = record.state.value
    if where == "Optuna":
        return _IN_OPTUNA.get(state, "RUNNING") + (" infeasible" if record.state is TrialState.INFEASIBLE else "")
    return f"{_IN_MLFLOW.get(state, 'RUNNING')} {state}"


def needed_repairs(output: str, *, mlflow_was_taken: bool) -> list[str]:
    """Return the differences that ``sweeper reconcile`` printed: a sweep must need no repair after faults.

    Args:
        output: What it printed.
        mlflow_was_taken: Whether MLflow's database was moved away in this sweep. What was sent to it before is missing
            in the new one until the next session sends it again, and a finished sweep has no further session.
    """
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    places = [row for row in rows if row and row[0]]
    return [f"repair-needed: {' | '.join(row)}" for row in places if not (mlflow_was_taken and row[0] == Place.TRACKER)]


def _retrain(
    found: Findings,
    workload: Workload,
    study: StudyRecord,
    records: Mapping[int, TrialRecord],
    undisturbed: Undisturbed,
) -> None:
    trained = [r for r in records.values() if r.measurements and r.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    again = undisturbed.losses(workload, study.name, trained, seed=records[0].spec.seed)
    for record in trained:
        recorded = recorded_losses(record)
        pairs = list(zip(recorded, again[record.spec.number], strict=True))
        difference = max(abs(one - other) / max(abs(other), 0.1) for one, other in pairs)
        found.max_loss_difference = max(found.max_loss_difference, difference)
        found.num_compared += 1
        if not difference <= LOSS_TOLERANCE:
            found.differing.append(
                f"other-losses: trial {record.spec.number}: they differ by {difference:.2g} from those of undisturbed "
                "training"
            )
