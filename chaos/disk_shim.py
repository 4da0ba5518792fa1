"""Counts the operations of this process that change a disk, and kills the process or fails an operation at any of them.

Patches the functions of `os`, `open` and SQLAlchemy's commit, below everything that the product calls. Only paths below
one folder count. What C libraries write themselves (SQLite, Arrow) is not seen; `strace_points` sees that. Installed in
a forked child by `crash_session`; there is no way to uninstall it.

Operations are numbered per thread, kind and path. The threads that write to Optuna's database and MLflow run at their
own pace, and some files are written at certain times, so the n-th operation of a session is another one each time.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import pickle
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from chaos.power_loss import Flushed, build_image, digest

__all__ = ["ERRORS", "KILLABLE", "DiskShim", "Fault", "Kind", "Operation"]

Kind = str
"""rename, fsync, unlink (also of an empty folder), commit, mkdir, open (for writing) or write."""
KILLABLE = ("rename", "fsync", "unlink", "commit")
ERRORS = {
    "EIO": ("fsync", "write", "rename", "unlink"),
    "ENOSPC": ("write", "rename"),
    "EROFS": ("mkdir", "unlink"),
}
"""The kinds of operations that each error is injected into."""
_STICKY = {
    "ENOSPC": ("open", "write", "mkdir", "rename", "fsync"),
    "EROFS": ("open", "write", "mkdir", "rename", "unlink"),
}
"""The kinds that fail from then on: a disk stays full or read-only. EIO happens once."""
_RANDOM = {r"\.[0-9a-f-]+\.tmp": ".*.tmp", r"[0-9a-f]{32}": "*", r"damaged([/-])\w+": r"damaged\1*"}
"""Parts of paths that differ between sessions, as regular expressions, and what replaces them."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a session.

    Attributes:
        thread: Name of the thread.
        kind: What it does.
        number: Its number among those of this kind on this path in this thread, counted from 1.
        path: The path it changes, relative to the folder, without the parts that are random.
    """

    thread: str
    kind: Kind
    number: int
    path: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at one operation.

    Attributes:
        at: The operation.
        what: ``before`` or ``after`` for a SIGKILL, or the name of an error.
    """

    at: Operation
    what: str


