"""Runs a contender's command, times its trials, and samples the memory of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import Row

__all__ = ["Finished", "PssSampler", "run_command", "run_ours", "run_peer"]

ROOT = Path(__file__).resolve().parents[1]
_POLL_S = 0.1


@dataclass(kw_only=True, slots=True)
class Finished:
    """A command that succeeded; times are seconds since its start."""

    wall_s: float
    trials: list[Row]


@dataclass(slots=True)
class PssSampler:
    """Peak memory of a command's processes: the sum of proportional set sizes, so that shared pages count once.

    Attributes:
        keep: Which processes count, by command line.
        peak_bytes: The largest sum seen at one time.
        num_processes: The number of processes in that sum.
    """

    keep: Callable[[str], bool] = lambda _: True
    peak_bytes: int = 0
    num_processes: int = 0
    _errors: list[str] = field(default_factory=list)

    def sample(self, pid: int) -> None:
        """Measure a process and its descendants."""
        try:
            tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        sizes = [size for process in tree if (size := self._pss(process))]
        if sum(sizes) > self.peak_bytes:
            self.peak_bytes, self.num_processes = sum(sizes), len(sizes)

    def _pss(self, process: psutil.Process) -> int:
        try:
            if not self.keep(" ".join(process.cmdline())):
                return 0
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except (OSError, psutil.Error):
            return 0  # it has just exited
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def run_command(
    command: Sequence[str],
    *,
    scratch: Path,
    checkout: Path = ROOT,
    each_tick: Callable[[int, list[str]], None] | None = None,
    timeout_s: float = 7200,
) -> tuple[list[str], float, float]:
    """Run a command until it exits.

    Args:
        command: Arguments of the Python interpreter.
        scratch: Working directory; stderr goes to a file in it.
        checkout: Folder from which ``sweeper`` and ``benchmarks`` are imported.
        each_tick: Called ten times per second with the process id and the lines printed so far.
        timeout_s: The command and its children are killed after this time.

    Returns:
        Lines of stdout, wall seconds, and the start as a value of `time.time`.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])}
    begun_at, started = time.time(), time.perf_counter()
    lines: list[str] = []
    with (scratch / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(  # noqa: S603  our own modules
            [sys.executable, *command],
            cwd=scratch,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            while process.poll() is None:
                if each_tick is not None:
                    each_tick(process.pid, lines)
                time.sleep(_POLL_S)
                if time.perf_counter() - started > timeout_s:
                    raise TimeoutError(f"{' '.join(command)} took more than {timeout_s:.0f} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    wall_s = time.perf_counter() - started
    reader.join(5)
    if process.returncode:
        tail = (scratch / "stderr.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)} failed with exit code {process.returncode}:\n{tail}")
    return lines, wall_s, begun_at


def run_peer(
    module: str,
    options: Sequence[str],
    *,
    scratch: Path,
    each_tick: Callable[[int, list[str]], None] | None = None,
) -> Finished:
    """Run a script of benchmarks.peers and return the trials that it printed."""
    command = ["-m", f"benchmarks.peers.{module}", "--folder", str(scratch / "study"), *options]
    lines, wall_s, begun_at = run_command(command, scratch=scratch, each_tick=each_tick)
    trials = [json.loads(line) for line in lines if line.startswith('{"number"')]
    for trial in trials:
        trial["begun_s"] = trial.pop("begun_at") - begun_at
        trial["ended_s"] = trial.pop("ended_at") - begun_at
        trial["scores"] = [(at - begun_at, accuracy) for at, accuracy in trial["scores"]]
    if not trials:
        raise RuntimeError(f"{module} printed no trial")
    return Finished(wall_s=wall_s, trials=trials)


def run_ours(
    arguments: Sequence[str],
    *,
    scratch: Path,
    checkout: Path = ROOT,
    each_tick: Callable[[int, list[str]], None] | None = None,
) -> Finished:
    """Run ``sweeper run`` and watch the files of its trials; the sweep is in ``<scratch>/outputs/bench``.

    A trial starts when its file appears, is scored when the file first has the score, and ends when the file first says
    so, which is after its scores and its adapter are on disk.

    Args:
        arguments: Overrides, and options of the command.
        scratch: Working directory.
        checkout: The checkout whose sweeper runs.
        each_tick: See `run_command`.
    """
    watch = _StoreWatch(scratch / "outputs")

    def tick(pid: int, lines: list[str]) -> None:
        watch.look()
        if each_tick is not None:
            each_tick(pid, lines)

    # The shipped portfolios were computed on some of the datasets that are benchmarked here. Earlier commits have none.
    cold = ["search.warm_start=none"] if checkout == ROOT else []
    command = ["-m", "sweeper.cli", "run", f"outputs={scratch / 'outputs'}", "name=bench", *cold, *arguments]
    _, wall_s, begun_at = run_command(command, scratch=scratch, checkout=checkout, each_tick=tick)
    watch.look()
    return Finished(wall_s=wall_s, trials=watch.trials(begun_at))


@dataclass(slots=True)
class _Watched:
    """What has been seen of a trial; times are those of the file's changes."""

    begun_at: float
    ended_at: float | None = None
    scored_at: dict[int, float] = field(default_factory=dict)
    """By chunk."""
    changed_ns: int = 0
    record: Row = field(default_factory=dict)


class _StoreWatch:
    """Reads the trial files of a sweep whenever they change."""

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._watched: dict[Path, _Watched] = {}

    def look(self) -> None:
        """Read the files that have changed since the last call."""
        for path in self._outputs.glob("bench/studies/*/trials/*/trial.json"):
            changed_ns = path.stat().st_mtime_ns
            watched = self._watched.setdefault(path, _Watched(changed_ns / 1e9))
            if changed_ns != watched.changed_ns:
                watched.changed_ns = changed_ns
                self._read(path, watched)

    def _read(self, path: Path, watched: _Watched) -> None:
        at, watched.record = watched.changed_ns / 1e9, json.loads(path.read_text(encoding="utf-8"))
        for chunk in _scores(watched.record):
            watched.scored_at.setdefault(chunk, at)
        if watched.ended_at is None and watched.record["state"] != "running":
            watched.ended_at = at

    def trials(self, begun_at: float) -> list[Row]:
        """Return all trials of the search, with times since ``begun_at``."""
        found = [self._watched[path] for path in sorted(self._watched)]
        return [_trial_row(watched, begun_at) for watched in found if watched.record["spec"]["phase"] == "search"]


def _trial_row(watched: _Watched, begun_at: float) -> Row:
    spec, scores = watched.record["spec"], _scores(watched.record)
    return {
        "study": spec["study"],
        "number": spec["number"],
        "process": 0,
        "begun_s": watched.begun_at - begun_at,
        "ended_s": (watched.ended_at or watched.changed_ns / 1e9) - begun_at,
        "state": watched.record["state"],
        "accuracy": list(scores.values())[-1] if scores else None,
        "scores": [(watched.scored_at[chunk] - begun_at, score) for chunk, score in scores.items()],
        "params": spec["params"],
    }


def _scores(record: Row) -> dict[int, float]:
    """Return the validation accuracy at each rung, by chunk."""
    key = "validation/accuracy"
    return {m["chunk"]: m["metrics"][key] for m in record["measurements"] if key in m["metrics"]}


def _read(stream: Any, lines: list[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line.rstrip("\n"))  # noqa: PERF401  others read the list while it grows
