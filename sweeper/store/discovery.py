"""Finds a sweep on disk by its name. Loads nothing that searches or trains, so ``sweeper status`` starts fast."""

from __future__ import annotations

from pathlib import Path

from sweeper.errors import SweeperError, did_you_mean
from sweeper.store.paths import OutputsPaths
from sweeper.store.trials import TrialStore

__all__ = ["find_sweep"]


def find_sweep(name: str, outputs: Path) -> TrialStore:
    """Return a sweep by name, or the latest one if the name is empty.

    Raises:
        SweeperError: There is no such sweep.
    """
    paths = OutputsPaths(outputs)
    sweeps = sorted(paths.sweeps(), key=lambda sweep: sweep.sweep.stat().st_mtime)
    names = [sweep.root.name for sweep in sweeps]
    if name and name in names:
        return TrialStore(paths.sweep(name))
    if not name and names:
        return TrialStore(sweeps[-1].root)
    known = f"There are: {', '.join(names)}." if names else f"{outputs} holds no sweep."
    remedy = f"{did_you_mean(name, names)} {known}".strip()
    raise SweeperError(f"there is no sweep '{name}'. {remedy}" if name else f"no sweep was run yet. {known}")
