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
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.clock import utc_now
from sweeper.disk.atomic import write_atomic
from sweeper.errors import SweepLocked
from sweeper.store.trials import TrialStore

__all__ = ["hold", "hold_report"]

_REPORT_TIMEOUT_S = 600.0
"""A report takes seconds. A process that is stopped while it writes one must not block all others for ever."""


@contextmanager
def hold(store: TrialStore) -> Iterator[None]:
    """Hold the sweep's lock for the duration of the block.

    Raises:
        SweepLocked: Another process holds it.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    note = store.paths.holder
    lock = FileLock(store.paths.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SweepLocked(
            f"sweep {store.root.name} is being run by {_holder(note)}. Wait until it ends, or stop it first"
        ) from None
    try:
        since = utc_now().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": os.uname().nodename, "user": _user(), "since": since}
        write_atomic(note, json.dumps(holder).encode())
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def hold_report(store: TrialStore) -> Iterator[None]:
    """Hold the lock of the sweep's report while the block reads the trials and writes the report's files.

    Whoever gets it later has read the trials later. So the files always belong together, and an old report never
    replaces a newer one.

    Raises:
        SweepLocked: Another process has been writing the report for ten minutes.
    """
    lock = FileLock(store.paths.report_lock, timeout=_REPORT_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise SweepLocked(
            f"another process has been writing the report of sweep {store.root.name} for {_REPORT_TIMEOUT_S:g} s"
        ) from None
    try:
        yield
    finally:
        lock.release()


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
