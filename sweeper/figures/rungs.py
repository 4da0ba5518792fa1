"""How many rows a rung scores, which rung of a trial scored best, and by how much choosing it would raise the scores.

The objective of a trial is its score at the last rung. The best of several noisy scores is too high on average, so the
best rung is reported, and its adapter kept (`sweeper.store.retention`), but trials are not ranked by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from sweeper.config.space import EPOCHS
from sweeper.config.trial_length import trial_epochs
from sweeper.figures.text import plural
from sweeper.types import Measurement, StudyRecord, TrialRecord, TrialState

__all__ = [
    "best_rung",
    "best_rung_text",
    "better_rung",
    "epochs_text",
    "has_all_rows",
    "is_early",
    "rows_to_score",
    "rung_epoch",
    "rung_optimism",
]

_LEAST_ROWS = 200
"""Fewest rows that an early rung scores, unless the split has fewer."""


def rows_to_score(chunk: int, *, num_chunks: int, num_rows: int) -> int:
    """Return how many validation rows a rung scores: half of them in the first half of a trial, later all.

    These are the first rows of the split, so that all trials are compared on the same ones; splits are shuffled.

    Args:
        chunk: Chunks completed.
        num_chunks: Chunks of the trial.
        num_rows: Rows of the split.
    """
    return num_rows // 2 if is_early(chunk, num_chunks=num_chunks) and num_rows // 2 >= _LEAST_ROWS else num_rows


def is_early(chunk: int, *, num_chunks: int) -> bool:
    """Whether a chunk is in the first half of a trial of so many chunks."""
    return 2 * chunk <= num_chunks


def has_all_rows(study: StudyRecord, rung: Measurement) -> bool:
    """Whether a rung scored every validation row, so that its score has the same error as the last one.

    If the number of its rows is unknown, it did.
    """
    return rung.scored_rows == 0 or rung.scored_rows >= study.num_rows.get("validation", 0)


def best_rung(study: StudyRecord, trial: TrialRecord) -> Measurement | None:
    """Return the rung of a trial with the best finite objective over all validation rows; None before the first.

    Ties go to the later rung: an earlier adapter is worth keeping only if it scored higher than the last.
    """
    best: Measurement | None = None
    for rung in trial.measurements:
        if not math.isfinite(rung.metrics.get(study.metric, math.nan)) or not has_all_rows(study, rung):
            continue
        if best is None or not study.is_better(best.metrics[study.metric], rung.metrics[study.metric]):
            best = rung
    return best


def better_rung(study: StudyRecord, trial: TrialRecord) -> Measurement | None:
    """Return the `best_rung` of a trial if it scored higher than the last; otherwise None."""
    best, last = best_rung(study, trial), trial.last_rung
    return None if best is None or last is None or best.chunk == last.chunk else best


def rung_epoch(study: StudyRecord, rung: Measurement) -> float:
    """Return the number of epochs trained up to a rung; a chunk is the same part of an epoch in every trial."""
    return rung.chunk * study.epochs / study.num_chunks


def epochs_text(study: StudyRecord) -> str:
    """Return the epochs of a trial, e.g. ``3 epochs``, or ``up to 4 epochs`` if their number is searched."""
    return f"{'up to ' if EPOCHS in study.space else ''}{plural(study.epochs, 'epoch')}"


def best_rung_text(study: StudyRecord, trial: TrialRecord) -> str:
    """Return e.g. ``best after epoch 2 of 3``; empty if no earlier rung scored higher than the last."""
    rung = better_rung(study, trial)
    if rung is None:
        return ""
    epochs = trial_epochs(study, trial.spec.train.epochs)
    return f"best after epoch {rung_epoch(study, rung):.3g} of {epochs}"


def rung_optimism(study: StudyRecord, trials: Iterable[TrialRecord]) -> float | None:
    """Return by how much the scores of complete trials would rise on average if each counted at its best rung.

    Returns:
        The mean gain of the best rung over the last, never negative; None without a complete trial.
    """
    gains = [
        abs(best.metrics[study.metric] - trial.last_rung.metrics[study.metric])
        for trial in trials
        if trial.state is TrialState.COMPLETE
        and trial.last_rung is not None
        and math.isfinite(trial.last_rung.metrics.get(study.metric, math.nan))
        and (best := best_rung(study, trial)) is not None
    ]
    return sum(gains) / len(gains) if gains else None
