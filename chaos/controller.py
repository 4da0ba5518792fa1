"""The command that is killed and given again: sweeper's own, with workers that have faults and a clock that is moved.

``python -m chaos.controller run OVERRIDES``; `session` starts it.
"""

from __future__ import annotations

from pathlib import Path

import sweeper.sweep.factory
from chaos.clock import use_clock
from chaos.faults import make_worker
from sweeper.cli import main

if __name__ == "__main__":
    sweeper.sweep.factory.make_worker = make_worker
    use_clock(Path.cwd())
    main()
