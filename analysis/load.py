"""The trials of a sweep as a table, one row a trial; what trials.csv holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from sweeper.figures.hyperparameters import ALPHA, alpha
from sweeper.figures.ranking import finite_value
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["load_trials", "trial_row"]

_COLUMNS = ("study", "dataset", "model", "method", "trial", "state", "phase", "origin", "seed", "value")


def load_trials(store: TrialStore) -> pd.DataFrame:
    """Return every trial of a sweep, by study and number.

    Columns are: what it is, its objective ``value``, every setting by its dotted key (``lora.alpha`` included), the
    metrics of its latest measurements, its cost, and its times.
    """
    rows = [trial_row(study, trial) for study in store.studies() for trial in store.trials(study.name)]
    return pd.DataFrame(rows, columns=_column_order(rows))


def trial_row(study: StudyRecord, record: TrialRecord) -> dict[str, Any]:
    """Return one trial as a flat row."""
    spec = record.spec
    latest = record.measurements[-1].metrics if record.measurements else {}
    metrics = {**latest, **(record.last_rung.metrics if record.last_rung else {})}
    who = (study.name, study.dataset, study.model, study.method, spec.number, record.state.value)
    what = (spec.phase.value, spec.origin, spec.seed, finite_value(study, record))
    return {
        **dict(zip(_COLUMNS, (*who, *what), strict=True)),
        **spec.by_key(),
        ALPHA: alpha(spec.lora),
        **metrics,
        **_cost(record),
    }


def _column_order(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every column once: what it is, settings, metrics, cost; studies may differ in settings and metrics."""
    names = dict.fromkeys(name for row in rows for name in row)
    metrics = sorted(name for name in names if "/" in name)
    settings = sorted(name for name in names if "." in name and "/" not in name)
    rest = [name for name in names if "." not in name and "/" not in name and name not in _COLUMNS]
    return [*_COLUMNS, *settings, *metrics, *rest]


def _cost(record: TrialRecord) -> dict[str, Any]:
    failure = record.failure
    return {
        "chunks": record.chunks_done,
        "rows": record.cost.rows,
        "tokens": record.cost.tokens,
        "device_s": record.cost.device_s,
        "num_parameters": record.num_parameters,
        "num_retries": record.num_retries,
        "failure": failure.kind.value if failure else "",
        "failure_message": failure.message if failure else "",
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "initial_hash": record.initial_hash,
    }
