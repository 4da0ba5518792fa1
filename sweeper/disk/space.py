"""Checks free disk space before a sweep starts, and translates the errors of failed writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import DiskError, DiskFull, SweeperError, first_line
from sweeper.failures import is_full

__all__ = ["check_space", "free_mb", "translate_errors"]

_WARNING_FACTOR = 10
"""Warn below this multiple of ``executor.min_free_mb``."""


def free_mb(path: Path) -> float:
    """Return the free space, in MB, of the disk that a path is on; the path need not exist."""
    # Unlike the method of a path, this function has no error for a folder that may not be read.
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.exists(folder))  # noqa: PTH110
    return shutil.disk_usage(existing).free / 1e6


def check_space(folder: Path, least_mb: int) -> str:
    """Check that the disk has enough free space to start.

    Args:
        folder: The sweep's folder; need not exist.
        least_mb: ``executor.min_free_mb``; 0 to skip the check.

    Returns:
        A warning; empty if there is enough space.

    Raises:
        DiskFull: Less than ``least_mb`` is free.
    """
    free = free_mb(folder)
    if free < least_mb:
        raise DiskFull(
            f"executor.min_free_mb={least_mb}: {folder} is on a disk with only {free:.0f} MB free. Free space, "
            "choose another disk with outputs=..., or lower executor.min_free_mb"
        )
    if free < _WARNING_FACTOR * least_mb:
        return f"{folder} is on a disk with only {free:.0f} MB free. A sweep stops if it is full, and can be resumed"
    return ""


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Raise the operating system's errors of a write as `DiskError`, and those of libraries if the disk is full.

    Args:
        path: The file or folder that is being written, for the message.

    Raises:
        DiskFull: No space is left, or the quota is used up.
        DiskError: The disk failed (EIO), is read-only, or the path cannot be created.
    """
    try:
        yield
    except SweeperError:
        raise
    except Exception as error:
        if is_full(error):
            raise DiskFull(
                f"{path} cannot be written ({_cause(error)}){_free(path)}. Everything saved before is intact. Free "
                "space, then run the same command again"
            ) from error
        if isinstance(error, OSError):
            raise DiskError(
                f"{path} cannot be written ({_cause(error)}). Everything saved before is intact. Check the disk, its "
                "permissions and the path, then run the same command again"
            ) from error
        raise


def _cause(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else ""
    return strerror or first_line(error).rstrip(".")


def _free(path: Path) -> str:
    """Return how much space is left, as the rest of a clause; empty if a failing disk does not say it."""
    try:
        return f": {free_mb(path):.1f} MB are free on its disk"
    except OSError:
        return ""
