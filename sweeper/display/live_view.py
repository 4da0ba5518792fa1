"""What the user sees of a sweep: live table or log lines, the final table, and the progress of downloads.

Shows `StudyProgress` and decides nothing; `tables` draws it. `sweep` and `cli` call it. On a terminal there is a table
that redraws itself; elsewhere (a file, a pipe, a job's log) there are plain lines, one for each noteworthy change and
one now and then.
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
    counts_text,
    final_table,
    progress_line,
    progress_table,
    score_text,
    settings_text,
)
from sweeper.types import TrialState

__all__ = ["LiveView", "final_table", "progress_line", "progress_table"]


class LiveView:
    """Shows a running sweep; use as a context manager.

    Args:
        console: Where to draw; standard output if None.
        clock: Seconds that never run backwards.
        heartbeat_s: Without a terminal: seconds after which a line is written even if nothing noteworthy happened.
    """

    def __init__(
        self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic, heartbeat_s: float = 30.0
    ) -> None:
        self._console = console or Console()
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._began = self._said = clock()
        self._previous: dict[str, StudyProgress] = {}
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None

    def __enter__(self) -> LiveView:
        """Begin to draw."""
        self._began = self._said = self._clock()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._live:
            # The final table follows a sweep that ends well; one that breaks off leaves its last state on the screen.
            self._live.transient = kind is None
            self._live.stop()

    def update(self, progress: Sequence[StudyProgress], note: str = "") -> None:
        """Show the studies as they stand now, and a line that holds for all of them."""
        if self._live:
            self._live.update(Group(progress_table(progress), Text(note, style="dim")))
            return
        for study in progress:
            self._say_news(study)
        if self._clock() - self._said >= self._heartbeat_s:
            for study in progress:
                if not study.is_done and study.num_done + study.counts[TrialState.RUNNING]:
                    self._say(progress_line(study))
            if note:
                self._say(note)

    def log(self, message: str) -> None:
        """Write a message that stays, above the table if there is one."""
        if self._live:
            self._console.print(Text(message))
        else:
            self._say(message)

    def _say_news(self, now: StudyProgress) -> None:
        before = self._previous.get(now.study.name)
        self._previous[now.study.name] = now
        name, best = now.study.dataset, now.best
        if best is not None and (before is None or before.best is None or before.best.spec.number != best.spec.number):
            self._say(
                f"{name}: best so far {score_text(now)} by trial {best.spec.number}: {settings_text(now.study, best)}"
            )
        if now.is_done and (before is None or not before.is_done):
            self._say(f"{name}: done. {counts_text(now)}; {best_text(now)}; {clock_text(now.wall_s)} used")

    def _say(self, message: str) -> None:
        self._said = self._clock()
        print_line(self._console, f"[{clock_text(self._said - self._began)}] {message}")
