"""The summary of one trial, as best.json and the reports have it."""

from __future__ import annotations

import math
from typing import Any

from sweeper.figures.comparison import standard_error
from sweeper.figures.hyperparameters import shown_params
from sweeper.figures.ranking import finite_value
from sweeper.figures.rungs import best_rung, rung_epoch
from sweeper.store.damage import intact_adapter, is_adapter_intact
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["trial_summary"]


def trial_summary(store: TrialStore, study: StudyRecord, record: TrialRecord) -> dict[str, Any]:
    """Return the summary of a trial for best.json and the report.

    ``params`` has the hyperparameters to show, including alpha; ``hyperparameters`` has all of them.
    """
    value = finite_value(study, record)
    metrics = record.last_rung.metrics if record.last_rung else {}
    adapter = intact_adapter(store, study.name, record.spec.number)
    return {
        "trial": record.spec.number,
        "state": record.state.value,
        "origin": record.spec.origin,
        "phase": record.spec.phase.value,
        "seed": record.spec.seed,
        "params": shown_params(record.spec, study.space),
        "hyperparameters": record.spec.by_key(),
        "value": value,
        "standard_error": standard_error(study, value),
        "metrics": {name: metrics[name] if math.isfinite(metrics[name]) else None for name in sorted(metrics)},
        "num_parameters": record.num_parameters,
        "rows": record.cost.rows,
        "device_s": round(record.cost.device_s, 3),
        "adapter": str(adapter) if adapter else None,
        "best_rung": _best_rung(store, study, record),
    }


def _best_rung(store: TrialStore, study: StudyRecord, record: TrialRecord) -> dict[str, Any] | None:
    """Return the rung with the best score, which may be the last, and its adapter if that is on disk."""
    rung = best_rung(study, record)
    if rung is None or record.last_rung is None:
        return None
    number, is_last = record.spec.number, rung.chunk == record.last_rung.chunk
    adapter = store.adapter_dir(study.name, number)
    if not is_last:
        adapter = store.rung_adapter_dir(study.name, number, rung.chunk)
    return {
        "chunk": rung.chunk,
        "epoch": rung_epoch(study, rung),
        "value": rung.metrics[study.metric],
        "adapter": str(adapter) if is_adapter_intact(adapter) else None,
    }
