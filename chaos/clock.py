"""The clock of a sweep: the real one, moved. `events` moves it to a window's end, `driver` to the next begin.

How far it is moved is one number in a file, so that a running controller sees the move at its next look. The window
is `workload.WINDOW`, of which the first session begins in the first second.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chaos.workload import WINDOW
from sweeper.config.time_windows import parse

__all__ = ["Clock", "use_clock"]

_WINDOWS = parse(WINDOW, "UTC")


class Clock:
    """The present time as a sweep sees it.

    Args:
        folder: Where the file is; that of the session's log.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder.absolute() / "clock"

    def __call__(self) -> datetime:
        """Return the time."""
        try:
            moved_s = float(self._file.read_text())
        except FileNotFoundError:
            moved_s = 0.0
        return datetime.now(UTC) + timedelta(seconds=moved_s)

    @property
    def is_open(self) -> bool:
        """Whether the sweep may run."""
        return _WINDOWS.is_open(self())

    def to_opening(self) -> None:
        """Move on to the next begin of the window."""
        opening = _WINDOWS.next_opening(self())
        assert opening is not None
        self._move_to(opening)

    def to_end(self, shift_s: float) -> None:
        """Move on to the end of the window that is open, or so many seconds before or after it."""
        end = _WINDOWS.closes_at(self())
        assert end is not None
        self._move_to(max(self(), end + timedelta(seconds=shift_s)))

    def _move_to(self, moment: datetime) -> None:
        aside = self._file.with_name("clock.tmp")
        aside.write_text(repr((moment - datetime.now(UTC)).total_seconds()))
        os.replace(aside, self._file)


def use_clock(folder: Path) -> None:
    """Let sweeps of this process, which is a controller, go by the clock of a folder."""
    import sweeper.sweep.run

    run_sweep, clock = sweeper.sweep.run.run_sweep, Clock(folder)

    def by_our_clock(*args: object, **more: object) -> object:
        return run_sweep(*args, **more, clock=clock)  # type: ignore[arg-type]

    sweeper.sweep.run.run_sweep = by_our_clock  # type: ignore[assignment]
