"""Finds a sweep on disk by its name. Imports no search or training library, so ``sweeper status`` starts fast."""

from __future__ import annotations

from pathlib import Path

from sweeper.errors import SweeperError, did_you_mean
from sweeper.store.paths import OutputsPaths, SweepPaths
from sweeper.store.trials import TrialStore

__all__ = ["find_sweep"]


def find_sweep(name: str, outputs: Path) -> TrialStore:
    """Return a sweep.

    Args:
        name: Its name; the latest sweep if empty.
        outputs: Folder of all sweeps.

    Raises:
        SweeperError: There is no such sweep.
    """
    paths = OutputsPaths(outputs)
    sweeps = sorted(paths.sweeps(), key=_written_at)
    names = [sweep.root.name for sweep in sweeps]
    if name and name in names:
        return TrialStore(paths.sweep(name))
    if not name and names:
        return TrialStore(sweeps[-1].root)
    known = f"Existing sweeps: {', '.join(names)}." if names else f"{outputs} contains no sweep."
    remedy = f"{did_you_mean(name, names)} {known}".strip()
    raise SweeperError(f"there is no sweep '{name}'. {remedy}" if name else f"no sweep has been run yet. {known}")


def _written_at(sweep: SweepPaths) -> float:
    return max(path.stat().st_mtime for path in (sweep.sweep, sweep.sweep_backup) if path.exists())
