"""Records of sessions, i.e. single runs of the command: start, end, reason for the end, and results.

One JSON file per session, written when it starts, about once a minute, and when it ends. A session without an end was
killed or is still running. `session_recorder` writes the records; summaries and the report read them. The search does
not depend on them, so a record that cannot be read is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.errors import StoreError
from sweeper.store.paths import SweepPaths
from sweeper.store.serialization import from_bytes

__all__ = ["Prediction", "SessionLog", "SessionRecord", "StudyTally"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTally:
    """Counts and best score of a study at one moment."""

    states: Mapping[str, int]
    """Trials of the search by state."""
    best: float | None = None
    """Objective of the best complete trial."""
    best_trial: int | None = None

    @property
    def num_finished(self) -> int:
        """Trials that are no longer running, whatever their state."""
        return sum(number for state, number in self.states.items() if state != "running")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A prediction of the session's end: when it was made, and the predicted end; both UTC, ISO 8601."""

    at: str
    ends_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRecord:
    """One session; times are UTC, ISO 8601."""

    number: int
    begun_at: str
    saved_at: str
    """When this record was written; of a killed session, the last time at which it is known to have run."""
    ended_at: str = ""
    reason: str = ""
    """Why it ended; empty while it is running, and if it was killed."""
    has_failed: bool = False
    """Whether an error ended it."""
    device_s: float = 0.0
    keep_adapters: int = 0
    """``store.keep_adapters``: it deleted the adapters of all but so many best trials; 0 if it kept all."""
    before: Mapping[str, StudyTally] = field(default_factory=dict)
    """Each study at the start of the session, by name."""
    after: Mapping[str, StudyTally] = field(default_factory=dict)
    """Each study when the record was written, by name."""
    predictions: tuple[Prediction, ...] = ()

    @property
    def num_finished(self) -> int:
        """Trials of the search that ended during the session."""
        if not self.after:
            return 0
        before = sum(tally.num_finished for tally in self.before.values())
        return sum(tally.num_finished for tally in self.after.values()) - before


class SessionLog:
    """Reads the sessions of one sweep.

    Args:
        root: The sweep's folder.
    """

    def __init__(self, root: Path) -> None:
        self._paths = SweepPaths(root)

    def path(self, number: int, suffix: str = ".json") -> Path:
        """Return the file of a session's record, or of its summary with the suffix ``.md``."""
        return self._paths.session(number, suffix)

    def read(self) -> list[SessionRecord]:
        """Return all sessions that can be read, by number."""
        records = [self._read(path) for path in self._paths.session_records()]
        return [record for record in records if record is not None]

    def next_number(self) -> int:
        """Return the number for a new session; it is above that of every existing file, damaged ones included."""
        numbers = [int(path.stem) for path in self._paths.session_records() if path.stem.isdigit()]
        return max(numbers, default=0) + 1

    @staticmethod
    def _read(path: Path) -> SessionRecord | None:
        try:
            return from_bytes(SessionRecord, path.read_bytes(), name=str(path))
        except (OSError, StoreError) as error:
            log.warning("%s; summaries and the report leave this session out", error)
            return None
