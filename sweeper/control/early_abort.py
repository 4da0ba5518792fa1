"""Whether a study in which everything fails should end early, from its records alone: so a restart thinks the same.

Asked by `study_run`, and by whoever shows how a study is.
"""

from __future__ import annotations

from collections.abc import Iterable

from sweeper.figures.failure_counts import count_failures
from sweeper.types import Phase, TrialRecord, TrialState

__all__ = ["abort_reason"]

_MIXED = 2
"""With several causes, so many times as many trials must have failed."""


def abort_reason(trials: Iterable[TrialRecord], after: int) -> str:
    """Return why a study is given up; empty if it is not.

    That is when its first ``after`` finished trials all failed, or were infeasible, for one cause; or twice as many for
    several. One trial that got as far as a score ends all doubt.

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
    return f"all of its first {len(finished)} trials came to nothing ({named})"
