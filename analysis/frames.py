"""The tables of a sweep as pandas frames: its trials, their measurements, and its verdicts.

One row per observation; units are in the names of the columns, which docs/api.md explains. `trial_frame` is also the
content of trials.csv. Called by `report` and `load`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from sweeper.figures.hyperparameters import ALPHA, alpha
from sweeper.figures.ranking import finite_value
from sweeper.figures.rungs import rung_epoch
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["measurement_frame", "trial_frame", "verdict_frame"]

_TRIAL_COLUMNS = ("study", "dataset", "model", "method", "trial", "state", "phase", "origin", "seed", "value")
_MEASUREMENT_COLUMNS = ("study", "dataset", "trial", "chunk", "epoch", "rows", "device_s", "is_rung", "value")
_VERDICT_COLUMNS = (
    "study",
    "dataset",
    "candidate",
    "source",
    "is_recommended",
    "is_simplest",
    "is_best_under_cap",
    "is_default",
    "num_seeds",
    "value",
    "value_low",
    "value_high",
    "verdict",
    "gain",
    "gain_low",
    "gain_high",
    "seeds_needed",
    "rows_needed",
    "verdict_against_best",
    "gain_over_best",
    "gain_over_best_low",
    "gain_over_best_high",
    "search_value",
    "optimism",
    "test_value",
    "test_low",
    "test_high",
    "num_test_rows",
    "num_parameters",
    "device_s",
)
_TIMES = ("started_at", "finished_at")
_COUNTS = ("seeds_needed", "rows_needed", "num_test_rows")
"""Counts that may be missing, so that they need pandas' own type of integers."""


def trial_frame(store: TrialStore) -> pd.DataFrame:
    """Return every trial of a sweep, by study and number.

    The columns identify the trial, and have its objective (``value``), every hyperparameter by its dotted key
    (including ``lora.alpha``), its latest metrics, its cost and its times.
    """
    rows = [_trial_row(study, trial) for study in store.studies() for trial in store.trials(study.name)]
    frame = pd.DataFrame(rows, columns=_column_order(rows, _TRIAL_COLUMNS))
    for name in frame.columns.intersection(list(_TIMES)):
        frame[name] = pd.to_datetime(frame[name], format="ISO8601", utc=True)
    return frame


def measurement_frame(store: TrialStore) -> pd.DataFrame:
    """Return every chunk of every trial, with its metrics; ``value`` is the objective, and missing between rungs."""
    rows = [
        row
        for study in store.studies()
        for trial in store.trials(study.name)
        for row in _measurement_rows(study, trial)
    ]
    return pd.DataFrame(rows, columns=_column_order(rows, _MEASUREMENT_COLUMNS))


def verdict_frame(best: Mapping[str, Any]) -> pd.DataFrame:
    """Return every candidate of every study after its trials with fresh seeds.

    Args:
        best: Content of best.json. A study that was not confirmed has no rows.
    """
    rows = [
        _verdict_row(study, candidate)
        for study in best["studies"]
        for candidate in (study.get("confirmation") or {}).get("candidates", ())
    ]
    frame = pd.DataFrame(rows, columns=_column_order(rows, _VERDICT_COLUMNS))
    return frame.astype(dict.fromkeys(_COUNTS, "Int64"))


def _trial_row(study: StudyRecord, record: TrialRecord) -> dict[str, Any]:
    spec, failure = record.spec, record.failure
    latest = record.measurements[-1].metrics if record.measurements else {}
    return {
        "study": study.name,
        "dataset": study.dataset,
        "model": study.model,
        "method": study.method,
        "trial": spec.number,
        "state": record.state.value,
        "phase": spec.phase.value,
        "origin": spec.origin,
        "seed": spec.seed,
        "value": finite_value(study, record),
        **spec.by_key(),
        ALPHA: alpha(spec.lora),
        **latest,
        **(record.last_rung.metrics if record.last_rung else {}),
        "chunks": record.chunks_done,
        "rows": record.cost.rows,
        "tokens": record.cost.tokens,
        "device_s": record.cost.device_s,
        "num_parameters": record.num_parameters,
        "num_retries": record.num_retries,
        "failure": failure.kind.value if failure else "",
        "failure_message": failure.message if failure else "",
        "started_at": record.started_at or None,
        "finished_at": record.finished_at or None,
        "initial_hash": record.initial_hash,
    }


def _measurement_rows(study: StudyRecord, record: TrialRecord) -> Iterator[dict[str, Any]]:
    for measurement in record.measurements:
        yield {
            "study": study.name,
            "dataset": study.dataset,
            "trial": record.spec.number,
            "chunk": measurement.chunk,
            "epoch": rung_epoch(study, measurement),
            "rows": measurement.rows,
            "device_s": measurement.elapsed_s,
            "is_rung": measurement.is_rung,
            "value": measurement.metrics.get(study.metric),
            **measurement.metrics,
        }


def _verdict_row(study: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Any]:
    confirmation, name, test = study["confirmation"], candidate["name"], candidate["test"] or {}
    against_default, against_best = candidate["against_default"] or {}, candidate["against_best"] or {}
    other_metrics = {key: value for key, value in candidate["metrics"].items() if key != study["metric"]}
    return {
        "study": study["name"],
        "dataset": study["dataset"],
        "candidate": name,
        "source": candidate["source"],
        "is_recommended": name == confirmation["recommended"],
        "is_simplest": name == confirmation["simplest"],
        "is_best_under_cap": name == confirmation["best_under_cap"],
        "is_default": name == confirmation["default"],
        "num_seeds": len(candidate["seeds"]),
        **_interval("value", candidate["metrics"].get(study["metric"])),
        "verdict": against_default.get("verdict"),
        **_interval("gain", against_default.get("gain")),
        "seeds_needed": against_default.get("seeds_needed"),
        "rows_needed": against_default.get("rows_needed"),
        "verdict_against_best": against_best.get("verdict"),
        **_interval("gain_over_best", against_best.get("gain")),
        "search_value": candidate["search_value"],
        "optimism": candidate["optimism"],
        "test_value": test.get("value"),
        "test_low": (test.get("interval") or {}).get("low"),
        "test_high": (test.get("interval") or {}).get("high"),
        "num_test_rows": test.get("num_rows"),
        "num_parameters": candidate["num_parameters"],
        "device_s": candidate["device_s"],
        **candidate["hyperparameters"],
        **{key: value for metric, found in other_metrics.items() for key, value in _interval(metric, found).items()},
    }


def _interval(name: str, found: Mapping[str, float] | None) -> dict[str, float | None]:
    """Return the columns of an estimate and its interval."""
    found = found or {}
    return {name: found.get("estimate"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")}


def _column_order(rows: Iterable[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    """Return the union of all columns, in order; studies may differ in their metrics."""
    names = dict.fromkeys(name for row in rows for name in row)
    metrics = sorted(name for name in names if "/" in name)
    hyperparameters = sorted(name for name in names if "." in name and "/" not in name)
    rest = [name for name in names if "." not in name and "/" not in name and name not in first]
    return [*first, *hyperparameters, *metrics, *rest]
