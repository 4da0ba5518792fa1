"""Locks between processes: an exclusive lock on a file, which the operating system releases however its holder ends.

`filelock` does the work. Where a file system has no such locks (flock), it would silently use the existence of a file
instead, which a kill leaves behind and which two machines may see differently. Here that is an error with a remedy.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from sweeper.disk.atomic import make_folder
from sweeper.disk.space import translate_errors
from sweeper.errors import DiskError

__all__ = ["Timeout", "hold_file"]

_MISSING_CODES = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


@contextmanager
def hold_file(path: Path, *, timeout_s: float = -1, key: str = "cache") -> Iterator[None]:
    """Hold the lock on a file for the duration of the block; create the file and its folder.

    Args:
        path: The file; it stays when the lock is released.
        timeout_s: How long to wait for the lock; without limit if negative.
        key: The setting that decides where the file is, for the message.

    Raises:
        Timeout: Another process holds it.
        DiskError: The file system has no locks, or the file cannot be created.
    """
    make_folder(path.parent)
    lock = FileLock(path, timeout=timeout_s, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:  # is an OSError too
        raise
    except OSError as error:
        if error.errno in _MISSING_CODES:
            raise DiskError(
                f"{path} cannot be locked: its file system ({_file_system(path)}) has no file locks (flock). Without "
                f"them, two processes could write the same files. Set {key}=... to a folder on a local disk"
            ) from error
        with translate_errors(path):
            raise
    try:
        yield
    finally:
        lock.release()


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds a path, e.g. ``nfs4``."""
    mounts = [part for part in psutil.disk_partitions(all=True) if path.absolute().is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "of unknown type"
