"""Free space on the disk of a sweep, checked before it starts, and the error when a write finds none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import DiskFull
from sweeper.failures import is_full

__all__ = ["check_space", "free_mb", "translate_disk_full"]

_WARNING_FACTOR = 10
"""Below this multiple of ``executor.min_free_mb`` the user is warned."""


def free_mb(path: Path) -> float:
    """Return the free space, in MB, of the disk on which a path is, or would be."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free / 1e6


def check_space(folder: Path, least_mb: int) -> str:
    """Check that the disk has enough space to start.

    Args:
        folder: The sweep's folder; need not exist.
        least_mb: ``executor.min_free_mb``; 0 for no check.

    Returns:
        A warning; empty if there is plenty of space.

    Raises:
        DiskFull: There is less than ``least_mb``.
    """
    free = free_mb(folder)
    if free < least_mb:
        raise DiskFull(
            f"executor.min_free_mb={least_mb}: {folder} is on a disk with only {free:.0f} MB free. Free space, "
            "choose another disk with outputs=..., or lower executor.min_free_mb"
        )
    if free < _WARNING_FACTOR * least_mb:
        return f"{folder} is on a disk with only {free:.0f} MB free. A sweep that fills it stops and can continue later"
    return ""


@contextmanager
def translate_disk_full(path: Path) -> Iterator[None]:
    """Translate an error of the operating system that says the disk is full.

    Raises:
        DiskFull: No space is left, or the quota is used up.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFull(
                f"{path} cannot be written ({error.strerror}): {free_mb(path):.1f} MB are free there. Nothing saved "
                "before is lost. Free space, then run the same command again"
            ) from error
        raise
