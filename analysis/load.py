"""The content of trials.csv: a table with one row per trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from sweeper.figures.hyperparameters import ALPHA, alpha
from sweeper.figures.ranking import finite_value
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["load_trials"]

_FIRST_COLUMNS = ("study", "dataset", "model", "method", "trial", "state", "phase", "origin", "seed", "value")


def load_trials(store: TrialStore) -> pd.DataFrame:
    """Return every trial of a sweep, by study and number.

    The columns identify the trial, and have its objective (``value``), every hyperparameter by its dotted key
    (including ``lora.alpha``), its latest metrics, its cost and its times.
    """
    rows = [_row(study, trial) for study in store.studies() for trial in store.trials(study.name)]
    return pd.DataFrame(rows, columns=_column_order(rows))


def _row(study: StudyRecord, record: TrialRecord) -> dict[str, Any]:
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
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "initial_hash": record.initial_hash,
    }


def _column_order(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the union of all columns, in order; studies may differ in their metrics."""
    names = dict.fromkeys(name for row in rows for name in row)
    metrics = sorted(name for name in names if "/" in name)
    hyperparameters = sorted(name for name in names if "." in name and "/" not in name)
    rest = [name for name in names if "." not in name and "/" not in name and name not in _FIRST_COLUMNS]
    return [*_FIRST_COLUMNS, *hyperparameters, *metrics, *rest]
