"""One controller a sweep: a lock in the sweep's folder, and a note of who holds it.

The lock is the operating system's, so it is free again as soon as its holder is gone, by whatever way, and no process
that has got the same number holds it; the note is for people. `sweep` holds it while it runs.
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
from sweeper.errors import SweepLocked
from sweeper.store.trials import TrialStore

__all__ = ["hold"]


@contextmanager
def hold(store: TrialStore) -> Iterator[None]:
    """Hold the sweep for this process alone.

    Raises:
        SweepLocked: Another process holds it.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    note = store.root / "holder.json"
    lock = FileLock(store.root / "sweep.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        rule = f"sweep {store.root.name} is being run by {_holder(note)}; wait for it, or stop it first"
        raise SweepLocked(rule) from None
    try:
        now = {"pid": os.getpid(), "host": os.uname().nodename, "user": _user(), "since": _now()}
        store.write_text(note.name, json.dumps(now))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return str(os.getuid())


def _now() -> str:
    return utc_now().isoformat(timespec="seconds")


def _holder(note: Path) -> str:
    try:
        known = json.loads(note.read_text())
        return f"process {known['pid']} of {known['user']} on {known['host']} since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
