"""Core values that controller, workers, store, search and tracker exchange.

Frozen dataclasses, standard library only. Workers and controller exchange nothing else, so a worker can run in this
process, in another process, or on another machine. Units are in the names: ``_s`` seconds, ``_bytes``, ``num_`` counts.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import LoraSettings, TrainSettings
from sweeper.config.values import ParamValue

__all__ = [
    "AdapterFiles",
    "Admission",
    "Checkpoint",
    "CheckpointFile",
    "ChunkReport",
    "ChunkRequest",
    "Cost",
    "CutRows",
    "Decision",
    "Failure",
    "FailureKind",
    "FileRef",
    "Measurement",
    "ModelRef",
    "Phase",
    "RowsRef",
    "StudyRecord",
    "TrialRecord",
    "TrialSpec",
    "TrialState",
    "TrialTemplate",
    "ViewedTrial",
]


class TrialState(enum.StrEnum):
    """State of a trial: running, or how it ended."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"

    @property
    def is_finished(self) -> bool:
        """Whether the trial will never train again."""
        return self is not TrialState.RUNNING


class Phase(enum.StrEnum):
    """Why a trial is run."""

    SEARCH = "search"
    REFERENCE = "reference"
    """A recipe that is trained once for comparison; unknown to the sampler, not counted in the budget."""
    CONFIRMATION = "confirmation"
    """A candidate that is trained again with a fresh seed; unknown to the sampler, not counted in the budget."""
    FINAL = "final"
    """The chosen configuration, trained once more on more rows (`sweeper train`); in a study of its own."""


class Decision(enum.StrEnum):
    """Whether a trial continues after a rung."""

    CONTINUE = "continue"
    STOP = "stop"


class FailureKind(enum.StrEnum):
    """Cause of a failure. `sweeper.failures.POLICIES` describes each and how it is handled."""

    OUT_OF_MEMORY = "out_of_memory"
    HOST_MEMORY = "host_memory"
    NON_FINITE = "non_finite"
    EXPLODED = "exploded"
    HUNG = "hung"
    LOST_WORKER = "lost_worker"
    DISK_FULL = "disk_full"
    DISK_ERROR = "disk_error"
    DATA = "data"
    CONTENT_CHANGED = "content_changed"
    ERROR = "error"
    CHECKPOINT = "checkpoint"
    TRACKER_DOWN = "tracker_down"
    STORAGE_DOWN = "storage_down"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a trial or a worker could not continue."""

    kind: FailureKind
    message: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSpec:
    """One configuration to train; equal specs give equal losses wherever they run."""

    study: str
    number: int
    params: Mapping[str, ParamValue]
    """Searched values by dotted key, e.g. ``{"lora.r": 8}``."""
    lora: LoraSettings
    """Hyperparameters of the adapter, searched values included."""
    train: TrainSettings
    """Hyperparameters of the training, searched values included."""
    seed: int
    origin: str
    """Source of the configuration: ``recipe:<name>``, ``portfolio:<source>``, ``sobol`` or the sampler's name."""
    phase: Phase = Phase.SEARCH

    def by_key(self) -> dict[str, ParamValue]:
        """Return every ``lora.*`` and ``train.*`` value, searched or fixed, by dotted key."""
        return Hyperparameters(self.lora, self.train).by_key()

    @property
    def is_recipe(self) -> bool:
        """Whether the configuration comes from a recipe."""
        return self.origin.startswith("recipe:")


