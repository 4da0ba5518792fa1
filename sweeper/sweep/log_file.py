"""Where log lines go: all of them to a file of the sweep, warnings of sweeper to the terminal as well."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["log_to"]


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append log lines of sweeper to a file; third parties' lines from WARNING up."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, own = logging.getLogger(), logging.getLogger("sweeper")
    before = own.level
    # Python's handler of last resort writes warnings to whatever stderr is now, also while the live view has it; an
    # application that has set up logging shows them in its own way.
    terminal = None if root.handlers else logging.lastResort
    own.setLevel(logging.INFO)
    root.addHandler(handler)
    if terminal is not None:
        own.addHandler(terminal)
    try:
        yield
    finally:
        if terminal is not None:
            own.removeHandler(terminal)
        root.removeHandler(handler)
        own.setLevel(before)
        handler.close()
