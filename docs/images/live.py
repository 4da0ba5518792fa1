"""Draws docs/images/live.svg: the live table of a sweep, from its folder.

    python docs/images/live.py outputs/first docs/images/live.svg

The folder may belong to a finished sweep or to one that is still running. Needs no terminal and starts nothing.
"""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

from sweeper.display.progress import progress_from_disk
from sweeper.display.tables import progress_table
from sweeper.store.trials import TrialStore

WIDTH = 96
"""Columns of the picture: a score and its trial fit on one line, and GitHub can scale it to a page."""


def main(sweep: Path, target: Path) -> None:
    """Read a sweep and write its table as an SVG.

    Args:
        sweep: The folder of a sweep, e.g. ``outputs/first``.
        target: The SVG file to write.
    """
    store = TrialStore(sweep)
    budget = store.read_sweep()["settings"]["budget"]["trials"]
    # The console records what it prints; its file keeps that off this script's own terminal.
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, legacy_windows=False)
    console.print(progress_table(progress_from_disk(store, budget=budget)))
    # A fixed id, or every run would rename all styles and the diff would hide what changed.
    svg = console.export_svg(title=f"sweep {sweep.resolve().name}", unique_id="live")
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:  # noqa: PLR2004 - the script's own name and two paths
        sys.exit("usage: python docs/images/live.py SWEEP_FOLDER SVG_FILE")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
