"""One life of a controller: started, watched, struck, and its end told. `driver` starts one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from chaos.workload import SWEEP

__all__ = ["MARK", "Session", "survivors"]

ROOT = Path(__file__).resolve().parents[1]
MARK = "SWEEPER_CHAOS"
"""Environment variable by which every process of a run is found again, whoever its parent is now."""
_POLL_S = 0.01


class Session:
    """A controller that runs.

    Args:
        overrides: Of the sweep.
        outputs: Folder that the sweep lies in.
        log: File that gets what it prints.
        environment: Further variables, `MARK` among them.
    """

    def __init__(self, overrides: Sequence[str], *, outputs: Path, log: Path, environment: dict[str, str]) -> None:
        self.sweep_dir = outputs / SWEEP
        self.outputs = outputs
        self.began = time.monotonic()
        self._ledger_before = self._ledger_stamp()
        with log.open("ab") as file:
            self.process = subprocess.Popen(  # noqa: S603  our own module, no shell
                [sys.executable, "-m", "chaos.controller", "run", *overrides],
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the controller."""
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def has_trained(self) -> bool:
        """Whether a chunk was accounted for in this session."""
        return self._ledger_stamp() != self._ledger_before

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes, as far as they live."""
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    def wait(self, seconds: float, *, until_trained: bool = False) -> bool:
        """Let it run for so long, or until a chunk is done; return whether it lives on."""
        end = time.monotonic() + seconds
        while self.is_alive and time.monotonic() < end and not (until_trained and self.has_trained):
            time.sleep(_POLL_S)
        return self.is_alive

    def end(self, patience_s: float) -> int | None:
        """Return its exit code; None if it did not end by itself in time, and was killed."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def _ledger_stamp(self) -> int:
        try:
            return (self.sweep_dir / "ledger.json").stat().st_mtime_ns
        except OSError:
            return 0


def survivors(mark: str, patience_s: float) -> list[int]:
    """Return processes of a run that live on after its controllers have ended, and kill them."""
    end = time.monotonic() + patience_s
    while (found := _marked(mark)) and time.monotonic() < end:
        time.sleep(_POLL_S)
    for process in found:
        process.kill()
    return [process.pid for process in found]


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
