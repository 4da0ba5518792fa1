"""Atomic and durable writes: after a kill or a power failure, a reader sees either the old or the new content.

An order that survives a power failure: write under a temporary name, flush the file, rename it, flush the folder.
Without the last step, the name may be gone although the content is on the disk. Temporary names are unique, so two
processes never write the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.disk.space import translate_errors

__all__ = [
    "checksum",
    "is_unfinished",
    "make_folder",
    "new_folder",
    "remove_folder",
    "sync_folder",
    "temporary_name",
    "write_atomic",
]

_UNFINISHED = ".tmp"


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def temporary_name(path: Path) -> Path:
    """Return a new name beside a file or folder, under which it is written before it is complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")


def is_unfinished(path: Path) -> bool:
    """Whether a path has a temporary name, so that a killed process left it or another one is writing it."""
    return path.name.startswith(".") and path.name.endswith(_UNFINISHED)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically and durably; create its folder.

    Raises:
        DiskError: The disk is full or fails. The file keeps its old content.
    """
    temporary = temporary_name(path)
    with translate_errors(path):
        make_folder(path.parent)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder atomically and durably: yield an empty temporary one, then move it into place.

    A folder that exists is replaced; between its removal and the new one's arrival, readers see none. After an error in
    the block, the old folder stays as it was.

    Raises:
        DiskError: The disk is full or fails.
    """
    temporary = temporary_name(folder)
    with translate_errors(folder):
        make_folder(folder.parent)
        try:
            temporary.mkdir()
            yield temporary
            _sync_tree(temporary)
            if folder.exists():
                remove_folder(folder)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder; readers never see a part of it.

    Raises:
        DiskError: The disk fails.
    """
    temporary = temporary_name(folder)
    with translate_errors(folder):
        os.replace(folder, temporary)
        shutil.rmtree(temporary)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents durably; nothing happens if it exists."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sync_tree(folder: Path) -> None:
    """Flush all files and folders in a folder to the disk, and the folder itself."""
    for root, _, names in os.walk(folder):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))
