"""The command that the suite kills and restarts: ``sweeper`` with faulty workers, a movable clock and a history.

`session` starts it as ``python -m chaos.controller run OVERRIDES``; `fork_server` forks it.
"""

from __future__ import annotations

from pathlib import Path

import sweeper.sweep.factory
from chaos.clock import Clock, use_clock
from chaos.faults import make_worker
from chaos.history import HISTORY, record_to
from sweeper.cli import main

__all__ = ["prepare"]


def prepare(folder: Path) -> None:
    """Make this process a controller of the suite.

    Args:
        folder: Where the clock and the history are: that of the session's log.
    """
    sweeper.sweep.factory.make_worker = make_worker  # type: ignore[attr-defined]
    use_clock(folder)
    record_to(folder / HISTORY, clock=Clock(folder))


if __name__ == "__main__":
    prepare(Path.cwd())
    main()
