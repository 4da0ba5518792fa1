"""Finds good LoRA hyperparameters for a model on your data: `sweeper.run(["dataset=trec", "budget.trials=8"])`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["run"]


def run(overrides: Sequence[str] = ()) -> Mapping[str, Any]:
    """Run a sweep, or resume it.

    Args:
        overrides: Hydra overrides, as on the command line.

    Returns:
        The content of the sweep's best.json.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or no worker is left.
    """
    from sweeper.sweep.run import run_sweep

    return run_sweep(overrides).best
