"""A model of what a power failure leaves: only contents and names that were flushed.

It is strict: no rename, new name or content reaches the disk before its flush, although any of them might.
"""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path

import pytest

from sweeper.disk.atomic import is_unfinished


class Disk:
    """Records every flush below a folder, and checks every rename: what gets a final name must have been flushed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root.absolute()
        self.num_flushes = 0
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._folders: set[int] = set()
        self._held: dict[int, int] = {}
        """Open files by inode: as long as one is open, its inode's number is not given to another file."""
        weakref.finalize(self, _close, self._held)  # tests that end without `restore` would leave hundreds open
        self._fsync, self._replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", self._note_flush)
        monkeypatch.setattr(os, "replace", self._check_rename)

    def is_flushed(self, path: Path) -> bool:
        """Whether a power failure would leave a file or folder with its present content under its present name."""
        ancestors = [path, *path.parents]
        named = ancestors[: ancestors.index(self.root)]
        return self.has_content(path) and all(
            self._names.get(inode(each.parent), {}).get(each.name) == inode(each) for each in named
        )

    def has_content(self, path: Path) -> bool:
        """Whether the content was flushed, whatever the name."""
        if path.is_dir():
            present = {child.name: inode(child) for child in path.iterdir()}
            return self._names.get(inode(path), {}) == present and all(map(self.has_content, path.iterdir()))
        return self._contents.get(inode(path)) == path.read_bytes()

    def left(self, path: Path) -> bytes | None:
        """Return what a power failure would leave of a file: its content, or None if there would be none."""
        number = inode(self.root)
        for name in path.relative_to(self.root).parts:
            number = self._names.get(number, {}).get(name, -1)
        return self._contents.get(number)

    def restore(self, target: Path) -> None:
        """Write what a power failure would leave to another folder, and close the model."""
        self._restore(inode(self.root), target)
        self.close()

    def _restore(self, number: int, target: Path) -> None:
        target.mkdir()
        for name, child in self._names.get(number, {}).items():
            if child in self._folders:
                self._restore(child, target / name)
            elif child in self._contents:
                (target / name).write_bytes(self._contents[child])
            else:
                (target / name).touch()  # its name was flushed, but not its content

    def on_rename(self, source: Path, target: Path) -> None:
        """Check a rename before it happens; tests replace this."""

    def _note_flush(self, number: int) -> None:
        self._fsync(number)
        path, status = Path(f"/proc/self/fd/{number}").readlink(), os.fstat(number)
        if path.is_relative_to(self.root):
            self.num_flushes += 1
            self._hold(path)
            if stat.S_ISDIR(status.st_mode):
                for child in path.iterdir():
                    self._hold(child)
                self._names[status.st_ino] = {child.name: inode(child) for child in path.iterdir()}
                self._folders |= {inode(child) for child in path.iterdir() if child.is_dir()}
            else:
                self._contents[status.st_ino] = path.read_bytes()

    def close(self) -> None:
        """Close the files that are held open."""
        _close(self._held)

    def _hold(self, path: Path) -> None:
        if path.exists() and inode(path) not in self._held:
            self._held[inode(path)] = os.open(path, os.O_RDONLY)

    def _check_rename(self, source: str | Path, target: str | Path) -> None:
        source, target = Path(source), Path(target)
        if target.is_relative_to(self.root):
            assert is_unfinished(target) or self.has_content(source), f"{target} gets content that was not flushed"
            self.on_rename(source, target)
        self._replace(source, target)


def _close(held: dict[int, int]) -> None:
    for number in held.values():
        os.close(number)
    held.clear()


def inode(path: Path) -> int:
    return path.lstat().st_ino
