"""The interface of trackers, which show trials and never delay or stop a search.

The store is the truth; a tracker is a view of it. `Tracker.show` therefore takes a whole record and is idempotent: it
sends whatever the view does not have yet. What the tracker missed while it was down, the next call sends, in this
process or a later one.
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
            trial: The trial's present record; it replaces an earlier one.
            files: Files or folders to keep with a finished trial (adapter, configuration).
        """
        ...

    @property
    def problem(self) -> str:
        """Why the view is not up to date; empty if nothing has failed."""
        ...

    def keep_report(self, studies: Sequence[StudyRecord], files: Sequence[Path], timeout_s: float) -> None:
        """Replace the sweep's report beside the trials of each study; never raises.

        Call it after `close`, since a report says which trials the view lacks. If the view could not be brought up to
        date, nothing is tried.

        Args:
            studies: The sweep's studies.
            files: The report's files.
            timeout_s: The longest time this may take.
        """
        ...

    def close(self, timeout_s: float) -> Mapping[str, int]:
        """Send what is queued.

        Args:
            timeout_s: The longest time this may take.

        Returns:
            ``shown``, the number of trials that are up to date, and ``missed``, the number that are not.
        """
        ...


class NullTracker:
    """Shows nothing; for tests and ``tracker=none``."""

    def show(self, study: StudyRecord, trial: TrialRecord, files: Sequence[Path] = ()) -> None:
        """Do nothing."""

    @property
    def problem(self) -> str:
        """Always empty."""
        return ""

    def keep_report(self, studies: Sequence[StudyRecord], files: Sequence[Path], timeout_s: float) -> None:
        """Do nothing."""

    def close(self, timeout_s: float) -> Mapping[str, int]:  # noqa: ARG002  the protocol's name
        """Do nothing."""
        return {"shown": 0, "missed": 0}


class TrackerAudit(Protocol):
    """Reads a tracker back, to compare it with the store; unlike a `Tracker` it may block and raise."""

    def read(self, study: str, metric: str) -> list[ViewedTrial] | None:
        """Return what the tracker has of a study, duplicates of a trial included; None if it has no such study.

        Raises:
            TrackerError: The tracker does not answer.
        """
        ...

    def remove(self, runs: Iterable[ViewedTrial]) -> None:
        """Remove trials from the view."""
        ...

    def kept_record(self, run: ViewedTrial) -> bytes | None:
        """Return the copy of ``trial.json`` that is kept with a finished trial, if there is one.

        Raises:
            TrackerError: The copies cannot be reached.
        """
        ...

    def kept_adapter(self, run: ViewedTrial) -> Mapping[str, bytes]:
        """Return the files of the adapter that is kept with a trial; empty if there is none.

        Raises:
            TrackerError: The copies cannot be reached.
        """
        ...
