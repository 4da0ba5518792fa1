"""The command that the suite kills and restarts: ``sweeper`` with faulty workers and a movable clock.

`session` starts it as ``python -m chaos.controller run OVERRIDES``.
"""

from __future__ import annotations

import os
from pathlib import Path

import sweeper.sweep.factory
from chaos.clock import use_clock
from chaos.faults import make_worker
from chaos.mutants import MUTANT_VARIABLE, plant
from sweeper.cli import main

__all__ = ["prepare"]


def prepare(mutant: str) -> None:
    """Make this process a controller of the suite, with a planted bug if ``mutant`` is not empty."""
    sweeper.sweep.factory.make_worker = make_worker  # type: ignore[attr-defined]
    use_clock(Path.cwd())
    if mutant:
        plant(mutant)


if __name__ == "__main__":
    prepare(os.environ.get(MUTANT_VARIABLE, ""))
    main()
