"""What the user sees of a sweep: live table or log lines, the final table, and the progress of downloads.

Shows `StudyProgress` and decides nothing; `tables` draws it. `sweep` and `cli` call it. On a terminal there is a table
that redraws itself; elsewhere (a file, a pipe, a job's log) there are plain lines, one for each noteworthy change and
one now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from analysis.compare import NOISE_ERRORS
from sweeper.progress import StudyProgress
from sweeper.store import TrialStore
from sweeper.tables import (
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

__all__ = ["LiveView", "caution", "fetch_progress", "final_table", "final_view", "progress_line", "progress_table"]


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
        line = f"[{clock_text(self._said - self._began)}] {message}"
        self._console.print(Text(line), soft_wrap=True)


def final_view(progress: Sequence[StudyProgress], *, sweep_dir: Path, ui_command: str = "", ui_uri: str = "") -> Group:
    """Return all that a user needs after a sweep: the final table, how sure it is, and where everything lies.

    Args:
        progress: The studies.
        sweep_dir: Folder of the sweep; report, best.json, trials.csv and adapters lie in it.
        ui_command: What to type to open the tracker's pages; empty without a tracker.
        ui_uri: Where the tracker keeps what it shows.
    """
    parts: list[RenderableType] = [final_table(progress), *(Text(line, style="dim") for line in _legend(progress))]
    parts += [Text(f"! {line}", style="yellow") for study in progress if (line := caution(study))]
    parts += [Text(f"\nIn {sweep_dir}:"), Text("  report.md, best.json, trials.csv")]
    parts += [Text(f"  {path}  (best of {name})") for name, path in _adapters(progress, sweep_dir)]
    if ui_command:
        parts.append(
            Text.assemble("Open the curves and adapters:  ", (ui_command, "bold"), f"\n  {ui_uri}" if ui_uri else "")
        )
    return Group(*parts)


def caution(progress: StudyProgress) -> str:
    """Return what keeps the best of a study from being called better than the default; empty if nothing does."""
    name, gain = progress.study.dataset, progress.gain
    if progress.best is None:
        return f"{name}: no trial was completed, so there is no best setting; the report says what happened."
    if gain is None:
        return f"{name}: the default recipe has no complete trial, so nothing shows that the best is better than it."
    if progress.default is not None and progress.default.spec.number == progress.best.spec.number:
        return f"{name}: no setting scored higher than the default recipe."
    if gain.standard_error is None:
        return f"{name}: {progress.study.metric} has no simple standard error; the lead over the default may be noise."
    if not gain.is_noise:
        return ""
    num_rows = progress.study.num_rows.get("validation", 0)
    return (
        f"{name}: the lead over the default, {gain.gain:+.3f} ± {gain.standard_error:.3f}, is within the noise of "
        f"{num_rows} validation rows (under {NOISE_ERRORS:g} standard errors): they do not show that it is better."
    )


@contextmanager
def fetch_progress(console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show downloads; yields a `sweeper.data.base.Progress`. Nothing is drawn until something is fetched."""
    shown = console or Console()
    if not shown.is_terminal:
        yield _plain_fetch(shown)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bars = RichProgress(*columns, console=shown)
    tasks: dict[str, TaskID] = {}

    def show(what: str, num_bytes: int, total_bytes: int) -> None:
        if not tasks:
            bars.start()
        if what not in tasks:
            tasks[what] = bars.add_task(f"Fetching {what}", total=None)
        bars.update(tasks[what], completed=num_bytes, total=total_bytes or None)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()


def _plain_fetch(console: Console) -> Callable[[str, int, int], None]:
    said: dict[str, int] = {}

    def show(what: str, num_bytes: int, total_bytes: int) -> None:
        quarter = 4 * num_bytes // total_bytes if total_bytes else 0
        if said.get(what, -1) >= quarter:
            return
        size = f" of {total_bytes / 1e6:.1f} MB" if total_bytes else ""
        verb = "fetching" if what not in said or quarter < 4 else "fetched"  # noqa: PLR2004 - four quarters
        console.print(Text(f"{verb} {what}: {num_bytes / 1e6:.1f} MB{size}"), soft_wrap=True)
        said[what] = quarter

    return show


def _legend(progress: Sequence[StudyProgress]) -> list[str]:
    lines = ["Scores are on the validation rows that also chose the winner: expect a little less on new rows."]
    if any(study.best_error is not None for study in progress):
        lines.insert(0, "± is one binomial standard error of the accuracy; it leaves out the training seed.")
    names = {study.baseline[0] for study in progress if study.baseline}
    if "probe" in names:
        lines.insert(0, "Probe: logistic regression on the features of the frozen model.")
    if "untuned" in names:
        lines.insert(0, "Untuned: the model as it is, without any adapter.")
    return lines


def _adapters(progress: Sequence[StudyProgress], sweep_dir: Path) -> list[tuple[str, Path]]:
    store = TrialStore(sweep_dir)
    found = [(s.study, store.adapter_dir(s.study.name, s.best.spec.number)) for s in progress if s.best]
    return [(study.dataset, path.relative_to(store.root)) for study, path in found if path.is_dir()]
