"""Writes log records to a file in the sweep's folder, and sweeper's own warnings to the terminal as well.

Passwords of URLs are hidden in messages and tracebacks: libraries quote the addresses of databases and trackers.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeper.urls import redact_urls

__all__ = ["log_to"]


class _LogFile(logging.FileHandler):
    """A log file that leaves out what its disk does not take; the sweep stops because of other files."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; the first one opens the file."""
        with suppress(OSError):
            super().emit(record)

    def close(self) -> None:
        """Close the file. What its disk did not take is still in its buffer, and is left out."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name in the base class
        """Report an error of a record, but not one of the disk: it would come with every record, as a traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _RedactingFormatter(logging.Formatter):
    """Formats as usual, without the passwords of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record and of its traceback."""
        return redact_urls(super().format(record))


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append log records to a file during the block: sweeper's from INFO up, other libraries' from WARNING up.

    The file is opened with the first record. So a command that finds its sweep locked neither creates nor touches it.
    """
    handler = _LogFile(path, encoding="utf-8", delay=True)
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
