"""Checksums, and temporary folders in which files are completed before they enter the cache."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.disk.atomic import make_folder
from sweeper.disk.space import translate_errors
from sweeper.errors import FetchError

__all__ = ["TOKENIZER_FILES", "check_sha256", "sha256_of", "temporary_folder"]

TOKENIZER_FILES = ("*token*.json", "*.model", "vocab.*", "merges.txt", "*.jinja", "config.json")
"""Files of a model's folder on which token ids depend."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits, without reading it into memory at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Check a file against its checksum.

    Args:
        path: The file.
        expected: SHA-256 in lower-case hexadecimal digits.
        remedy: What the user can do, the end of the error message.

    Raises:
        FetchError: The file has another checksum.
    """
    got = sha256_of(path)
    if got != expected:
        raise FetchError(f"{path.name} has the wrong checksum: expected sha256 {expected}, got {got}. {remedy}")


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Create an empty folder for the duration of the block. The caller holds a lock, so old content is from a kill.

    Raises:
        DiskError: The disk is full or fails.
    """
    with translate_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
