"""Atomic and durable writes: after a kill or a power failure, a reader sees either the old or the new content.

An order that survives a power failure: write under a temporary name, flush the file, rename it, flush the folder.
Without the last step, the name may be gone although the content is on the disk. Temporary names are unique, so two
processes never write the same one; `remove_unfinished` removes those that a killed process left.

A flush takes 2 to 4 ms on an SSD. So a caller that writes several files into one folder, and then the file that refers
to them, may flush the names of all but the last at once: with ``is_name_flushed=False``, then `sync_folder`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.disk.space import translate_errors

__all__ = [
    "checksum",
    "file_checksum",
    "is_unfinished",
    "make_folder",
    "move",
    "new_folder",
    "remove_folder",
    "remove_unfinished",
    "sync_folder",
    "temporary_name",
    "write_atomic",
    "write_by_content",
]

_UNFINISHED = ".tmp"


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file without holding it in memory.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_name(path: Path) -> Path:
    """Return a new name beside a file or folder, under which it is written before it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")


def is_unfinished(path: Path) -> bool:
    """Whether a path has a temporary name, so that a killed process left it or another one is writing it."""
    return path.name.startswith(".") and path.name.endswith(_UNFINISHED)


def write_atomic(path: Path, content: bytes, *, is_name_flushed: bool = True) -> None:
    """Write a file atomically and durably; create its folder.

    Args:
        path: The file.
        content: Its content.
        is_name_flushed: Whether its name is durable too when this returns; if not, the caller flushes the folder.

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
        if is_name_flushed:
            sync_folder(path.parent)


def write_by_content(folder: Path, parts: Iterable[bytes | memoryview], *, prefix: str = "") -> tuple[Path, str]:
    """Write a file whose name contains its checksum, for another process that will move it; create its folder.

    Its content is durable when this returns; its name is not, since nobody knows of the file yet.

    Args:
        folder: The folder.
        parts: The content, so that it never has to be in memory as a whole.
        prefix: The beginning of its name.

    Returns:
        The file and its SHA-256.

    Raises:
        DiskError: The disk is full or fails. Nothing is left.
    """
    temporary, digest = temporary_name(folder / "content"), hashlib.sha256()
    with translate_errors(folder):
        make_folder(folder)
        try:
            with temporary.open("wb") as file:
                for part in parts:
                    digest.update(part)
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            path = folder / f"{prefix}{digest.hexdigest()}"
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return path, digest.hexdigest()


@contextmanager
def new_folder(folder: Path, *, is_name_flushed: bool = True) -> Iterator[Path]:
    """Fill a folder atomically and durably: yield an empty temporary one, then move it into place.

    A folder that exists is replaced; for a moment, readers see none. After an error in the block, the old folder stays
    as it was.

    Args:
        folder: The folder.
        is_name_flushed: As for `write_atomic`.

    Raises:
        DiskError: The disk is full or fails.
    """
    temporary, old = temporary_name(folder), temporary_name(folder)
    with translate_errors(folder):
        make_folder(folder.parent)
        try:
            temporary.mkdir()
            yield temporary
            _sync_tree(temporary)
            if folder.exists():
                os.replace(folder, old)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists():
                os.replace(old, folder)
            raise
        if is_name_flushed:
            sync_folder(folder.parent)
        if old.exists():
            shutil.rmtree(old)


def move(path: Path, target: Path) -> None:
    """Move a file or folder durably to another place on the same file system; create the folder of the target.

    Raises:
        DiskError: The disk is full or fails.
    """
    with translate_errors(target):
        make_folder(target.parent)
        if path.is_dir():
            _sync_tree(path)
        else:
            _sync_file(path)
        os.replace(path, target)
        sync_folder(target.parent)
        if path.parent != target.parent:
            sync_folder(path.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder; readers never see a part of it, also after a power failure.

    Raises:
        DiskError: The disk fails.
    """
    temporary = temporary_name(folder)
    with translate_errors(folder):
        os.replace(folder, temporary)
        # Otherwise the folder might come back under its old name without some of its files.
        sync_folder(folder.parent)
        shutil.rmtree(temporary)


def remove_unfinished(folder: Path, *, name: str = "") -> None:
    """Remove the unfinished files and folders that killed processes left in a folder.

    The caller holds the lock under which the folder is written. What another living process is writing stays all the
    same, since reports are also written without the lock. Errors are ignored: leftovers only take space.

    Args:
        folder: The folder; need not exist.
        name: The file or folder whose unfinished versions are meant; all if empty.
    """
    for path in folder.glob(f".*{_UNFINISHED}"):
        of, _, writer = path.name.removeprefix(".").removesuffix(_UNFINISHED).rpartition(".")
        if name in ("", of) and not _is_another_process(writer.partition("-")[0]):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents durably; nothing happens if it exists.

    Raises:
        DiskError: It cannot be created, for example because one of its parents is a file.
    """
    if folder.is_dir():
        return
    with translate_errors(folder):
        if folder.exists():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a folder")
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk.

    Raises:
        DiskError: The disk fails.
    """
    with translate_errors(folder):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    """Flush all files and folders in a folder to the disk, and the folder itself."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(root) / name)
        sync_folder(Path(root))


def _is_another_process(pid: str) -> bool:
    """Whether another process with this id is running on this machine."""
    if not pid.isdigit() or int(pid) in (0, os.getpid()):
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
