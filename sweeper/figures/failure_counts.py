"""Failures counted by cause, for the terminal, the summary, the report and the early abort of a study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sweeper.failures import POLICIES
from sweeper.types import Failure, FailureKind, TrialRecord, TrialState

__all__ = ["FailureCount", "count_failures", "first_line", "has_failed", "has_recovered"]

_FAILED = (TrialState.INFEASIBLE, TrialState.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureCount:
    """Trials of a study that failed, or were interrupted, for one cause."""

    kind: FailureKind | None
    """None if no cause was recorded."""
    message: str
    """First line of the first trial's message."""
    trials: tuple[TrialRecord, ...]

    @property
    def cause(self) -> str:
        """The kind as text, or ``unknown``."""
        return self.kind.value if self.kind else "unknown"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The trials' numbers."""
        return tuple(trial.spec.number for trial in self.trials)

    @property
    def num_recovered(self) -> int:
        """Trials that continued after the failure, or are queued to."""
        return sum(map(has_recovered, self.trials))

    @property
    def remedy(self) -> str:
        """What the user can do; empty if the cause is unknown."""
        return POLICIES[self.kind].remedy if self.kind else ""


def has_failed(trial: TrialRecord) -> bool:
    """Whether a failure ended the trial: it is infeasible or failed."""
    return trial.state in _FAILED


def has_recovered(trial: TrialRecord) -> bool:
    """Whether a failure interrupted the trial but did not end it."""
    return trial.failure is not None and not has_failed(trial)


def count_failures(trials: Iterable[TrialRecord], *, by_message: bool = False) -> list[FailureCount]:
    """Group trials that had a failure by cause, the most frequent cause first.

    Args:
        trials: Trials of a study; those without a failure are ignored.
        by_message: Whether different messages of one kind count as different causes.
    """
    groups: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if has_failed(trial) or has_recovered(trial):
            kind = trial.failure.kind.value if trial.failure else ""
            groups[kind, first_line(trial.failure) if by_message else ""].append(trial)
    counts = [
        FailureCount(
            kind=found[0].failure.kind if found[0].failure else None,
            message=first_line(found[0].failure),
            trials=tuple(found),
        )
        for found in groups.values()
    ]
    return sorted(counts, key=lambda count: (-len(count.trials), count.cause, count.message))


def first_line(failure: Failure | None) -> str:
    """Return the first line of a failure's message, or ``no message``."""
    lines = failure.message.strip().splitlines() if failure else []
    return lines[0] if lines else "no message"
