"""The parts of a simulated sweep: time, disk, study database, workers and their executor. `simulator` combines them.

Everything happens in one thread and in virtual time, and every choice comes from a generator that is passed in, so the
same seed gives the same sweep. The workers are those of the controller's tests, but checkpoints are saved and read by
the product; files are real, but never flushed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import optuna
import torch

from sweeper.errors import StorageDown, WorkerLost
from sweeper.execute.base import (
    AdaptersScored,
    CheckpointPolicy,
    OpenStudy,
    Reply,
    Request,
    TrialsSaved,
    WorkerFailed,
    WorkerHandle,
    WorkerReady,
)
from sweeper.execute.inline import InlineExecutor
from sweeper.train.checkpoints import CheckpointWriter, read_checkpoint
from sweeper.types import Admission, Checkpoint, ChunkReport, Cost, Failure, FailureKind, Measurement, TrialSpec
from tests.control.bench import RUNGS, Killed, Timer
from tests.doubles import FakeWorker
from tests.search.toy import METRIC

__all__ = ["Database", "Databases", "Disk", "Faults", "VirtualClock", "VirtualExecutor", "VirtualWorker"]

_START = datetime(2026, 1, 5, 23, 0, tzinfo=UTC)
_BY_CONFIGURATION = (FailureKind.OUT_OF_MEMORY, FailureKind.NON_FINITE, FailureKind.EXPLODED)
_BY_CHANCE = (FailureKind.ERROR, FailureKind.DATA, FailureKind.HOST_MEMORY, FailureKind.CHECKPOINT)
_CHUNK_S = (0.2, 4.0)
_SLOW_S = 20.0


@dataclass(kw_only=True)
class Faults:
    """What may go wrong in a session; the defaults are none. Shares are per request, tick or trial."""

    lost: float = 0.0
    """Requests on which the worker dies."""
    hung: float = 0.0
    failed: float = 0.0
    """Requests that the worker answers with an error."""
    slow: float = 0.0
    trial: float = 0.0
    """Chunks of a trial that fail by chance, and can be retried."""
    jumps: float = 0.0
    """Ticks at which somebody sets the wall clock, either way."""
    kill_at: int | None = None
    """Operation before which the controller is killed. Operations are changes of the disk, and ticks."""
    disk_at: int | None = None
    """Operation from which the disk fails."""
    disk_for: int = 1
    """For how many operations."""
    disk_error: int = errno.ENOSPC
    stop_at: int | None = None
    """Tick at which a signal asks the controller to stop."""
    interrupts: bool = False
    """Whether a second signal interrupts it at once."""
    database_at: int | None = None
    """Write to the study database that fails, and all later ones."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each kind happened."""

    def count(self, kind: str) -> None:
        """Count a fault."""
        self.counts[kind] = self.counts.get(kind, 0) + 1


class VirtualClock:
    """The wall clock: follows the timer, except that it may be set.

    Args:
        timer: Seconds that have passed.
    """

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self.offset_s = 0.0

    def __call__(self) -> datetime:
        """Return the present time."""
        return _START + timedelta(seconds=self._timer.now - 1000.0 + self.offset_s)

    def set(self, moment: datetime) -> None:
        """Set the clock."""
        self.offset_s += (moment - self()).total_seconds()


