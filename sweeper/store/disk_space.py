"""How much space is left where a sweep is kept; asked before it starts, and when a write fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import DiskFull
from sweeper.failures import is_full

__all__ = ["check_space", "disk_full", "free_mb", "translate_disk_full"]

_COMFORTABLE = 10
"""Times the least space, below which people are warned."""


def free_mb(path: Path) -> float:
    """Return the free space, in MB, of the disk on which a path is, or would be."""
    return shutil.disk_usage(_existing(path)).free / 1e6


def check_space(folder: Path, least_mb: int) -> str:
    """Check that there is space to start.

    Args:
        folder: Where the sweep is kept; need not exist.
        least_mb: ``executor.min_free_mb``; 0 for no check.

    Returns:
        A warning, or nothing.

    Raises:
        DiskFull: There is less than ``least_mb``.
    """
    free = free_mb(folder)
    if free < least_mb:
        raise DiskFull(
            f"executor.min_free_mb={least_mb}: {folder} is on a disk with {free:.0f} MB free. Free space, choose "
            "another place with outputs=..., or lower executor.min_free_mb"
        )
    if free < _COMFORTABLE * least_mb:
        return f"{folder} is on a disk with {free:.0f} MB free; a sweep that fills it drains, and can go on later"
    return ""


def disk_full(path: Path, cause: object) -> DiskFull:
    """Return the error of a write that found no space."""
    return DiskFull(
        f"{path} cannot be written ({cause}): {free_mb(path):.1f} MB are free there. What was saved before is whole. "
        "Free space, then run the same command again"
    )


@contextmanager
def translate_disk_full(path: Path) -> Iterator[None]:
    """Turn the system's error into ours.

    Raises:
        DiskFull: No space is left, or the quota is used up.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(path, error.strerror) from error
        raise


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
