"""Ensures that each sweep has at most one controller: a lock in the sweep's folder, and a note that names its holder.

The operating system owns the lock, so it is released however its holder ends, and a later process with the same process
id does not hold it. The note only serves error messages. `run` and `reconcile` hold the lock while they work.

The report has a lock of its own, since `sweeper report` may write it while a session runs.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sweeper.clock import utc_now
from sweeper.disk.atomic import remove_unfinished, write_atomic
from sweeper.disk.lock import Timeout, hold_file
from sweeper.errors import SweepLocked
from sweeper.store.trials import TrialStore

__all__ = ["hold", "hold_report"]

_REPORT_TIMEOUT_S = 600.0
"""A report takes seconds. A process that is stopped while it writes one must not block all others for ever."""


@contextmanager
def hold(store: TrialStore) -> Iterator[bool]:
    """Hold the sweep's lock for the duration of the block; first remove what a killed holder left unfinished.

    The unfinished files of a trial stay: `TrialStore.tidy` removes them, and `sweeper reconcile` lists them.

    Yields:
        Whether the holder before was killed, so that what it had begun may be unfinished.

    Raises:
        SweepLocked: Another process holds it.
        DiskError: The file system has no locks, or the lock cannot be created.
    """
    note = store.paths.holder
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_file(store.paths.lock, timeout_s=0, key="outputs"))
        except Timeout:
            raise SweepLocked(
                f"sweep {store.root.name} is being run by {_holder(note)}. Wait until it ends, or stop it first"
            ) from None
        for folder in (store.root, store.paths.sessions, *store.paths.studies(), *store.finals.paths.studies()):
            remove_unfinished(folder)
        was_killed = note.exists()
        since = utc_now().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": os.uname().nodename, "user": _user(), "since": since}
        stack.callback(_remove, note)
        write_atomic(note, json.dumps(holder).encode())
        yield was_killed


def _remove(note: Path) -> None:
    with suppress(OSError):  # nothing depends on it, and an error of the disk must not hide another one
        note.unlink()


@contextmanager
def hold_report(store: TrialStore) -> Iterator[None]:
    """Hold the lock of the sweep's report while the block reads the trials and writes the report's files.

    Whoever gets it later has read the trials later. So the files always belong together, and an old report never
    replaces a newer one.

    Raises:
        SweepLocked: Another process has been writing the report for ten minutes.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_file(store.paths.report_lock, timeout_s=_REPORT_TIMEOUT_S, key="outputs"))
        except Timeout:
            raise SweepLocked(
                f"another process has been writing the report of sweep {store.root.name} for {_REPORT_TIMEOUT_S:g} s"
            ) from None
        yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return str(os.getuid())


def _holder(note: Path) -> str:
    try:
        known = json.loads(note.read_text())
        return f"process {known['pid']} of {known['user']} on {known['host']} since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