class Disk:
    """Counts the changes of a folder; kills the controller at one of them, or makes some of them fail.

    After the kill, nothing changes any more: blocks that would clean up (``finally``) must not do what a killed process
    could not.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._faults = Faults()
        self._step = 0
        self.is_dead = False

    def begin(self, faults: Faults) -> None:
        """Begin a session."""
        self._faults, self._step, self.is_dead = faults, 0, False

    def step(self, what: str = "") -> None:
        """Count an operation.

        Args:
            what: The change of the disk; empty for another moment at which a kill may come.
        """
        faults = self._faults
        if self.is_dead or self._step == faults.kill_at:
            if not self.is_dead:
                faults.count(f"kill before {what or 'a tick'}")
            self.is_dead = True
            raise Killed
        first = faults.disk_at
        is_faulty = first is not None and first <= self._step < first + faults.disk_for
        self._step += 1
        # A full disk can still remove files.
        if what and is_faulty and (faults.disk_error != errno.ENOSPC or what not in ("unlink", "rmdir")):
            faults.count(errno.errorcode[faults.disk_error])
            raise OSError(faults.disk_error, os.strerror(faults.disk_error))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count the operations of this process within the block, and flush nothing."""
        names = ("replace", "mkdir", "unlink", "rmdir")
        originals = {name: getattr(os, name) for name in names}
        fsync, opened = os.fsync, Path.open
        for name in names:
            setattr(os, name, self._changing(name, originals[name]))
        setattr(os, "fsync", lambda _file: self.step("fsync"))  # noqa: B010  mypy
        setattr(Path, "open", self._opening(opened))  # noqa: B010  mypy
        try:
            yield
        finally:
            for name in names:
                setattr(os, name, originals[name])
            os.fsync = fsync
            setattr(Path, "open", opened)  # noqa: B010  mypy

    def _changing(self, what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(path: Any, *args: Any, **more: Any) -> Any:
            # `shutil.rmtree` names files by their folder's descriptor.
            if "dir_fd" in more or str(path).startswith(self._root):
                self.step(what)
            return original(path, *args, **more)

        return change

    def _opening(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def open_path(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
            if mode[0] in "wax" and str(path).startswith(self._root):
                self.step("write")
            return original(path, mode, *args, **more)

        return open_path


class Database:
    """A study database in memory, in place of `sweeper.search.study_database.StudyDatabase`."""

    def __init__(self) -> None:
        self.trials: dict[int, optuna.trial.FrozenTrial] = {}

    @property
    def num_trials(self) -> int:
        """Trials in the database."""
        return max(self.trials, default=-1) + 1

    def discard_stale(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        """Delete the store's trials, which are written again; none may have another configuration."""
        for trial in trials:
            known = self.trials.pop(trial.number, trial)
            assert known.params == trial.params, f"trial {trial.number} has another configuration"

    def update(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        """Write what the database lacks; a trial that ended in it is not changed."""
        for trial in trials:
            known = self.trials.get(trial.number)
            if known is None or not known.state.is_finished():
                self.trials[trial.number] = trial

    def close(self) -> None:
        """Do nothing."""


class Databases:
    """The study databases of a sweep, by the study's name, and what a kill or a fault does to their writes.

    Args:
        disk: Knows whether the controller was killed.
        draw: Decides when a write happens.
    """

    def __init__(self, disk: Disk, draw: Random) -> None:
        self._disk, self._draw = disk, draw
        self._faults, self._writes = Faults(), 0
        self.of: dict[str, Database] = {}

    def begin(self, faults: Faults) -> None:
        """Begin a session."""
        self._faults, self._writes = faults, 0

    def open(self, name: str, *_args: object, **_more: object) -> Database:
        """Open a database; create it if it does not exist."""
        return self.of.setdefault(name, Database())

    def writer(self, write: Callable[[Sequence[optuna.trial.FrozenTrial]], None]) -> _Writer:
        """Return what replaces `sweeper.search.write_behind.WriteBehind`."""
        return _Writer(self, write)

    def write(self, write: Callable[[], None]) -> None:
        """Write, unless the controller was killed or the database fails."""
        if self._disk.is_dead:
            return
        self._writes += 1
        if self._faults.database_at is not None and self._writes > self._faults.database_at:
            self._faults.count("database down")
            raise StorageDown("the study database failed (simulated)")
        write()

    @property
    def is_prompt(self) -> bool:
        """Whether the thread that writes comes to it now, not later."""
        return self._draw.random() < 0.5


class _Writer:
    def __init__(self, databases: Databases, write: Callable[[Sequence[optuna.trial.FrozenTrial]], None]) -> None:
        self._databases, self._write = databases, write
        self._waiting: dict[int, optuna.trial.FrozenTrial] = {}
        self._error: StorageDown | None = None

    def put(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        self._waiting.update((trial.number, trial) for trial in trials)
        if self._databases.is_prompt:
            self._flush()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if not self._waiting or self._error is not None:
            return
        trials = list(self._waiting.values())
        self._waiting = {}
        try:
            self._databases.write(lambda: self._write(trials))
        except StorageDown as error:
            self._error = error


class VirtualWorker(FakeWorker):
    """A worker that takes time and fails. It saves and reads checkpoints as the product does.

    Args:
        index: The worker's index.
        draw: Decides what happens.
        faults: What may happen in this session.
        doomed: Returns why a configuration always fails, and from which chunk on; None if it does not.
        score: Returns the score of a configuration after a chunk; always the same one.
        events: See `FakeWorker`.
        policy: How and when it saves trials.
        timer: Virtual time, for the policy.
    """

    def __init__(
        self,
        index: int,
        *,
        draw: Random,
        faults: Faults,
        doomed: Callable[[TrialSpec], tuple[FailureKind, int] | None],
        score: Callable[[TrialSpec, int], float],
        events: Any,
        policy: CheckpointPolicy,
        timer: Timer,
    ) -> None:
        super().__init__(rungs=RUNGS, num_chunks=RUNGS[-1], index=index, events=events, fails=self._failure)
        self._writer = CheckpointWriter(policy, timer)
        self._draw, self._faults, self._doomed, self._score_of = draw, faults, doomed, score
        self.elapsed_s = 0.0
        """How long the request that it is about to answer took."""

    def start(self) -> WorkerReady:
        """Start, or die."""
        self._may_die()
        return super().start()

    def answer(self, request: Request) -> Reply:
        """Answer after `elapsed_s`, die or fail."""
        self._may_die()
        if self._draw.random() < self._faults.failed:
            kind = self._draw.choice((FailureKind.ERROR, FailureKind.DATA, FailureKind.HOST_MEMORY))
            self._faults.count(f"worker fails: {kind}")
            return WorkerFailed(message=f"simulated {kind}", traceback="", kind=kind)
        if isinstance(request, OpenStudy):
            self._writer.open(request.incoming)
        reply = super().answer(request)
        if isinstance(reply, ChunkReport):
            share = Cost(rows=10, tokens=100, device_s=self.elapsed_s / max(1, len(reply.costs)))
            return dataclasses.replace(reply, costs=dict.fromkeys(reply.costs, share), elapsed_s=self.elapsed_s)
        if isinstance(reply, AdaptersScored | TrialsSaved):
            return dataclasses.replace(reply, elapsed_s=self.elapsed_s)
        return reply

    def _measured(self, spec: TrialSpec, chunk: int) -> Measurement:
        measured = super()._measured(spec, chunk)
        scores = {METRIC: self._score_of(spec, chunk)} if measured.is_rung else {}
        return dataclasses.replace(measured, metrics={**measured.metrics, **scores})

    def _report(self, fresh: set[int]) -> ChunkReport:
        self._writer.keep(self._lanes)
        return super()._report(fresh)

    def _is_due(self, number: int, *, is_rung: bool) -> bool:
        return self._writer.is_due(number, _state(number, self._lanes[number][1]), is_scored=is_rung)

    def _checkpoint(self, number: int, chunk: int) -> Checkpoint:
        return self._writer.save(number, _state(number, chunk))

    def _chunks_of(self, admission: Admission) -> int:
        number, chunk = admission.spec.number, admission.chunks_done
        if admission.checkpoint is not None:
            step = int(read_checkpoint(admission.checkpoint)["step"])
            assert step == _step(number, chunk), f"trial {number} came with the checkpoint of another"
        else:
            assert chunk == 0, f"trial {number} came without its checkpoint"
        self._writer.admitted(number)
        return chunk

    def _may_die(self) -> None:
        if self._draw.random() < self._faults.lost:
            self._faults.count("worker lost")
            raise WorkerLost(f"worker {self._index} was killed by SIGKILL")

    def _failure(self, spec: TrialSpec, chunk: int) -> Failure | None:
        doom = self._doomed(spec)
        if doom is not None and chunk >= doom[1]:
            self._faults.count(f"trial fails: {doom[0]}")
            return Failure(kind=doom[0], message="simulated")
        if self._draw.random() < self._faults.trial:
            kind = self._draw.choice(_BY_CHANCE)
            self._faults.count(f"trial fails: {kind}")
            return Failure(kind=kind, message="simulated")
        return None


def _state(number: int, chunk: int) -> dict[str, torch.Tensor]:
    """Return the state of a trial, which says whose it is; what a damage of the last bytes changes is not that."""
    values = torch.tensor([float(number), float(chunk)])
    return {"parameters": values, "moment1": values, "moment2": values, "step": torch.tensor(_step(number, chunk))}


def _step(number: int, chunk: int) -> int:
    return 1000 * number + chunk


class VirtualExecutor(InlineExecutor):
    """Answers requests after some virtual time, in an order that the generator decides.

    Args:
        make_worker: Makes a worker.
        num_workers: Their number.
        timer: Advanced by every wait.
        draw: Decides how long requests take.
        faults: What may happen in this session.
        on_wait: Called at every wait, a tick of the controller.
    """

    def __init__(
        self,
        make_worker: Callable[[int], VirtualWorker],
        num_workers: int,
        *,
        timer: Timer,
        draw: Random,
        faults: Faults,
        on_wait: Callable[[], None],
    ) -> None:
        self._workers: dict[int, VirtualWorker] = {}

        def make(index: int) -> VirtualWorker:
            self._workers[index] = make_worker(index)
            return self._workers[index]

        super().__init__(make, num_workers)
        self._timer, self._draw, self._faults, self._on_wait = timer, draw, faults, on_wait
        self._due: dict[int, tuple[WorkerHandle, float]] = {}
        """Each busy worker, and when it answers."""

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Return the workers that have answered within ``timeout_s`` of virtual time."""
        self._on_wait()
        busy = [handle for handle in self._handles.values() if handle.is_busy]
        for handle in busy:
            known = self._due.get(handle.index)
            if known is None or known[0] is not handle:
                self._due[handle.index] = (handle, self._timer.now + self._duration_s(handle.index))
        now = self._timer.now
        next_s = min((self._due[handle.index][1] for handle in busy), default=math.inf)
        self._timer.advance(min(max(next_s - now, 0.0), timeout_s))
        ready = [handle for handle in busy if self._due[handle.index][1] <= self._timer.now]
        self._draw.shuffle(ready)
        for handle in ready:
            del self._due[handle.index]
        return ready

    def _duration_s(self, index: int) -> float:
        if self._draw.random() < self._faults.hung:
            self._faults.count("worker hangs")
            return math.inf
        duration_s = self._draw.uniform(*_CHUNK_S)
        if self._draw.random() < self._faults.slow:
            self._faults.count("slow reply")
            duration_s = self._draw.uniform(_CHUNK_S[1], _SLOW_S)
        self._workers[index].elapsed_s = duration_s
        return duration_s


def draw_doom(draw: Random, share: float) -> tuple[FailureKind, int] | None:
    """Return why a configuration always fails, and from which chunk on; None if it does not."""
    return (draw.choice(_BY_CONFIGURATION), draw.randint(1, RUNGS[-1])) if draw.random() < share else None
