"""Shows the progress of downloads: bars on a terminal, elsewhere a line per quarter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

from sweeper.display.console import print_line

__all__ = ["fetch_progress"]


@contextmanager
def fetch_progress(console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show downloads during the block; nothing is drawn before the first one.

    Yields:
        The callback for the downloads, a `sweeper.fetch.progress.Progress`.
    """
    console = console or Console()
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bars = RichProgress(*columns, console=console)
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


def _plain_lines(console: Console) -> Callable[[str, int, int], None]:
    last_quarter: dict[str, int] = {}

    def show(what: str, num_bytes: int, total_bytes: int) -> None:
        quarter = 4 * num_bytes // total_bytes if total_bytes else 0
        if last_quarter.get(what, -1) >= quarter:
            return
        size = f" of {total_bytes / 1e6:.1f} MB" if total_bytes else ""
        verb = "fetching" if what not in last_quarter or quarter < 4 else "fetched"  # noqa: PLR2004 - four quarters
        print_line(console, f"{verb} {what}: {num_bytes / 1e6:.1f} MB{size}")
        last_quarter[what] = quarter

    return show
