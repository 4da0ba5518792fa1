"""The tables of a sweep as pandas frames: its trials, their measurements, the rows they scored, and its verdicts.

One row per observation; units are in the names of the columns, which docs/api.md explains. `trial_frame` is also the
content of trials.csv. Called by `report` and `load`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweeper.figures.hyperparameters import ALPHA, alpha
from sweeper.figures.ranking import finite_value
from sweeper.figures.rungs import rung_epoch
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["measurement_frame", "outcome_frame", "trial_frame", "verdict_frame"]

_TRIAL_COLUMNS = ("study", "dataset", "model", "method", "trial", "state", "phase", "origin", "seed", "value")
_MEASUREMENT_COLUMNS = ("study", "dataset", "trial", "chunk", "epoch", "rows", "device_s", "is_rung", "value")
_OUTCOME_COLUMNS = ("study", "dataset", "trial", "chunk", "row", "loss", "predicted", "target", "is_right", "tokens")
_VERDICT_COLUMNS = (
    "study",
    "dataset",
    "candidate",
    "source",
    "is_recommended",
    "is_best",
    "is_equivalent",
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
    "probability_best",
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


def outcome_frame(store: TrialStore, *, chunk: int | None = None, split: str = "validation") -> pd.DataFrame:
    """Return every row that was scored, of every trial whose outcomes are on disk.

    Args:
        store: The sweep.
        chunk: The rung; the latest one of each trial if None.
        split: ``validation`` or ``test``; on test rows, only adapters of the last chunk are scored.

    Raises:
        ValueError: The split is another one, or a rung is asked for on the test rows.
    """
    if split not in ("validation", "test") or (split == "test" and chunk is not None):
        raise ValueError(f"split={split!r}, chunk={chunk}: split must be validation or test, and test has no rungs")
    studies = store.studies()
    labels = list(dict.fromkeys(label for study in studies for label in study.labels))
    frames = [
        frame
        for study in studies
        for trial in store.trials(study.name)
        if (frame := _outcomes(store, study, trial, chunk=chunk, split=split, labels=labels)) is not None
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(_OUTCOME_COLUMNS))


def verdict_frame(best: Mapping[str, Any]) -> pd.DataFrame:
    """Return every candidate of every study after its trials with fresh seeds.

    Args:
        best: Content of best.json. A study that was not confirmed has no rows.
    """
    rows = [
        _verdict_row(study, candidate)
        for study in best["studies"]
        for candidate in (study["confirmation"] or {}).get("candidates", ())
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


def _outcomes(
    store: TrialStore, study: StudyRecord, record: TrialRecord, *, chunk: int | None, split: str, labels: Sequence[str]
) -> pd.DataFrame | None:
    """Return the outcomes of one trial, with labels as a category; None if there are none."""
    number, rung = record.spec.number, record.last_rung
    at = chunk if chunk is not None else rung.chunk if rung else 0
    found = store.read_test_outcomes(study.name, number) if split == "test" else None
    if split == "validation":
        found = store.read_outcomes(study.name, number, at)
    if found is None:
        return None
    # The last code is a missing value, for labels that no training row has.
    codes = np.array([*(labels.index(label) for label in study.labels), -1], dtype=np.int64)

    def named(labels_N: np.ndarray[Any, Any] | None) -> Any:
        found_N = np.full(found.num_rows, -1) if labels_N is None else codes[np.minimum(labels_N, len(study.labels))]
        return pd.Categorical.from_codes(found_N, categories=pd.Index(labels, dtype=str))

    predicted_N, target_N = found.predicted_N, found.target_N
    is_right = None if predicted_N is None or target_N is None else predicted_N == target_N
    columns = {
        "study": study.name,
        "dataset": study.dataset,
        "trial": number,
        "chunk": at,
        "row": np.arange(found.num_rows),
        "loss": found.loss_N.astype(np.float64),
        "predicted": named(predicted_N),
        "target": named(target_N),
        "is_right": pd.NA if is_right is None else is_right,
        "tokens": 1 if found.tokens_N is None else found.tokens_N,
    }
    return pd.DataFrame(columns).astype({"is_right": "boolean"})


def _verdict_row(study: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Any]:
    block, name, test = study["confirmation"], candidate["name"], candidate["test"] or {}
    against_default, against_best = candidate["against_default"] or {}, candidate["against_best"] or {}
    other_metrics = {key: value for key, value in candidate["metrics"].items() if key != study["metric"]}
    return {
        "study": study["name"],
        "dataset": study["dataset"],
        "candidate": name,
        "source": candidate["source"],
        "is_recommended": name == block["recommended"],
        "is_best": name == block["best"],
        "is_equivalent": name in block["equivalent"],
        "is_simplest": name == block["simplest"],
        "is_best_under_cap": name == block["best_under_cap"],
        "is_default": name == block["default"],
        "num_seeds": len(candidate["seeds"]),
        **_interval("value", candidate["metrics"].get(study["metric"])),
        "verdict": against_default.get("verdict"),
        **_interval("gain", against_default.get("gain")),
        "seeds_needed": against_default.get("seeds_needed"),
        "rows_needed": against_default.get("rows_needed"),
        "verdict_against_best": against_best.get("verdict"),
        **_interval("gain_over_best", against_best.get("gain")),
        "probability_best": candidate["probability_best"],
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
