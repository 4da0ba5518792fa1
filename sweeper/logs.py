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
    own.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        own.setLevel(before)
        handler.close()
