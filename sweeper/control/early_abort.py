"""Whether a study in which everything fails should be aborted. Depends on its records alone, so a restart agrees.

Called by `study_run`, and by the code that displays the state of a study.
"""

from __future__ import annotations

from collections.abc import Iterable

from sweeper.figures.failure_counts import count_failures
from sweeper.types import Phase, TrialRecord, TrialState

__all__ = ["abort_reason"]

_MIXED = 2
"""If there are several causes, this many times as many trials must have failed."""


def abort_reason(trials: Iterable[TrialRecord], after: int) -> str:
    """Return why a study is aborted; empty if it is not.

    It is aborted if its first ``after`` finished trials all failed or were infeasible for the same cause, or twice as
    many for different causes. It is never aborted once a trial was complete or pruned.

    Args:
        trials: All trials of the study.
        after: ``executor.abort_after_failures``; 0 for never.
    """
    finished = [trial for trial in trials if trial.state.is_finished and trial.spec.phase is Phase.SEARCH]
    if not after or len(finished) < after:
        return ""
    if any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in finished):
        return ""
    causes = count_failures(finished)
    if len(causes) > 1 and len(finished) < _MIXED * after:
        return ""
    named = ", ".join(f"{len(count.trials)} {count.cause}" for count in causes)
    return f"its first {len(finished)} trials all failed or were infeasible ({named})"
