"""A clock that can be moved. `events` moves it, also back, and to the end of a window; `driver` to the next start.

The offset from the real time is a number in a file, so a running controller sees a move when it next reads the clock.
The window is `workload.WINDOW`; the first session starts when it opens.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chaos.workload import WINDOW
from sweeper.config.time_windows import parse_windows

__all__ = ["Clock", "use_clock"]

_WINDOWS = parse_windows(WINDOW, "UTC")


class Clock:
    """The current time, as a sweep sees it.

    Args:
        folder: The folder of the file, which is that of the session's log.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder.absolute() / "clock"

    def __call__(self) -> datetime:
        """Return the current time."""
        try:
            offset_s = float(self._file.read_text())
        except FileNotFoundError:
            offset_s = 0.0
        return datetime.now(UTC) + timedelta(seconds=offset_s)

    @property
    def is_open(self) -> bool:
        """Whether the window is open."""
        return _WINDOWS.is_open(self())

    def to_opening(self) -> None:
        """Move forward to the next opening of the window."""
        opening = _WINDOWS.next_opening(self())
        assert opening is not None
        self._move_to(opening)

    def to_end(self, shift_s: float) -> None:
        """Move forward to ``shift_s`` seconds after the end of the open window (before it, if negative)."""
        end = _WINDOWS.closes_at(self())
        if end is not None:  # unless a jump has closed the window
            self._move_to(max(self(), end + timedelta(seconds=shift_s)))

    def jump(self, seconds: float) -> None:
        """Move forward, or back if negative."""
        self._move_to(self() + timedelta(seconds=seconds))

    def _move_to(self, moment: datetime) -> None:
        aside = self._file.with_name("clock.tmp")
        aside.write_text(repr((moment - datetime.now(UTC)).total_seconds()))
        os.replace(aside, self._file)


def use_clock(folder: Path) -> None:
    """Make the sweeps of this process, a controller, use the clock in a folder."""
    import sweeper.sweep.run

    run_sweep, clock = sweeper.sweep.run.run_sweep, Clock(folder)

    def run_with_clock(*args: object, **more: object) -> object:
        return run_sweep(*args, **more, clock=clock)  # type: ignore[arg-type]

    sweeper.sweep.run.run_sweep = run_with_clock  # type: ignore[assignment]
