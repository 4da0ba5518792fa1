"""The final trainings of a study: its chosen configuration, trained once more on more rows by `sweeper train`.

The list ``final`` of a study in best.json, from which reports and model cards are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.analysis.findings import PREFIX, row_metrics
from sweeper.analysis.texts import duration
from sweeper.analysis.trial_summary import trial_summary
from sweeper.config.trial_length import trial_chunks, trial_epochs
from sweeper.errors import StoreError
from sweeper.figures.comparison import standard_error
from sweeper.figures.final import final_configuration, includes_validation
from sweeper.figures.rungs import best_rung_text
from sweeper.figures.text import plural
from sweeper.statistics.outcomes import metric_values
from sweeper.store.candidate_outcomes import read_candidate_outcomes
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = ["FINAL_COLUMNS", "final_row", "final_trainings", "score_text"]

FINAL_COLUMNS = ("configuration", "training rows", "seed", "state", "validation", "test", "adapter")
"""Titles of `final_row`."""


def final_trainings(store: TrialStore, study: StudyRecord) -> list[dict[str, Any]]:
    """Return the final trainings of a study, finished or not; without those whose records cannot be read.

    Args:
        store: The sweep.
        study: The study that was searched.
    """
    finals = TrialStore(store.paths.final)
    found = []
    for folder in finals.paths.studies():
        try:
            record = finals.read_study(folder.name)
            trials = finals.trials(folder.name) if record.source == study.name else []
        except StoreError:
            continue
        found += [_training(finals, record, trial) for trial in trials]
    return found


def score_text(training: Mapping[str, Any]) -> str:
    """Return the scores of a final training in a sentence."""
    parts = []
    if training["value"] is not None:
        best = f" ({training['best_rung_text']})" if training["best_rung_text"] else ""
        parts.append(f"{training['metric']} {_with_error(training['value'], training['standard_error'])}{best}")
    if training["test"]:
        test, name = training["test"], training["metric"].removeprefix(PREFIX)
        score = _with_error(test["value"], test["standard_error"])
        parts.append(f"test/{name} {score} on {plural(test['num_rows'], 'row')}")
    return f"{'; '.join(parts) or 'It was scored on no rows'}; {duration(training['device_s'])} of device time."


def final_row(training: Mapping[str, Any]) -> list[str]:
    """Return a final training as a row of a table, under `FINAL_COLUMNS`."""
    value, test, state = training["value"], training["test"], training["state"]
    best = f"; {training['best_rung_text']}" if training["best_rung_text"] else ""
    rows = f"{training['num_rows']:,}" + (", validation rows included" if training["includes_validation"] else "")
    running = f"{state}, {training['chunks_done']} of {plural(training['num_chunks'], 'chunk')}"
    return [
        training["configuration"],
        rows,
        str(training["seed"]),
        state if state == TrialState.COMPLETE else running,
        "-" if value is None else _with_error(value, training["standard_error"]) + best,
        "-"
        if test is None
        else f"{_with_error(test['value'], test['standard_error'])} on {plural(test['num_rows'], 'row')}",
        training["adapter"] or "-",
    ]


def _training(finals: TrialStore, record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    paths = finals.paths.trial(record.name, trial.spec.number)
    return {
        "study": record.name,
        "configuration": final_configuration(trial.spec),
        **trial_summary(finals, record, trial),
        "metric": record.metric,
        "num_rows": record.num_rows["train"],
        "num_available": record.num_available or None,
        "includes_validation": includes_validation(record.name),
        "epochs": trial_epochs(record, trial.spec.train.epochs),
        "finished_at": trial.finished_at or None,
        "chunks_done": trial.chunks_done,
        "num_chunks": trial_chunks(record, trial.spec.train.epochs),
        "best_rung_text": best_rung_text(record, trial),
        "test": _test(finals, record, trial),
        "model_card": str(paths.model_card) if paths.model_card.exists() else None,
    }


def _test(finals: TrialStore, record: StudyRecord, trial: TrialRecord) -> dict[str, Any] | None:
    """Return the scores on the test rows; None if they were not scored."""
    try:
        outcomes = read_candidate_outcomes(finals, trial.spec.origin, [trial], split="test")
    except StoreError:
        return None
    objective = record.metric.removeprefix(PREFIX)
    names = dict.fromkeys((objective, *row_metrics(outcomes)))
    metrics = {name: float(metric_values(outcomes, name)[0]) for name in names}
    value = metrics[objective]
    return {
        "num_rows": outcomes.num_rows,
        "metrics": {f"test/{name}": score for name, score in metrics.items()},
        "value": value,
        "standard_error": standard_error(record, value, split="test"),
    }


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")
