"""The contract of trackers: they show trials, and never hold up or stop a search.

The store is the truth; a tracker is a view of it. So its one verb takes a whole record and is idempotent: it shows
whatever of the record it has not shown yet. What a dead tracker missed is shown by the next call, in this process or in
a later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sweeper.types import StudyRecord, TrialRecord, ViewedTrial

__all__ = ["NullTracker", "Tracker", "TrackerAudit"]


class Tracker(Protocol):
    """Shows the trials of a sweep."""

    def show(self, study: StudyRecord, trial: TrialRecord, files: Sequence[Path] = ()) -> None:
        """Bring the view of one trial up to date; returns at once and never raises.

        Args:
            study: The trial's study.
            trial: The trial as it stands; a later call supersedes an earlier one.
            files: Files or folders to keep with a finished trial (adapter, configuration).
        """
        ...

    @property
    def problem(self) -> str:
        """Why the view is behind; empty if it is not, or only for a moment."""
        ...

    def close(self, timeout_s: float) -> Mapping[str, int]:
        """Send what is outstanding.

        Args:
            timeout_s: How long it may take at most.

        Returns:
            Counts: ``shown`` trials that are up to date, ``missed`` those that are not.
        """
        ...


class NullTracker:
    """Shows nothing; for tests and ``tracker=none``."""

    def show(self, study: StudyRecord, trial: TrialRecord, files: Sequence[Path] = ()) -> None:
        """Do nothing."""

    @property
    def problem(self) -> str:
        """Nothing is behind."""
        return ""

    def close(self, timeout_s: float) -> Mapping[str, int]:  # noqa: ARG002  the protocol's name
        """Do nothing."""
        return {"shown": 0, "missed": 0}


class TrackerAudit(Protocol):
    """Reads a tracker back, to compare it with the store; unlike a `Tracker` it may block and raise."""

    def read(self, study: str, metric: str) -> list[ViewedTrial] | None:
        """Return what there is of a study, every copy of a trial; None if there is nothing.

        Raises:
            TrackerError: The tracker does not answer.
        """
        ...

    def remove(self, runs: Iterable[ViewedTrial]) -> None:
        """Take trials out of the view."""
        ...

    def kept_record(self, run: ViewedTrial) -> bytes | None:
        """Return the copy of ``trial.json`` that is kept with a finished trial, if there is one."""
        ...

    def kept_adapter(self, run: ViewedTrial) -> Mapping[str, bytes]:
        """Return the files of the adapter that is kept with a trial; empty if there is none."""
        ...
