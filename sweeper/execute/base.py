"""The contract of executors: how the controller talks to workers, wherever they run.

A worker answers one request at a time. `WorkerHandle.send` returns at once; `Executor.wait` returns the workers that
have answered or died. `Worker` is the interface on the worker's side (see `sweeper.train.worker`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sweeper.config.settings import ModelSettings, TaskSettings
from sweeper.figures.memory import MemoryNeed
from sweeper.types import (
    AdapterFiles,
    Checkpoint,
    ChunkReport,
    ChunkRequest,
    Failure,
    FailureKind,
    ModelRef,
    RowsRef,
    TrialSpec,
)

__all__ = [
    "AdaptersScored",
    "CheckpointPolicy",
    "Executor",
    "OpenStudy",
    "Reply",
    "Request",
    "SaveTrials",
    "ScoreAdapters",
    "StudyOpened",
    "TrialsSaved",
    "Worker",
    "WorkerFailed",
    "WorkerHandle",
    "WorkerReady",
    "WorkerSetup",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPolicy:
    """How a worker saves the state of its trials."""

    file_bytes: float = math.inf
    """Size from which it writes a checkpoint or an adapter to the disk itself; smaller ones are part of its reply."""
    every_s: float = 0.0
    """Seconds between the large checkpoints of a trial, beside those of its rungs; 0 for one after every chunk."""
    moments: str = "float32"
    """Number type of AdamW's moments in checkpoints of any size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSetup:
    """Everything a worker needs to start."""

    model: ModelSettings
    model_dir: Path
    """Where the model is on the worker's machine; `OpenStudy.model` says what it must be."""
    cache: Path
    device: str
    """``cpu`` or ``cuda``; the executor selects the CUDA device with CUDA_VISIBLE_DEVICES."""
    threads: int
    tokens_per_pass: int = 0
    """``executor.tokens_per_pass``"""
    checkpoints: CheckpointPolicy = CheckpointPolicy()


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenStudy:
    """Request: train trials of this study from now on.

    Rows and model are named by their content. A worker looks for them in its own cache, and refuses others.
    """

    name: str
    rows: RowsRef
    model: ModelRef
    task: TaskSettings
    micro_batch: int
    chunks_per_epoch: int
    epochs: int
    """Of the longest trial of the search; `sweeper.config.trial_length` has those of each."""
    rungs: tuple[int, ...]
    seed: int
    probe: bool
    """Whether to train a logistic regression on frozen features, and answer with its score."""
    lane_limit: int = 0
    """The most lanes to try if the worker chooses their number; 0 if the settings fix it."""
    lanes: int = 0
    """Most lanes of a worker that does not choose their number, to predict its memory."""
    typical: TrialSpec | None = None
    """A trial from the middle of the search space, with which the worker measures how many lanes are fastest."""
    largest: TrialSpec | None = None
    """A trial that takes the most memory, to predict it, and to measure how many lanes and tokens fit."""
    train_splits: tuple[str, ...] = ("train",)
    """Splits whose rows are trained on; rows with a label that no row of ``train`` has are left out."""
    incoming: Path | None = None
    """Folder of this worker alone, on the file system of the store, for large checkpoints and adapters, or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreAdapters:
    """Request: score adapters of the open study on one of its splits; the trials in training are not affected."""

    split: str
    """``validation`` or ``test``."""
    adapters: Mapping[int, tuple[TrialSpec, AdapterFiles]]
    """Spec and adapter, by trial number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveTrials:
    """Request: save trials that are about to leave the pack, and whose last chunk has no checkpoint."""

    numbers: tuple[int, ...]


Request = OpenStudy | ChunkRequest | ScoreAdapters | SaveTrials


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReady:
    """Reply to the start: the worker is ready for requests."""

    notes: tuple[str, ...]
    """What the worker chose for its device, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOpened:
    """Reply to `OpenStudy`."""

    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lanes: int = 0
    """The number of lanes that the worker chose; 0 if the settings fix it."""
    notes: tuple[str, ...] = ()
    """What the worker chose, and why."""
    need: MemoryNeed | None = None
    """Predicted peak memory of a pack whose lanes all have the highest rank."""
    trial_tokens: int = 0
    """Tokens that the longest trial of the search trains on if it is not pruned; 0 if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptersScored:
    """Reply to `ScoreAdapters`: scores, outcomes or a failure of each adapter, by trial number."""

    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Named after the split, e.g. ``test/accuracy``."""
    outcomes: Mapping[int, bytes] = field(default_factory=dict)
    """Outcome of each row, as safetensors (`sweeper.store.outcomes`)."""
    failures: Mapping[int, Failure] = field(default_factory=dict)
    """Why an adapter could not be scored: it is damaged, or does not fit into memory."""
    elapsed_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialsSaved:
    """Reply to `SaveTrials`."""

    checkpoints: Mapping[int, Checkpoint] = field(default_factory=dict)
    """By trial number."""
    elapsed_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFailed:
    """Reply to a request that failed for a reason unrelated to any trial."""

    message: str
    traceback: str
    kind: FailureKind = FailureKind.ERROR


Reply = WorkerReady | StudyOpened | ChunkReport | AdaptersScored | TrialsSaved | WorkerFailed


class Worker(Protocol):
    """A worker, as seen by its own process."""

    def start(self) -> WorkerReady:
        """Prepare for requests; called once."""
        ...

    def answer(self, request: Request) -> Reply:
        """Handle a request. Failures of trials are part of the reply."""
        ...


class WorkerHandle(Protocol):
    """A worker, as seen by the controller."""

    index: int

    def send(self, request: Request) -> None:
        """Send a request without waiting for the reply."""
        ...

    def receive(self) -> Reply:
        """Return the reply of a worker that `Executor.wait` has returned.

        Raises:
            WorkerLost: The worker died before it answered.
        """
        ...


class Executor(Protocol):
    """Starts, monitors and stops workers."""

    def start(self) -> Sequence[WorkerHandle]:
        """Start all workers; the first reply of each is a `WorkerReady`. A second call returns the same workers."""
        ...

    def restart(self, handle: WorkerHandle) -> WorkerHandle:
        """Replace a worker that was lost; the first reply of the new one is a `WorkerReady`."""
        ...

    def retire(self, handle: WorkerHandle) -> None:
        """Stop a worker for good; `wait` never returns it again."""
        ...

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Return the workers that have answered or died; empty if there are none within ``timeout_s``."""
        ...

    def stop(self) -> None:
        """Stop all workers at once; their unfinished work is lost."""
        ...
