"""Simulates a power failure: keeps what was flushed to a disk, and builds what an adversarial disk may have left.

A disk has only promised what was flushed: the content of a file at its last fsync, and the names in a folder at the
folder's last fsync. `disk_shim` records both, and `images` builds three kinds of disks from the record and from what a
killed process left. SQLite's files are taken as they were at that moment; `wal_prefixes` cuts its log.

MLflow's artifacts are not flushed by MLflow, and are a copy of what the store has: they count as flushed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["IMAGES", "Flushed", "Image", "build_image", "digest", "write_image"]

IMAGES = {
    "flushed": "only what was flushed",
    "names": "all names, but the content of unflushed files is lost",
    "mixture": "a seeded mixture of flushed and unflushed names, and of whole, torn and lost content",
}
_DATABASE = (".db", ".db-wal", ".db-journal")
_SHARED_MEMORY = ".db-shm"
"""SQLite's index of the log, which it rebuilds."""
_KEPT = "mlartifacts"

_Identity = tuple[int, int]
"""Inode, and how often this inode had been freed before: file systems use them again."""
_Entry = tuple[_Identity, bool]
"""What a name means, and whether it is a folder."""
Image = dict[str, bytes | Path | None]
"""The content of each relative path, parents first: of a file, a file or folder to copy, or None for a folder."""


@dataclass
class Flushed:
    """What a disk has promised to keep."""

    contents: dict[_Identity, bytes] = field(default_factory=dict)
    """Of files."""
    entries: dict[_Identity, dict[str, _Entry]] = field(default_factory=dict)
    """Of folders: the identity of each name, and whether it is a folder."""
    freed: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Flushed:
        """Return the state of a disk on which everything is flushed."""
        flushed = cls()
        for root, _, names in os.walk(folder):
            flushed.flush(Path(root))
            for name in names:
                if not _is_as_is(name):
                    flushed.flush(Path(root) / name)
        return flushed

    def identity(self, inode: int) -> _Identity:
        """Return what an inode is now."""
        return inode, self.freed.get(inode, 0)

    def flush(self, path: Path) -> None:
        """Record that a file or folder was flushed."""
        try:
            identity = self.identity(path.stat().st_ino)
            if path.is_dir():
                self.entries[identity] = self.listing(path)
            else:
                number = os.open(path, os.O_RDONLY)
                try:
                    self.contents[identity] = os.read(number, os.fstat(number).st_size)
                finally:
                    os.close(number)
        except FileNotFoundError:  # flushed after its name was removed
            return

    def forget(self, inode: int) -> None:
        """Record that an inode was freed; a flushed name may still mean the file that it was."""
        self.freed[inode] = self.freed.get(inode, 0) + 1

    def listing(self, folder: Path) -> dict[str, _Entry]:
        """Return the present entries of a folder."""
        with os.scandir(folder) as found:
            return {each.name: (self.identity(each.inode()), each.is_dir(follow_symlinks=False)) for each in found}


def build_image(kind: str, flushed: Flushed, *, live: Path, draw: random.Random | None = None) -> Image:
    """Return a disk as a kill or a power failure may have left it.

    Args:
        kind: One of `IMAGES`, or ``killed`` for what the operating system shows.
        flushed: What the disk had promised.
        live: What the operating system showed at that moment.
        draw: Generator of the mixture.
    """
    builder = _Builder(kind, flushed, live, draw or random.Random(0))  # noqa: S311  no secret
    builder.add_folder("", live, flushed.identity(live.stat().st_ino))
    return builder.image


def write_image(image: Image, to: Path) -> None:
    """Write an image into a new folder."""
    to.mkdir()
    for name, content in image.items():
        if content is None:
            (to / name).mkdir()
        elif isinstance(content, bytes):
            (to / name).write_bytes(content)
        elif content.is_dir():
            shutil.copytree(content, to / name)
        else:
            shutil.copyfile(content, to / name)


def digest(image: Image) -> str:
    """Return a checksum of an image without its databases, whose files other threads may be changing."""
    total = hashlib.sha256()
    for name in sorted(image):
        content = image[name]
        if not isinstance(content, Path):
            total.update(f"{name}\0{'/' if content is None else len(content)}\0".encode())
            total.update(content or b"")
    return total.hexdigest()


class _Builder:
    def __init__(self, kind: str, flushed: Flushed, live: Path, draw: random.Random) -> None:
        self._kind, self._flushed, self._draw = kind, flushed, draw
        self._paths = {flushed.identity(path.lstat().st_ino): path for path in (live, *live.rglob("*"))}
        self.image: Image = {}

    def add_folder(self, prefix: str, live: Path | None, identity: _Identity) -> None:
        kept = self._flushed.entries.get(identity, {})
        present = self._flushed.listing(live) if live is not None else {}
        for name in sorted(kept | present):
            if _is_as_is(name):
                if live is not None and name in present:
                    self.image[prefix + name] = live / name
                continue
            entry = self._entry(kept.get(name), present.get(name))
            if entry is None or name.endswith(_SHARED_MEMORY):
                continue
            target, is_folder = entry
            if is_folder:
                self.image[prefix + name] = None
                self.add_folder(f"{prefix}{name}/", self._paths.get(target), target)
            else:
                self.image[prefix + name] = self._content(target)

    def _entry(self, kept: _Entry | None, present: _Entry | None) -> _Entry | None:
        if self._kind == "flushed":
            return kept
        return self._draw.choice([kept, present]) if self._kind == "mixture" else present

    def _content(self, identity: _Identity) -> bytes:
        kept = self._flushed.contents.get(identity, b"")
        if self._kind in ("flushed", "names") or identity not in self._paths:
            return kept
        present = self._paths[identity].read_bytes()
        if self._kind == "killed":
            return present
        return self._draw.choice([kept, present]) if kept else present[: self._draw.randint(0, len(present))]


def _is_as_is(name: str) -> bool:
    return name.endswith(_DATABASE) or name == _KEPT
