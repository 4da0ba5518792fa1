"""The account of each session (a night, a start after a crash): begun, ended, why, what it brought, what was predicted.

One JSON file a session in the sweep's folder, ``sessions/0003.json``, written when it begins, now and then, and when it
ends; a session without an end was killed, or still runs. `night` writes them, the summary and the report read them. The
search does not depend on them: one that cannot be read is left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.store.serialization import SCHEMA_VERSION, from_jsonable, to_jsonable

__all__ = ["Prediction", "SessionLog", "SessionRecord", "StudyTally", "as_bytes"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTally:
    """A study at one moment."""

    states: Mapping[str, int]
    """Trials of the search by state."""
    best: float | None = None
    """Objective of the best complete trial."""
    best_trial: int | None = None

    @property
    def num_finished(self) -> int:
        """Trials that ended, however they ended."""
        return sum(number for state, number in self.states.items() if state != "running")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """When the session was to end, as it was predicted at some moment; both UTC, ISO 8601."""

    at: str
    ends_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRecord:
    """One session; times are UTC, ISO 8601."""

    number: int
    begun_at: str
    saved_at: str
    """When this was written: of a session that was killed, the last that is known."""
    ended_at: str = ""
    reason: str = ""
    """Why it ended; empty as long as it has not, and for ever if it was killed."""
    has_failed: bool = False
    """Whether an error ended it."""
    device_s: float = 0.0
    before: Mapping[str, StudyTally] = field(default_factory=dict)
    """Each study at its begin."""
    after: Mapping[str, StudyTally] = field(default_factory=dict)
    """Each study when this was written."""
    predictions: tuple[Prediction, ...] = ()

    @property
    def num_finished(self) -> int:
        """Trials of the search that ended in it."""
        begin = sum(tally.num_finished for tally in self.before.values())
        if not self.after:
            return 0
        return sum(tally.num_finished for tally in self.after.values()) - begin


class SessionLog:
    """Sessions of one sweep.

    Args:
        root: The sweep's folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "sessions"

    def path(self, number: int, suffix: str = ".json") -> Path:
        """Return where a session's record, or its summary, lies."""
        return self._folder / f"{number:04d}{suffix}"

    def read(self) -> list[SessionRecord]:
        """Return all sessions that can be read, by number."""
        records = [self._read(path) for path in sorted(self._folder.glob("[0-9]*.json"))]
        return [record for record in records if record is not None]

    def next_number(self) -> int:
        """Return the number of a new session; no file is ever overwritten, damaged ones included."""
        numbers = [int(path.stem) for path in self._folder.glob("[0-9]*.json") if path.stem.isdigit()]
        return max(numbers, default=0) + 1

    @staticmethod
    def _read(path: Path) -> SessionRecord | None:
        try:
            content = json.loads(path.read_text())
            content.pop("schema_version", None)
            record: SessionRecord = from_jsonable(SessionRecord, content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s cannot be read (%r); this session is missing in summaries and in the report", path, error)
            return None
        return record


def as_bytes(record: SessionRecord) -> bytes:
    """Return a session as its file holds it."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **to_jsonable(record)}, indent=1).encode()
