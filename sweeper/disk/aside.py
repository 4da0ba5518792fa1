"""Moves damaged files and folders of a cache aside, so that they can be made or fetched again. Deletes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sweeper.disk.atomic import move

__all__ = ["move_aside"]


def move_aside(path: Path) -> Path:
    """Rename a file or folder to ``<name>.damaged-<time>`` and return its new path. The caller holds a lock.

    Raises:
        DiskError: The disk fails or is read-only.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    move(path, target)
    return target
