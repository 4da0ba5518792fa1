"""A session: one controller process, from its start to its exit code. `driver` starts one after the other."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil

from chaos.clock import Clock
from chaos.fork_server import Forked, ForkServer
from chaos.mutants import MUTANT_VARIABLE
from chaos.workload import Workload
from sweeper.store.paths import OutputsPaths, SweepPaths

__all__ = ["ROOT", "ChaosError", "Session", "survivors"]

ROOT = Path(__file__).resolve().parents[1]
_POLL_S = 0.01


class ChaosError(Exception):
    """The sweep did something that no event explains. The message begins with the name of the complaint."""


class Session:
    """A controller process in its own process session.

    Args:
        workload: The sweep.
        log: The file for its output.
        fork_server: Forks the process; None starts it as users do.
    """

    def __init__(self, workload: Workload, *, log: Path, fork_server: ForkServer | None) -> None:
        self.workload = workload
        self.paths = SweepPaths(OutputsPaths(workload.outputs).sweep(workload.sweep))
        self.clock = Clock(log.parent)
        self._again = partial(Session, workload, log=log, fork_server=fork_server)
        self._ledger_before = self._ledger_stamp()
        self.process: subprocess.Popen[bytes] | Forked
        if fork_server is not None:
            self.process = fork_server.start(workload.arguments, log, workload.mutant)
            return
        with log.open("ab") as file:
            self.process = subprocess.Popen(  # noqa: S603  our own module, no shell
                [sys.executable, "-m", "chaos.controller", *workload.arguments],
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), MUTANT_VARIABLE: workload.mutant},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def outputs(self) -> Path:
        """The folder that contains the sweep."""
        return self.workload.outputs

    @property
    def pid(self) -> int:
        """The process id of the controller."""
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the controller is running."""
        return self.process.poll() is None

    @property
    def has_trained(self) -> bool:
        """Whether a chunk of this session is in the ledger."""
        return self._ledger_stamp() != self._ledger_before

    def start_again(self) -> Session:
        """Start the same command a second time."""
        return self._again()

    def workers(self) -> list[psutil.Process]:
        """Return the running worker processes."""
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    def wait(self, seconds: float, *, until_trained: bool = False) -> bool:
        """Let it run for some seconds, or until a chunk is done; return whether it is still running."""
        end = time.monotonic() + seconds
        while self.is_alive and time.monotonic() < end and not (until_trained and self.has_trained):
            time.sleep(_POLL_S)
        return self.is_alive

    def end(self, patience_s: float) -> int | None:
        """Wait for the end, and return the exit code; kill it and return None after ``patience_s`` without progress."""
        stamp, deadline = self._ledger_stamp(), time.monotonic() + patience_s
        while self.is_alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            if (now := self._ledger_stamp()) != stamp:
                stamp, deadline = now, time.monotonic() + patience_s
        if self.is_alive:
            self.process.kill()
            self.process.wait()
            return None
        return self.process.wait()

    def _ledger_stamp(self) -> int:
        try:
            return self.paths.ledger.stat().st_mtime_ns
        except OSError:
            return 0


def survivors(pid: int, patience_s: float) -> list[int]:
    """Kill the processes that outlive their controller by ``patience_s``; return their ids."""
    end = time.monotonic() + patience_s
    while (found := _of_session(pid)) and time.monotonic() < end:
        time.sleep(_POLL_S)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return [process.pid for process in found]


def _of_session(number: int) -> list[psutil.Process]:
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(pid) == number and (process := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
