"""Writes log records to a file in the sweep's folder, and sweeper's own warnings to the terminal as well."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["log_to"]


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append log records to a file during the block: sweeper's from INFO up, other libraries' from WARNING up.

    The file is opened with the first record. So a command that finds its sweep locked neither creates nor touches it.
    """
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, own = logging.getLogger(), logging.getLogger("sweeper")
    before = own.level
    # Python's last-resort handler writes to the current stderr, also while the live view replaces it. An application
    # that has configured logging shows warnings itself.
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
