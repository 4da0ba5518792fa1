"""The events that disturb a sweep. Each one is a function that disturbs a session and ends its disturbance.

`driver` draws them from a seeded generator. `LETHAL` events end the controller.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from chaos.session import ChaosError, Session, survivors
from chaos.workload import HANG_S, STARTUP_TIMEOUT_S
from sweeper.errors import DiskFull, StorageDown, SweepLocked, WorkerError
from sweeper.store.ledger import Ledger
from sweeper.store.paths import OutputsPaths
from tests.doubles import write_rows

__all__ = ["EVENTS", "EXITS", "KILLS", "LETHAL", "Event", "count_hung"]

Event = Callable[[Session, random.Random], bool | None]
"""Disturbs a session; returns False if there was nothing to disturb."""
_PATIENCE_S = 30.0


def kill_controller(session: Session, _draw: random.Random) -> bool:
    """Kill the controller, like a power cut; its workers must not outlive it."""
    session.process.kill()
    return session.process.wait() == -signal.SIGKILL


def kill_worker(session: Session, draw: random.Random) -> bool:
    """Kill one worker."""
    for process in draw.sample(workers := session.workers(), min(1, len(workers))):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            return True
    return False


def pause_worker(session: Session, draw: random.Random) -> None:
    """Suspend a worker for a moment."""
    for process in draw.sample(workers := session.workers(), min(1, len(workers))):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            session.wait(draw.uniform(0.1, 1.0))
            process.resume()


def hang_worker(session: Session, draw: random.Random) -> bool:
    """Suspend a worker for good: the watchdog must kill it and charge its time, and the sweep must continue."""
    # After the first chunk, the watchdog knows how long chunks take, and waits only seconds.
    session.wait(_PATIENCE_S, until_trained=True)
    workers = session.workers()
    for process in draw.sample(workers, min(1, len(workers))):
        before_s, chunks_before = _spent_s(session), _hung_chunks(session)
        end = time.monotonic() + STARTUP_TIMEOUT_S + _PATIENCE_S
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            while _is_alive(process) and session.is_alive and time.monotonic() < end:
                session.wait(0.05)
            if _is_alive(process) and session.is_alive:
                raise ChaosError(f"hang-ignored: worker {process.pid} hangs, but the watchdog does nothing")
        if _hung_chunks(session) > chunks_before and (charged_s := _spent_s(session) - before_s) < HANG_S:
            raise ChaosError(f"hang-uncharged: a chunk that hung for {HANG_S} s was charged with only {charged_s} s")
    return bool(workers)


def terminate(session: Session, _draw: random.Random) -> None:
    """Send SIGTERM to the controller, like a service manager."""
    session.process.send_signal(signal.SIGTERM)


def interrupt(session: Session, draw: random.Random) -> None:
    """Press Ctrl-C, which reaches the whole process group; sometimes twice."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session.pid, signal.SIGINT)
        if draw.random() < 0.3:
            session.wait(draw.uniform(0.0, 0.5))
            os.killpg(session.pid, signal.SIGINT)


def terminate_and_kill(session: Session, draw: random.Random) -> bool:
    """Send SIGTERM to the controller, and kill it while it is shutting down."""
    session.process.send_signal(signal.SIGTERM)
    session.wait(draw.uniform(0.0, 1.0))
    session.process.kill()
    return session.process.wait() == -signal.SIGKILL


def take_mlflow_away(session: Session, draw: random.Random) -> None:
    """Move MLflow's database away; put it back after a while, or never."""
    database = OutputsPaths(session.outputs).mlflow_db
    aside = database.with_name(f"{database.name}.taken")
    with contextlib.suppress(FileNotFoundError):
        os.replace(database, aside)
        session.wait(draw.uniform(0.2, 2.0))
        if draw.random() < 0.5:
            os.replace(aside, database)


def lock_optuna(session: Session, draw: random.Random) -> None:
    """Lock Optuna's database for a while."""
    _lock(session.paths.optuna_db, session, draw.uniform(0.5, 2.0))


def lock_mlflow(session: Session, draw: random.Random) -> None:
    """Lock MLflow's database for a while."""
    _lock(OutputsPaths(session.outputs).mlflow_db, session, draw.uniform(0.5, 2.0))


def fill_disk(session: Session, draw: random.Random) -> None:
    """Fill the sweep's disk for a while. Only on a file system of its own (see `run`)."""
    ballast = session.outputs / "ballast"
    free = shutil.disk_usage(session.outputs).free
    try:
        _fill(ballast, free)
        session.wait(draw.uniform(0.3, 2.0))
    finally:
        ballast.unlink(missing_ok=True)