@dataclass
class DiskShim:
    """The patches of one process.

    Args:
        folder: Operations on paths below it count.
        notes: File for what was seen: the operations, the state of the disk, and what the session had reported. Not
            below ``folder``.
        fault: What to inject; None only counts.
    """

    folder: Path
    notes: Path
    fault: Fault | None = None
    watches: bool = False
    """Whether to take a checksum of what a kill or a power failure would leave at each operation."""
    states: list[tuple[Operation, str, dict[str, str]]] = field(default_factory=list)
    """Operations of `KILLABLE` kinds, ``before`` or ``after``, and the checksum of each kind of image."""
    operations: list[Operation] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Paths of the operations that failed because of the fault."""
    reported: dict[Any, Any] = field(default_factory=dict)
    """What the session knows to be saved; `crash_session` fills it."""

    def __post_init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.RLock()
        self._is_failing = False
        self._root = f"{self.folder}{os.sep}"
        self.flushed = Flushed.of(self.folder)

    def install(self) -> None:
        """Patch this process."""
        self._patch_renames()
        self._patch_fsync()
        self._patch_removals()
        self._patch_opening()
        self._patch_commit()

    def save(self) -> None:
        """Write down what was seen so far."""
        seen = {
            "operations": self.operations,
            "states": self.states,
            "failed": self.failed,
            "reported": self.reported,
            "flushed": self.flushed,
        }
        with self._open(self.notes, "wb") as file:
            pickle.dump(seen, file)

    def _counts_path(self, path: str) -> bool:
        return path.startswith(self._root) or path == str(self.folder)

    def _kill(self) -> NoReturn:
        self.save()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def _run(
        self, kind: Kind, path: str, call: Callable[[], Any], *, frees: int | None = None, flushes: bool = False
    ) -> Any:
        """Count an operation and carry it out, unless the fault happens here.

        Args:
            kind: What it does.
            path: The path it changes, absolute.
            call: Does it.
            frees: The inode whose name it removes.
            flushes: Whether the path is flushed to the disk.
        """
        if not self._counts_path(path):
            return call()
        # A commit may wait for another thread, so a call has no lock, unless checksums need a tree that stands still.
        with self._lock if self.watches else contextlib.nullcontext():
            with self._lock:
                thread = threading.current_thread().name
                stable = _stable(path.removeprefix(self._root))
                self._counts[thread, kind, stable] += 1
                operation = Operation(thread, kind, self._counts[thread, kind, stable], stable)
                self.operations.append(operation)
                is_here = self.fault is not None and self.fault.at == operation
                self._watch(operation, "before")
                self._inject(operation, path, is_here=is_here)
            result = call()
            with self._lock:
                if frees is not None:
                    self.flushed.forget(frees)
                if flushes:
                    self.flushed.flush(Path(path))
                self._watch(operation, "after")
                if is_here:
                    self._kill()
        return result

    def _watch(self, operation: Operation, when: str) -> None:
        if self.watches and operation.kind in KILLABLE:
            images = {
                kind: build_image(kind, self.flushed, live=self.folder) for kind in ("killed", "flushed", "names")
            }
            self.states.append((operation, when, {kind: digest(image) for kind, image in images.items()}))

    def _inject(self, operation: Operation, path: str, *, is_here: bool) -> None:
        """Kill the process before an operation, or raise the fault's error, if it is to happen here."""
        what = self.fault.what if self.fault is not None else ""
        if is_here and what == "before":
            self._kill()
        if what in _STICKY and is_here:
            self._is_failing = True
        if what in ERRORS and (is_here or (self._is_failing and operation.kind in _STICKY[what])):
            self.failed.append(operation.path)
            number = getattr(errno, what)
            raise OSError(number, os.strerror(number), path)

    def _patch_renames(self) -> None:
        def patched(real: Callable[..., Any]) -> Callable[..., None]:
            def rename(source: Any, target: Any) -> None:
                replaced = _inode(target)
                self._run("rename", _full(target, None), lambda: real(source, target), frees=replaced)

            return rename

        for name in ("replace", "rename"):
            setattr(os, name, patched(getattr(os, name)))

    def _patch_fsync(self) -> None:
        def patched(real: Callable[..., Any]) -> Callable[..., None]:
            def fsync(file: Any) -> None:
                number = file if isinstance(file, int) else file.fileno()
                path = _path_of(number)
                # A kill loses nothing that was written: only the record of what was flushed matters, not the flush.
                call = (lambda: None) if self._counts_path(path) else (lambda: real(number))
                self._run("fsync", path, call, flushes=True)

            return fsync

        for name in ("fsync", "fdatasync"):
            setattr(os, name, patched(getattr(os, name)))

    def _patch_removals(self) -> None:
        def patched(real: Callable[..., Any]) -> Callable[..., None]:
            def remove(path: Any, *, dir_fd: int | None = None) -> None:
                full = _full(path, dir_fd)
                inode = _inode(full)
                if inode is None:  # it does not exist, so nothing changes
                    real(path, dir_fd=dir_fd)
                else:
                    self._run("unlink", full, lambda: real(path, dir_fd=dir_fd), frees=inode)

            return remove

        for name in ("unlink", "remove", "rmdir"):
            setattr(os, name, patched(getattr(os, name)))
        real_mkdir = os.mkdir

        def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            full = _full(path, dir_fd)
            if _inode(full) is None:
                self._run("mkdir", full, lambda: real_mkdir(path, mode, dir_fd=dir_fd))
            else:
                real_mkdir(path, mode, dir_fd=dir_fd)

        setattr(os, "mkdir", mkdir)  # noqa: B010  mypy knows it as a function

    def _patch_opening(self) -> None:
        real_open = os.open
        self._open = builtins.open

        def open_number(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if not flags & _WRITES:
                return real_open(path, flags, mode, dir_fd=dir_fd)
            number: int = self._run("open", _full(path, dir_fd), lambda: real_open(path, flags, mode, dir_fd=dir_fd))
            return number

        def open_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **more: Any) -> Any:
            is_path = isinstance(file, str | os.PathLike)
            full = _full(file, None) if is_path else ""
            if not self._counts_path(full) or not set(mode) & set("wax+"):
                return self._open(file, mode, buffering, *args, **more)
            return self._run("open", full, lambda: self._opened(full, mode, *args, **more))

        setattr(os, "open", open_number)  # noqa: B010  mypy knows it as a function
        setattr(io, "open", open_file)  # noqa: B010  `pathlib` calls this name
        setattr(builtins, "open", open_file)  # noqa: B010

    def _opened(self, path: str, mode: str, encoding: str | None = None, *_: Any, **more: Any) -> Any:
        """Return a file whose every write to the disk is an operation."""
        shim = self

        class File(io.FileIO):
            def write(self, content: Any) -> int:
                written: int = shim._run("write", path, lambda: super(File, self).write(content))
                return written

        raw = File(path, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        text = {name: more[name] for name in ("errors", "newline") if name in more}
        return io.TextIOWrapper(buffered, encoding=encoding or more.get("encoding") or "utf-8", **text)

    def _patch_commit(self) -> None:
        from sqlalchemy.engine.default import DefaultDialect

        real = DefaultDialect.do_commit

        def do_commit(dialect: Any, connection: Any) -> None:
            if not getattr(connection, "in_transaction", True):  # it has read only
                real(dialect, connection)
                return
            (_, _, path), *_ = connection.cursor().execute("PRAGMA database_list").fetchall()
            self._run("commit", path, lambda: real(dialect, connection))

        setattr(DefaultDialect, "do_commit", do_commit)  # noqa: B010  mypy knows it as a method


def _stable(path: str) -> str:
    """Return a path without what is random in it, or a time: parts of temporary names, run ids, stamps of repairs."""
    for pattern, text in _RANDOM.items():
        path = re.sub(pattern, text, path)
    return path


def _full(path: Any, folder: int | None) -> str:
    """Return an absolute path, also of one that is relative to an open folder."""
    start = Path.cwd() if folder is None else Path(_path_of(folder))
    return os.path.normpath(start / os.fsdecode(path))


def _path_of(number: int) -> str:
    """Return the path of an open file or folder."""
    return os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115  a string is wanted


def _inode(path: Any) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None
