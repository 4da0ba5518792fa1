"""Decides whether a study in which every trial fails is aborted. Called by `study_run`.

The decision depends only on the trial records, so a restart makes the same one.
"""

from __future__ import annotations

from collections.abc import Iterable

from sweeper.figures.failure_counts import count_failures
from sweeper.types import Phase, TrialRecord, TrialState

__all__ = ["abort_reason"]

_MIXED_CAUSES_FACTOR = 2
"""Factor on the number of failures that are needed if their causes differ."""


def abort_reason(trials: Iterable[TrialRecord], after: int) -> str:
    """Return why a study is aborted; empty if it is not.

    It is aborted if its first ``after`` finished trials all failed or were infeasible for the same cause, or twice as
    many for different causes. Once a trial is complete or pruned, it is never aborted.

    Args:
        trials: All trials of the study.
        after: ``executor.abort_after_failures``; 0 for never.
    """
    if not after:
        return ""
    finished = [trial for trial in trials if trial.state.is_finished and trial.spec.phase is Phase.SEARCH]
    if len(finished) < after:
        return ""
    if any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in finished):
        return ""
    causes = count_failures(finished)
    if len(causes) > 1 and len(finished) < _MIXED_CAUSES_FACTOR * after:
        return ""
    named = ", ".join(f"{len(count.trials)} {count.cause}" for count in causes)
    return f"its first {len(finished)} trials all failed or were infeasible ({named})"