@dataclass(frozen=True, slots=True)
class TrialTemplate:
    """What the trials of a study have in common; makes the spec of each."""

    study: str
    defaults: Hyperparameters
    """The hyperparameters that do not vary."""
    seed: int
    """The seed of every trial (common random numbers)."""

    def spec(self, number: int, params: Mapping[str, ParamValue], origin: str) -> TrialSpec:
        """Return the spec of a trial, with some of the defaults replaced.

        Args:
            number: Its number in the study.
            params: Values by dotted key.
            origin: Source of the configuration.
        """
        own = self.defaults.with_params(params)
        return TrialSpec(
            study=self.study,
            number=number,
            params=params,
            lora=own.lora,
            train=own.train,
            seed=self.seed,
            origin=origin,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Measurements of a trial at the end of a chunk."""

    chunk: int
    """Chunks completed, counted from 1."""
    rows: int
    """Training rows seen so far."""
    metrics: Mapping[str, float]
    """``train/loss`` at every chunk, and ``train/skipped_steps`` in float16; ``validation/*`` at rungs only."""
    elapsed_s: float = 0.0
    """Device seconds the trial has used so far."""
    scored_rows: int = 0
    """Validation rows that were scored, the first ones of the split; 0 if none were, or if their number is unknown."""
    outcomes: str = ""
    """SHA-256 of the file of its row outcomes; empty if there is none."""

    @property
    def is_rung(self) -> bool:
        """Whether the trial was scored here."""
        return any(name.startswith("validation/") for name in self.metrics)

    @property
    def validation_loss(self) -> float:
        """Mean validation loss over the scored rows; nan if none were scored."""
        return self.metrics.get("validation/loss", math.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Rows, tokens and time that a trial, a study or a sweep has used."""

    rows: int = 0
    tokens: int = 0
    """Tokens trained on, without padding."""
    device_s: float = 0.0
    """Device seconds; the lanes of a pack share the device's time equally."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            rows=self.rows + other.rows,
            tokens=self.tokens + other.tokens,
            device_s=self.device_s + other.device_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """Everything the store keeps of a trial except checkpoints and adapter; one JSON file."""

    spec: TrialSpec
    state: TrialState = TrialState.RUNNING
    measurements: tuple[Measurement, ...] = ()
    cost: Cost = Cost()
    num_parameters: int = 0
    """Trainable parameters, the task head included."""
    num_retries: int = 0
    failure: Failure | None = None
    started_at: str = ""
    """UTC, ISO 8601."""
    finished_at: str = ""
    initial_hash: str = ""
    """SHA-256 of the adapter before its first step: equal seeds give equal hashes."""
    decided_chunk: int = 0
    """Chunk at which the pruner last let the trial continue. If a kill interrupts a decision, it is requested again."""
    checkpoints: Mapping[int, str] = field(default_factory=dict)
    """SHA-256 of the checkpoints on disk, by chunk: the latest and the one before it.

    If they are large, the latest chunks may have none yet; an interrupted trial repeats these.
    """
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the search must know about its proposal to make later ones, e.g. its point in CMA-ES's coordinates."""

    @property
    def chunks_done(self) -> int:
        """Chunks completed and stored."""
        return self.measurements[-1].chunk if self.measurements else 0

    @property
    def chunks_saved(self) -> int:
        """Chunks that the latest checkpoint contains; those after it are repeated if the trial is interrupted."""
        return max(self.checkpoints, default=0)

    @property
    def last_rung(self) -> Measurement | None:
        """The latest measurement with validation metrics."""
        return next((m for m in reversed(self.measurements) if m.is_rung), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRef:
    """A file, by its content."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRef:
    """A base model, by the content of the files that are loaded; where they are is no part of it."""

    name: str
    files: tuple[FileRef, ...]
    """Weights, configuration and tokenizer, by name."""

    @property
    def digest(self) -> str:
        """SHA-256 of the names and contents of all files."""
        lines = [f"{file.name} {file.sha256}" for file in self.files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class CutRows:
    """What was cut from the rows of a split to fit ``model.max_length``."""

    rows: int
    """Rows that have lost tokens."""
    tokens: int
    """Tokens that they have lost."""
    all_tokens: int
    """Tokens of all rows of the split before that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsRef:
    """The tokenised rows of a study, by their content: a worker finds them in a cache, and never reads a source."""

    dataset: str
    """Name of the dataset."""
    kind: str
    """Of rows; see `sweeper.data.base.Splits`."""
    num_labels: int
    fingerprint: str
    """Hash of the rows of every split."""
    digest: str
    """SHA-256 of the token ids of every split, the choices and the padding token."""
    splits: str
    """Name of the splits in the cache."""
    tokens: str
    """Name of the token ids in the cache."""
    max_length: int
    """Most tokens of a row: ``model.max_length``, or what was chosen for it."""
    chat: str
    """When prompts go into a chat template; see `sweeper.data.prompt_tokens.chat_use`."""
    loss_on: str = "all"
    """The answers of a chat that are learnt, ``task.loss_on``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PortfolioPoint:
    """A configuration that is tried early, because it did well elsewhere."""

    params: Mapping[str, ParamValue]
    """Searched values by dotted key."""
    source: str
    """Name of the portfolio it is from, or ``<sweep>/<dataset>`` of the user's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRecord:
    """What all trials of a study share; one JSON file in the store."""

    name: str
    """``<dataset>-<model>-<method>``."""
    dataset: str
    model: str
    method: str
    task: str
    metric: str
    """Name of the objective, e.g. ``validation/accuracy``."""
    direction: str
    """``maximize`` or ``minimize``."""
    num_chunks: int
    """Chunks of the longest trial of the search; `sweeper.config.trial_length` has those of each."""
    epochs: int
    """Passes of that trial over the training rows."""
    chunks_per_epoch: int
    rungs: tuple[int, ...]
    """Chunks after which the longest trial is scored; the last one is ``num_chunks``. Others have `trial_rungs`."""
    rows_per_chunk: int
    micro_batch: int
    fingerprint: str
    """Hash of the rows of every split."""
    labels: tuple[str, ...]
    num_rows: Mapping[str, int]
    """Rows of each split."""
    space: Mapping[str, str]
    """Search dimensions in Hydra's sweep grammar."""
    cut: Mapping[str, CutRows] = field(default_factory=dict)
    """What was cut from the rows of each split; without the splits that nothing was cut from."""
    num_available: int = 0
    """Unique rows available for training, of which ``num_rows["train"]`` are used; 0 if unknown."""
    rows_ref: RowsRef | None = None
    """The rows that every session trains on; None if an earlier version started the sweep."""
    model_ref: ModelRef | None = None
    """The base model that every session trains; None if an earlier version started the sweep."""
    majority: tuple[float, ...] = ()
    """Score of always predicting the commonest label, on the rows that each of ``rungs`` scores.

    Empty for losses and open completions, where that has no meaning, and if an earlier version started the sweep.
    """
    source: str = ""
    """The study whose configuration is trained here on more rows; empty if this is a search."""
    portfolio: tuple[PortfolioPoint, ...] = ()
    """What every session proposes after the recipes, chosen when the study was planned (``search.warm_start``)."""
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of baselines that are not trials, e.g. ``frozen_probe``."""

    def value(self, record: TrialRecord) -> float | None:
        """Return the objective of a trial: its metric at the latest rung, or None before the first."""
        rung = record.last_rung
        return None if rung is None else rung.metrics.get(self.metric)

    def is_better(self, one: float, other: float) -> bool:
        """Whether ``one`` is a strictly better objective than ``other``."""
        return one > other if self.direction == "maximize" else one < other


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewedTrial:
    """A trial as the search's database or the tracker has it, to be compared with the store."""

    number: int
    state: str
    """A `TrialState`, ``paused``, or empty if the view has none."""
    value: float | None = None
    """The objective of a finished trial."""
    key: str = ""
    """The view's own identifier of the trial."""
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFile:
    """A checkpoint, or the tensors of an adapter, too large for a message: the file is written and flushed.

    Whoever reads it checks it.
    """

    path: Path
    sha256: str
    num_bytes: int


Checkpoint = bytes | CheckpointFile
"""Safetensors of a trial's adapter, moments and step, or the file that has them."""
AdapterFiles = Mapping[str, Checkpoint]
"""An adapter in PEFT's format: the content of its files, by name; of large tensors, the file that has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """A trial that enters a pack, new or resumed from a checkpoint."""

    spec: TrialSpec
    chunks_done: int = 0
    checkpoint: Checkpoint | None = None
    """None at chunk 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkRequest:
    """Controller to worker: admit and evict these trials, then train one chunk of every lane."""

    admit: tuple[Admission, ...] = ()
    evict: tuple[int, ...] = ()
    """Numbers of the trials that leave the pack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkReport:
    """Worker to controller: the results of one chunk, by trial number."""

    measurements: Mapping[int, Measurement] = field(default_factory=dict)
    costs: Mapping[int, Cost] = field(default_factory=dict)
    """Cost of this chunk for each trial."""
    checkpoints: Mapping[int, Checkpoint] = field(default_factory=dict)
    """Of each trial that was scored; of others only if they are small, or if the last one was long ago."""
    adapters: Mapping[int, AdapterFiles] = field(default_factory=dict)
    """Of the trials that completed with this chunk."""
    rung_adapters: Mapping[int, AdapterFiles] = field(default_factory=dict)
    """The same of the trials that were scored on all rows after this chunk and are not complete yet."""
    outcomes: Mapping[int, bytes] = field(default_factory=dict)
    """Outcome of each validation row, as safetensors (`sweeper.store.outcomes`), of the trials that were scored."""
    failures: Mapping[int, Failure] = field(default_factory=dict)
    """Failures of trials, which have left the pack."""
    details: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """``num_parameters`` and ``initial_hash`` of newly admitted trials."""
    peak_bytes: int = 0
    """Most memory that the worker has needed so far, beyond what it had before it loaded a model; 0 if unknown."""
    elapsed_s: float = 0.0

    @property
    def sent(self) -> list[Checkpoint]:
        """All checkpoints and files of adapters."""
        adapters = (*self.adapters.values(), *self.rung_adapters.values())
        return [*self.checkpoints.values(), *(content for files in adapters for content in files.values())]
