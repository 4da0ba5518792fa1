"""Digests of large files: computed once while a file stays the same, and recorded beside what was fetched.

A digest is trusted without reading the file again while the operating system says that nobody has written to it: same
device, inode, size and times, and the machine has not been restarted, since a power failure can empty a file without
changing any of these.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from sweeper.disk.atomic import write_atomic
from sweeper.errors import DiskError
from sweeper.fetch.files import sha256_of
from sweeper.types import FileRef

__all__ = ["SMALL_BYTES", "content_digest", "files_of", "read_record", "write_record"]

SMALL_BYTES = 4 << 20
"""Smaller files are always read: that takes less time than looking up what is known of them."""
_ALWAYS_READ_BYTES = 1 << 30
"""Up to this size, a sweep's start reads files even if they look unchanged (1 s); larger ones only if they do not."""
_SETTLED_S = 2.0
"""A file that was changed so recently may change again within the resolution of its times."""
_RECORD = ".digests.json"

_Identity = list[int | str]


def content_digest(path: Path, *, cache: Path, must_read: bool = False) -> str:
    """Return the SHA-256 of a file.

    Args:
        path: The file.
        cache: Folder of fetched and prepared files, where digests of large files are kept.
        must_read: Whether to read the file even if it looks unchanged since its digest was computed, unless it is
            larger than `_ALWAYS_READ_BYTES`.
    """
    before = _identity(path)
    size = path.stat().st_size
    known = cache / "digests" / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:20]}.json"
    if size >= SMALL_BYTES and not (must_read and size <= _ALWAYS_READ_BYTES):
        found = _read_known(known)
        if found.get("identity") == before and isinstance(found.get("sha256"), str):
            return str(found["sha256"])
    digest = sha256_of(path)
    is_settled = time.time() - path.stat().st_ctime > _SETTLED_S
    if size >= SMALL_BYTES and is_settled and _boot_id() and _identity(path) == before:
        found = {"path": str(path.absolute()), "identity": before, "sha256": digest}
        if _read_known(known) != found:
            with suppress(DiskError):  # a shared cache may be read-only; the file is then read again next time
                write_atomic(known, json.dumps(found).encode())
    return digest


def files_of(entry: Path) -> dict[str, FileRef]:
    """Return the files of a cache entry by name: of a folder without its subfolders, or the entry if it is a file."""
    paths = [entry] if entry.is_file() else sorted(path for path in entry.iterdir() if path.is_file())
    return {path.name: FileRef(name=path.name, sha256=sha256_of(path), num_bytes=path.stat().st_size) for path in paths}


def write_record(target: Path, files: Mapping[str, FileRef]) -> None:
    """Record the files of a cache entry beside it, before the entry is moved to its place."""
    content = {name: {"sha256": file.sha256, "num_bytes": file.num_bytes} for name, file in files.items()}
    write_atomic(_record(target), json.dumps(content, indent=1).encode())


def read_record(target: Path) -> Mapping[str, FileRef] | None:
    """Return what is recorded of a cache entry, by file name; None if there is no readable record."""
    try:
        content = json.loads(_record(target).read_text())
        return {name: FileRef(name=name, **fields) for name, fields in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _record(target: Path) -> Path:
    return target.with_name(_RECORD)


def _read_known(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _identity(path: Path) -> _Identity:
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, _boot_id()]


@cache
def _boot_id() -> str:
    """Return what identifies this run of the machine; empty if nothing does, so that no digest is trusted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
