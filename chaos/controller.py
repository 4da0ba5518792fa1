"""The command that the suite kills and restarts: ``sweeper`` with faulty workers and a movable clock.

`session` starts it as ``python -m chaos.controller run OVERRIDES``.
"""

from __future__ import annotations

from pathlib import Path

import sweeper.sweep.factory
from chaos.clock import use_clock
from chaos.faults import make_worker
from sweeper.cli import main

if __name__ == "__main__":
    sweeper.sweep.factory.make_worker = make_worker  # type: ignore[attr-defined]
    use_clock(Path.cwd())
    main()
