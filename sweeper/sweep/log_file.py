"""Writes log records to a file in the sweep's folder, and sweeper's own warnings to the terminal as well.

Passwords of URLs are hidden in messages and tracebacks: libraries quote the addresses of databases and trackers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.urls import redact_urls

__all__ = ["log_to"]


class _RedactingFormatter(logging.Formatter):
    """Formats as usual, without the passwords of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record and of its traceback."""
        return redact_urls(super().format(record))


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append log records to a file during the block: sweeper's from INFO up, other libraries' from WARNING up."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, own = logging.getLogger(), logging.getLogger("sweeper")
    before = own.level
    # Python's last-resort handler writes to the current stderr, also while the live view replaces it. An application
    # that has configured logging shows warnings itself.
    terminal = None if root.handlers else logging.lastResort
    own.setLevel(logging.INFO)
    root.addHandler(handler)
    if terminal is not None:
        terminal.setFormatter(_RedactingFormatter())
        own.addHandler(terminal)
    try:
        yield
    finally:
        if terminal is not None:
            own.removeHandler(terminal)
            terminal.setFormatter(None)
        root.removeHandler(handler)
        own.setLevel(before)
        handler.close()