def count_hung(log: Path, what: str = "") -> int:
    """Return how many workers the watchdog killed, according to the log of a sweep."""
    text = log.read_text(errors="replace") if log.exists() else ""
    # The pattern starts with the prefix of the warning, since the log's summaries repeat the rest of the message.
    return len(re.findall(rf": worker \d+: worker \d+ was killed: no answer to {what}", text))


def close_window(session: Session, draw: random.Random) -> None:
    """Move the clock to the end of the window, or past it: the session must exit with code 0."""
    session.clock.to_end(draw.uniform(-2.0, 25.0))


def jump_clock(session: Session, draw: random.Random) -> None:
    """Set the clock forward or back by up to an hour, as a correction of the system's time does."""
    session.clock.jump(draw.uniform(-3600.0, 3600.0))


def edit_data(session: Session, draw: random.Random) -> None:
    """Replace the data file by other rows, kill a worker, then put the file back: no trial may train on other rows."""
    session.wait(_PATIENCE_S, until_trained=True)  # before the first start is over, no rows are pinned
    before = session.workload.rows.read_bytes()
    try:
        write_rows(session.workload.rows, seed=99)
        session.wait(draw.uniform(0.0, 0.5))
        kill_worker(session, draw)
        session.wait(draw.uniform(0.5, 2.0))
    finally:
        session.workload.rows.write_bytes(before)


def start_a_second(session: Session, _draw: random.Random) -> None:
    """Start the command a second time while it is running: the second must exit with code 75."""
    session.wait(_PATIENCE_S, until_trained=True)
    if not session.is_alive:
        return
    second = session.start_again()
    try:
        end = time.monotonic() + _PATIENCE_S
        while second.is_alive and session.is_alive and time.monotonic() < end:
            second.wait(0.05)
        code = second.process.poll()
        if code != SweepLocked.exit_code and session.wait(_PATIENCE_S):  # unless the first was about to end
            raise ChaosError(f"one-controller: a second one exited with {code} while the first was running")
    finally:
        second.end(0.0)
        survivors(second.pid, _PATIENCE_S)


EVENTS: dict[str, Event] = {
    event.__name__: event
    for event in (
        kill_controller,
        kill_worker,
        pause_worker,
        hang_worker,
        terminate,
        interrupt,
        terminate_and_kill,
        take_mlflow_away,
        lock_optuna,
        lock_mlflow,
        fill_disk,
        close_window,
        jump_clock,
        edit_data,
        start_a_second,
    )
}
LETHAL = {"kill_controller", "terminate", "interrupt", "terminate_and_kill", "close_window"}
KILLS = {"kill_controller", "kill_worker", "terminate_and_kill"}
"""Events that send SIGKILL."""
EXITS: dict[str, set[int]] = {
    "kill_controller": {-signal.SIGKILL},
    "terminate_and_kill": {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM},
    "terminate": {-signal.SIGTERM, 128 + signal.SIGTERM},
    "interrupt": {-signal.SIGINT, 128 + signal.SIGINT},
    "kill_worker": {WorkerError.exit_code},
    "hang_worker": {WorkerError.exit_code},
    "pause_worker": {WorkerError.exit_code},
    "edit_data": {WorkerError.exit_code},
    "fill_disk": {DiskFull.exit_code, StorageDown.exit_code},
    "lock_optuna": {StorageDown.exit_code},
}
"""Exit codes, besides 0, that a controller may have after an event. A signal that arrives before Python handles it
gives a negative code. A worker that is lost three times without finishing a chunk is removed, and may be the last."""


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _spent_s(session: Session) -> float:
    path = session.paths.ledger
    return Ledger(path).cost.device_s if path.exists() else 0.0


def _hung_chunks(session: Session) -> int:
    return count_hung(session.paths.log, "a chunk")


def _lock(database: Path, session: Session, seconds: float) -> None:
    if not database.exists():
        return
    connection = sqlite3.connect(database, timeout=5, isolation_level=None)
    try:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
            session.wait(seconds)
            connection.execute("ROLLBACK")
    finally:
        connection.close()


def _fill(path: Path, num_bytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        block = b"\0" * 65536
        for _ in range(num_bytes // len(block) + 64):
            try:
                file.write(block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if len(block) == 1:
                    return
                block = block[: len(block) // 16] or b"\0"
    time.sleep(0)
