"""The contract of executors: how the controller reaches workers, wherever they run.

A worker answers one request at a time. `WorkerHandle.send` does not wait; `Executor.wait` tells which workers have
answered or died. `Worker` is what runs on the other side (see `sweeper.train.worker`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sweeper.config.settings import DatasetSettings, ModelSettings, TaskSettings
from sweeper.types import ChunkReport, ChunkRequest, FailureKind, TrialSpec

__all__ = [
    "Executor",
    "OpenStudy",
    "Reply",
    "Request",
    "StudyOpened",
    "Worker",
    "WorkerFailed",
    "WorkerHandle",
    "WorkerReady",
    "WorkerSetup",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSetup:
    """What a worker is started with."""

    model: ModelSettings
    model_dir: Path
    cache: Path
    device: str
    """``cpu`` or ``cuda``; which CUDA device it is, the executor sets by CUDA_VISIBLE_DEVICES."""
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenStudy:
    """Request: from now on train trials of this study."""

    name: str
    dataset: DatasetSettings
    task: TaskSettings
    max_length: int
    micro_batch: int
    chunks_per_epoch: int
    epochs: int
    rungs: tuple[int, ...]
    seed: int
    probe: bool
    """Whether to answer with the score of a logistic regression on frozen features."""
    lane_limit: int = 0
    """Most lanes to try when the worker shall choose their number; 0 when it is set."""
    typical: TrialSpec | None = None
    """A trial in the middle of the space, to choose the number of lanes by."""


Request = OpenStudy | ChunkRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReady:
    """Answer to the start: the model is loaded."""

    notes: tuple[str, ...]
    """What was chosen on the worker's device, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOpened:
    """Answer to `OpenStudy`."""

    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lanes: int = 0
    """The number of lanes that was chosen; 0 if none was asked for."""
    notes: tuple[str, ...] = ()
    """What was chosen, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFailed:
    """Answer to a request that failed for a cause outside any trial."""

    message: str
    traceback: str
    kind: FailureKind = FailureKind.ERROR


Reply = WorkerReady | StudyOpened | ChunkReport | WorkerFailed


class Worker(Protocol):
    """Answers requests, on the worker's side."""

    def start(self) -> WorkerReady:
        """Load the model."""
        ...

    def answer(self, request: Request) -> Reply:
        """Do what is asked; failures of trials are part of the reply."""
        ...


class WorkerHandle(Protocol):
    """A worker, on the controller's side."""

    index: int

    def send(self, request: Request) -> None:
        """Hand over a request; returns at once."""
        ...

    def receive(self) -> Reply:
        """Return the answer that `Executor.wait` announced.

        Raises:
            WorkerLost: The worker died instead of answering.
        """
        ...


class Executor(Protocol):
    """Starts, watches and ends workers."""

    def start(self) -> Sequence[WorkerHandle]:
        """Start all workers, each of which then owes a `WorkerReady`; asked again at once, return the same."""
        ...

    def restart(self, handle: WorkerHandle) -> WorkerHandle:
        """Replace a lost worker; the new one owes a `WorkerReady`."""
        ...

    def retire(self, handle: WorkerHandle) -> None:
        """End a worker for good; `wait` speaks of it no more."""
        ...

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Return the workers that have answered or died, after ``timeout_s`` at the latest."""
        ...

    def stop(self) -> None:
        """End all workers at once; what they were doing is lost."""
        ...
