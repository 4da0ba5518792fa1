"""Atomic writes, and the checksums that reveal a damaged file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sweeper.store.disk_space import translate_disk_full

__all__ = ["checksum", "write_atomic"]


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers, also after a crash, see either the old or the new content.

    Raises:
        DiskFull: No space is left. The file keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with translate_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
