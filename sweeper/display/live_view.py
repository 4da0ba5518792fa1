"""Shows a running sweep: a live table on a terminal, plain lines elsewhere (a file, a pipe, a job's log).

`tables` formats `StudyProgress`; this module decides when to print. `sweep.monitor` updates it. Plain lines are printed
for a new best trial, for a study that is done, and as a heartbeat; before a trial is complete, also for new scores of
the best running one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sweeper.display.console import print_line
from sweeper.display.progress import StudyProgress
from sweeper.display.tables import (
    best_text,
    clock_text,
    configuration_text,
    counts_text,
    progress_line,
    progress_table,
    running_text,
    score_text,
)
from sweeper.types import TrialState

__all__ = ["LiveView"]


class LiveView:
    """Shows a running sweep; a context manager.

    Args:
        console: Where to print; standard output if None.
        timer: A monotonic clock, in seconds.
        heartbeat_s: Not on a terminal: seconds without a line after which the progress is printed.
    """

    def __init__(
        self, console: Console | None = None, *, timer: Callable[[], float] = time.monotonic, heartbeat_s: float = 30.0
    ) -> None:
        self._console = console or Console()
        self._timer = timer
        self._heartbeat_s = heartbeat_s
        self._started_at = self._written_at = timer()
        self._previous: dict[str, StudyProgress] = {}
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None

    def __enter__(self) -> LiveView:
        """Start drawing."""
        self._started_at = self._written_at = self._timer()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._live:
            # The final table replaces the live one; after an error the last state stays on the screen.
            self._live.transient = kind is None
            self._live.stop()

    def update(self, progress: Sequence[StudyProgress], note: str = "") -> None:
        """Show the current state of the studies.

        Args:
            progress: The studies.
            note: A line about the sweep; may be empty.
        """
        if self._live:
            self._live.update(Group(progress_table(progress), Text(note, style="dim")))
            return
        for study in progress:
            self._log_changes(study)
        if self._timer() - self._written_at >= self._heartbeat_s:
            for study in progress:
                if not study.is_done and study.num_done + study.counts[TrialState.RUNNING]:
                    self._write_line(progress_line(study))
            if note:
                self._write_line(note)

    def log(self, message: str) -> None:
        """Print a message that stays visible, above the live table if there is one."""
        if self._live:
            self._console.print(Text(message))
        else:
            self._write_line(message)

    def _log_changes(self, now: StudyProgress) -> None:
        before = self._previous.get(now.study.name)
        self._previous[now.study.name] = now
        name, best = now.study.dataset, now.best
        if best is not None and (before is None or before.best is None or before.best.spec.number != best.spec.number):
            text = configuration_text(now.study, best)
            self._write_line(f"{name}: best so far {score_text(now)} by trial {best.spec.number}: {text}")
        if best is None and now.best_running is not None and _scored_at(now) != (before and _scored_at(before)):
            text = configuration_text(now.study, now.best_running)
            self._write_line(f"{name}: {running_text(now)}: {text}")
        if now.is_done and (before is None or not before.is_done):
            self._write_line(f"{name}: done. {counts_text(now)}; {best_text(now)}; {clock_text(now.wall_s)} used")

    def _write_line(self, message: str) -> None:
        self._written_at = self._timer()
        print_line(self._console, f"[{clock_text(self._written_at - self._started_at)}] {message}")


def _scored_at(progress: StudyProgress) -> tuple[int, int] | None:
    """Return the number of the best running trial, and the chunk of its latest score."""
    trial = progress.best_running
    return (trial.spec.number, trial.last_rung.chunk) if trial is not None and trial.last_rung is not None else None
