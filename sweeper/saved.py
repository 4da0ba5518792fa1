"""Reads sweeps back from disk: which there are, and how far each is. ``sweeper status`` needs nothing else.

Writes nothing, and loads nothing that searches or trains.
"""

from __future__ import annotations

from pathlib import Path

from sweeper.errors import SweeperError, did_you_mean
from sweeper.ledger import Ledger
from sweeper.progress import StudyProgress, study_progress
from sweeper.store import TrialStore

__all__ = ["find_sweep", "progress_from_disk"]


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


def progress_from_disk(store: TrialStore, *, budget: int) -> list[StudyProgress]:
    """Return how far the studies of a sweep are, as the store tells.

    Args:
        store: The sweep.
        budget: Trials that each study may have.
    """
    recipes = store.read_sweep()["settings"]["search"]["recipes"]
    default = recipes[0]["name"] if recipes else ""
    ledger = Ledger(store.root / "ledger.json")
    progress = []
    for study in store.studies():
        trials = store.trials(study.name)
        share = sum(trial.cost.device_s for trial in trials) / max(ledger.cost.device_s, 1e-9)
        wall_s = ledger.past_s * min(1.0, share)
        progress.append(study_progress(study, trials, budget=budget, wall_s=wall_s, default=default))
    return progress
