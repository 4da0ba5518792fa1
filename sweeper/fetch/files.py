"""Files on their way into the cache: their checksums, and temporary folders to complete them in."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import FetchError

__all__ = ["check_sha256", "sha256_of", "temporary_folder"]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Check a file against its checksum.

    Raises:
        FetchError: It has another one; ends with the remedy.
    """
    got = sha256_of(path)
    if got != expected:
        raise FetchError(f"{path.name} has the wrong checksum: expected sha256 {expected}, got {got}. {remedy}")


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make an empty folder, and remove it afterwards. Under a lock, so what exists was left by a killed process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
