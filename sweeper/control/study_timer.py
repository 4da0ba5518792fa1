"""How long a study was under way: exactly for this session, estimated for earlier ones. Used by `study_run`."""

from __future__ import annotations

from datetime import datetime

from sweeper.clock import Clock

__all__ = ["StudyTimer"]


class StudyTimer:
    """Measures a study from its first admission to its last trial's end.

    Args:
        clock: The present time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.past_device_s = 0.0
        """Device seconds of earlier sessions."""
        self._begun_at: datetime | None = None
        self._ended_at: datetime | None = None

    def begin(self) -> None:
        """Start, once."""
        self._begun_at = self._begun_at or self._clock()

    def note_end(self) -> None:
        """Take note that a trial has ended."""
        self._ended_at = self._clock()

    def wall_s(self, num_workers: int, *, is_running: bool) -> float:
        """Return the seconds in which the study was under way.

        Args:
            num_workers: Workers that earlier sessions are taken to have had.
            is_running: Whether a trial has not ended yet.
        """
        past_s = self.past_device_s / num_workers
        if self._begun_at is None:
            return past_s
        end = self._clock() if is_running or self._ended_at is None else self._ended_at
        return past_s + (end - self._begun_at).total_seconds()
