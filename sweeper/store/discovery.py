"""Reads sweeps back from disk: which there are, and how far each is. ``sweeper status`` needs nothing else.

Writes nothing, and loads nothing that searches or trains.
"""

from __future__ import annotations

from pathlib import Path

from sweeper.errors import SweeperError, did_you_mean
from sweeper.store.trials import TrialStore

__all__ = ["find_sweep"]


def find_sweep(name: str, outputs: Path) -> TrialStore:
    """Return a sweep by name, or the latest one if the name is empty.

    Raises:
        SweeperError: There is none.
    """
    sweeps = sorted(outputs.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    names = [path.parent.name for path in sweeps]
    if name and name in names:
        return TrialStore(outputs / name)
    if not name and names:
        return TrialStore(outputs / names[-1])
    known = f"There are: {', '.join(names)}." if names else f"There is none in {outputs}."
    remedy = f"{did_you_mean(name, names)} {known}".strip()
    raise SweeperError(f"there is no sweep '{name}'. {remedy}" if name else f"no sweep was run yet. {known}")
