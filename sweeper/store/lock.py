"""Ensures that each sweep has at most one controller: a lock in the sweep's folder, and a note that names its holder.

The operating system owns the lock, so it is released however its holder ends, and a later process with the same process
id does not hold it. The note only serves error messages. `run` and `reconcile` hold the lock while they work.
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

__all__ = ["hold"]


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
