"""Collects the warnings that are logged while rows are read and split, so that they can be stored with the splits.

Later sweeps take the splits from the cache and read no row, but their user should see the warnings as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collect_warnings"]

_DATA = logging.getLogger("sweeper.data")


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Give a list, to which the warnings of this package are added during the block, while they are logged as usual."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Collector(logging.WARNING)
    _DATA.addHandler(handler)
    try:
        yield found
    finally:
        _DATA.removeHandler(handler)
