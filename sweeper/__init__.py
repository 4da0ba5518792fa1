"""Finds good LoRA hyperparameters for a model on your data: `sweeper.run(["dataset=trec", "budget.trials=8"])`.

`run` and `load` are the whole programming interface; both return a `sweeper.analysis.load.Sweep` (docs/api.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.analysis.load import Sweep

__all__ = ["load", "run"]


def load(path: str | Path) -> Sweep:
    """Load a sweep from disk, finished or not.

    Args:
        path: Its folder, e.g. ``outputs/<sweep>``.

    Returns:
        The content of its best.json as a mapping, and its trials, measurements, outcomes and verdicts as pandas frames.

    Raises:
        SweeperError: The folder contains no sweep.
    """
    from sweeper.analysis.load import load_sweep

    return load_sweep(path)


def run(overrides: Sequence[str] = ()) -> Sweep:
    """Run a sweep, or resume it.

    Args:
        overrides: Hydra overrides, as on the command line.

    Returns:
        What `load` returns for the sweep.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or no worker is left.
    """
    from sweeper.sweep.run import run_sweep

    return run_sweep(overrides).load()
