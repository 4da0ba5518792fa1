"""The command that the suite kills and restarts: ``sweeper`` with faulty workers, a movable clock and a history.

`session` starts it as ``python -m chaos.controller run OVERRIDES``; `fork_server` forks it.
"""

from __future__ import annotations

import os
from pathlib import Path

import sweeper.sweep.factory
from chaos.clock import Clock, use_clock
from chaos.faults import make_worker
from chaos.history import HISTORY, record_to
from chaos.mutants import MUTANT_VARIABLE, plant
from sweeper.cli import main

__all__ = ["prepare"]


def prepare(mutant: str) -> None:
    """Make this process, in the folder of the clock and the history, a controller of the suite.

    Args:
        mutant: The bug to plant, below what the history sees; empty for none.
    """
    folder = Path.cwd()
    if mutant:
        plant(mutant)
    sweeper.sweep.factory.make_worker = make_worker  # type: ignore[attr-defined]
    use_clock(folder)
    record_to(folder / HISTORY, clock=Clock(folder))


if __name__ == "__main__":
    prepare(os.environ.get(MUTANT_VARIABLE, ""))
    main()
