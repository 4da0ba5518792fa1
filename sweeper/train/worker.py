"""A worker: owns one device, one base model in memory and one pack, and answers the controller's requests.

It keeps nothing durable but large checkpoints and adapters, which it writes itself and the controller takes over
(`checkpoints`); small ones are in the report of every chunk. Trials that fail are named in the report and the others
continue; only a failure outside any trial is raised.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn
from torch.nn import functional as F

from sweeper.config.settings import LoraSettings, TrainSettings
from sweeper.config.trial_length import trial_chunks, trial_rungs
from sweeper.data import open_rows
from sweeper.data.base import TokenisedSplits
from sweeper.errors import StoreError, WorkerError
from sweeper.execute.base import (
    AdaptersScored,
    OpenStudy,
    Reply,
    Request,
    SaveTrials,
    ScoreAdapters,
    StudyOpened,
    TrialsSaved,
    WorkerReady,
    WorkerSetup,
)
from sweeper.figures.memory import memory_need
from sweeper.figures.model_shapes import ModelShapes
from sweeper.figures.rungs import rows_to_score
from sweeper.models import model_type_of
from sweeper.models.checkpointing import checkpoint_blocks
from sweeper.models.content import check_model
from sweeper.models.device_choice import (
    check_device,
    choose_attention,
    choose_checkpointing,
    choose_dtype,
    type_name,
)
from sweeper.models.first_token import read_first_token
from sweeper.models.fused import fuse_operations
from sweeper.models.linear import is_transposed
from sweeper.models.load import load_model, release_copied_weights
from sweeper.models.quantization import NONE, choose_quantization
from sweeper.models.shapes import adapted_layers, shapes_of
from sweeper.models.targets import targets_for
from sweeper.tasks import make_task
from sweeper.tasks.base import Examples, TaskProtocol
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.checkpoints import CheckpointWriter
from sweeper.train.chunks import ChunkPlan
from sweeper.train.divergence import find_diverged, loss_limit
from sweeper.train.initial_head import STRENGTH, head_values, initial_head
from sweeper.train.lane import Lane
from sweeper.train.lane_choice import Workload, choose_lanes, longest_rows, typical_rows
from sweeper.train.out_of_memory import OutOfMemoryFallback
from sweeper.train.pack import ChunkOutcome, Pack, sort_lanes
from sweeper.train.pack_load import cached_products, is_reordered, pack_load
from sweeper.train.probe import fit_probe
from sweeper.train.resident import peak_resident_bytes
from sweeper.types import (
    AdapterFiles,
    Admission,
    ChunkReport,
    ChunkRequest,
    Cost,
    Failure,
    FailureKind,
    Measurement,
    Phase,
    TrialSpec,
)

__all__ = ["EVALUATION_ROWS", "TrainingWorker"]

EVALUATION_ROWS = 32
"""Most rows of a lane that are scored at once."""
_HOST = torch.device("cpu")
"""Where lanes are between chunks, whatever the device (see `sweeper.train.bucket`)."""
_ADAPTERS_AT_ONCE = 8
"""Most adapters that are scored together on request: on a CPU, lack of memory would end the worker."""


class _Scored(NamedTuple):
    """A lane's scores on rows of a split."""

    num_rows: int
    metrics: Mapping[str, float]
    outcomes: bytes
    """`RowOutcomes` as safetensors."""


@dataclass(frozen=True, slots=True)
class _Study:
    """The open study, as the worker holds it in memory."""

    request: OpenStudy
    task: TaskProtocol
    tokens: TokenisedSplits
    num_labels: int
    pack: Pack
    shapes: ModelShapes
    quantization: str
    """How the frozen weights are held."""
    is_reordered: bool
    """Whether the pack keeps copies of the adapted weights."""
    checkpointing: bool
    """Whether the blocks run again in the backward pass."""
    examples: Examples
    """The training rows as the task made them."""
    train: TrainingRows
    validation: EvaluationBatches
    rung_rows: Mapping[int, EvaluationBatches]
    """The validation rows that rungs score, the first ones or all, by their number."""
    confirmation: EvaluationBatches
    """The rows that score the trials of a confirmation: rows that are new to all trials, if there are any."""
    fallback: OutOfMemoryFallback
    loss_limit: float
    adapter_config: Mapping[str, Any]
    notes: tuple[str, ...]
    """What was chosen for the model, and why."""

    def rows_due(self, lane: Lane) -> EvaluationBatches | None:
        """Return the rows that score a lane after the chunk that it has just completed; None if it is not scored."""
        num_chunks = self.num_chunks(lane)
        if lane.spec.phase is Phase.CONFIRMATION:
            # None of these trials is pruned, so earlier scores would only cost time.
            return self.confirmation if lane.chunks_done == num_chunks else None
        if lane.chunks_done not in trial_rungs(self.request.rungs, num_chunks):
            return None
        num_rows = rows_to_score(lane.chunks_done, num_chunks=num_chunks, num_rows=self.validation.num_rows)
        # A reference may be longer than every trial of the search, and have its early rungs where these have none.
        return self.rung_rows.get(num_rows, self.validation)

    def num_chunks(self, lane: Lane) -> int:
        """Return the chunks of a lane's trial."""
        return trial_chunks(self.train.plan, lane.spec.train.epochs)


class TrainingWorker:
    """Trains packs on one device.

    Args:
        setup: Model, device and threads.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._device = torch.device(setup.device)
        self._study: _Study | None = None
        self._resident_bytes: int | None = None
        """Resident size before the first model was loaded: that of the libraries and the token ids."""
        self._lanes: dict[int, Lane] = {}
        self._checkpoints = CheckpointWriter(setup.checkpoints)

    def start(self) -> WorkerReady:
        """Choose number type and attention kernel for the device.

        Raises:
            WorkerError: torch cannot use the device.
        """
        torch.set_num_threads(self._setup.threads)
        check_device(self._device)
        self._dtype, why_dtype = choose_dtype(self._setup.model.dtype, self._device)
        self._attention, why_attention = choose_attention(self._setup.model.attention, self._device, self._dtype)
        return WorkerReady(notes=(f"base weights: {why_dtype}", f"attention: {why_attention}"))

    def answer(self, request: Request) -> Reply:
        """Open a study, train a chunk, save trials or score adapters."""
        match request:
            case OpenStudy():
                return self._open(request)
            case ScoreAdapters():
                return self._score_adapters(self._open_study("scores adapters"), request)
            case SaveTrials(numbers=numbers):
                return self._save(numbers)
            case ChunkRequest():
                return self._run(self._open_study("trains a chunk"), request)

    def _open_study(self, what: str) -> _Study:
        if self._study is None:
            raise WorkerError(f"the request that {what} came before the one that opens a study")
        return self._study

    def _open(self, request: OpenStudy) -> StudyOpened:
        if self._study is not None:
            self._study, self._lanes = None, {}
            gc.collect()
        self._checkpoints.open(request.incoming)
        task = make_task(request.task.name)
        self._check_model(request)
        tokens = open_rows(
            request.rows,
            cache=self._setup.cache,
            model_dir=self._setup.model_dir,
            trust_remote_code=self._setup.model.trust_remote_code,
        )
        study = self._prepare(request, task.of(tokens), tokens)
        self._check_model(request)  # nobody has written to the files while they were loaded
        self._study = study
        references = self._references(study) if request.probe else {}
        if request.lane_limit == 0 or request.typical is None or request.largest is None:
            return self._opened(study, request.lanes, references=references)
        examples, size = _training_examples(study.task, tokens, request), study.train.plan.micro_batch
        where: dict[str, Any] = {"pad_token_id": tokens.pad_token_id, "device": self._device}
        choice = choose_lanes(
            study.pack,
            study.task.row_loss,
            typical=Workload(request.typical, typical_rows(examples, size, **where)),
            largest=Workload(request.largest, longest_rows(examples, size, **where)),
            limit=request.lane_limit,
            tokens_per_pass=self._setup.tokens_per_pass,
        )
        fallback = OutOfMemoryFallback(choice.tokens_per_pass, device=self._device.type)
        self._study = study = dataclasses.replace(study, fallback=fallback)
        opened = self._opened(study, choice.lanes, references=references)
        return dataclasses.replace(opened, lanes=choice.lanes, notes=(*study.notes, str(choice)))

    def _opened(self, study: _Study, lanes: int, *, references: Mapping[str, Mapping[str, float]]) -> StudyOpened:
        """Return the reply with what trials are predicted to need; the memory only if the largest trial is known."""
        rows, largest = study.train, study.request.largest
        # Every row of an epoch is trained once, but for those that do not fill a micro-batch.
        tokens = sum(len(ids) for ids in study.examples.ids) * rows.plan.epochs
        if largest is None or lanes == 0:
            return StudyOpened(references=references, notes=study.notes, trial_tokens=tokens)
        load = pack_load(
            rows,
            [study.validation],
            dtype=type_name(self._dtype),
            quantization=study.quantization,
            attention=self._attention,
            ranks=(largest.lora.r,) * lanes,
            tokens_per_pass=study.fallback.tokens_per_pass(),
            has_dropout=largest.lora.dropout > 0,
            has_base_dropout=self._setup.model.dropout > 0,
            checkpointing=study.checkpointing,
            device=self._device,
            is_reordered=study.is_reordered,
            cached_products=cached_products(os.environ),
            num_choice_tokens=sum(len(choice) - 1 for choice in study.tokens.choices),
        )
        need = memory_need(study.shapes, load)
        return StudyOpened(references=references, notes=study.notes, trial_tokens=tokens, need=need)

    def _check_model(self, request: OpenStudy) -> None:
        setup = self._setup
        check_model(request.model, setup.model_dir, cache=setup.cache, with_code=setup.model.trust_remote_code)

    def _prepare(self, request: OpenStudy, task: TaskProtocol, tokens: TokenisedSplits) -> _Study:
        num_labels = request.rows.num_labels
        quantization, why_bits = choose_quantization(self._setup.model.quantization, self._setup.model_dir)
        if self._resident_bytes is None:
            self._resident_bytes = psutil.Process().memory_info().rss
        model: Any = load_model(
            self._setup.model_dir,
            kind=task.model_kind,
            num_labels=num_labels,
            dtype=self._dtype,
            attention=self._attention,
            device=self._device,
            quantization=quantization,
            trust_remote_code=self._setup.model.trust_remote_code,
        )
        shapes = shapes_of(
            model,
            target_modules=self._setup.model.target_modules,
            head_modules=task.head_modules(model),
            kind=task.model_kind,
        )
        has_copies = quantization == NONE and is_reordered(shapes, type_name(self._dtype), self._device)
        if task.model_kind == "sequence_classification":
            read_first_token(model)
        if self._device.type != "cpu":
            fuse_operations(model)
        wanted = self._setup.model.gradient_checkpointing
        checkpointing, why = choose_checkpointing(wanted, self._device, shapes.parameters)
        if checkpointing:
            checkpoint_blocks(model)
        pack, adapter_config = self._pack(model, task)
        if self._device.type == "cpu":
            release_copied_weights(self._setup.model_dir)
        train, validation = _training_examples(task, tokens, request), task.examples(tokens, "validation")
        plan = ChunkPlan.of(
            len(train.ids),
            micro_batch=request.micro_batch,
            chunks_per_epoch=request.chunks_per_epoch,
            epochs=request.epochs,
        )
        num_rows, confirmation = len(validation.ids), task.examples(tokens, "confirmation")
        scored = {rows_to_score(rung, num_chunks=plan.num_chunks, num_rows=num_rows) for rung in request.rungs}
        batches = {n: self._evaluation_batches(validation.first(n), tokens.pad_token_id) for n in {*scored, num_rows}}
        return _Study(
            request=request,
            task=task,
            tokens=tokens,
            num_labels=num_labels,
            pack=pack,
            shapes=shapes,
            quantization=quantization,
            is_reordered=has_copies,
            checkpointing=checkpointing,
            examples=train,
            train=TrainingRows(train, plan, seed=request.seed, pad_token_id=tokens.pad_token_id, device=self._device),
            validation=batches[num_rows],
            rung_rows=batches,
            confirmation=(
                self._evaluation_batches(confirmation, tokens.pad_token_id) if confirmation.ids else batches[num_rows]
            ),
            fallback=OutOfMemoryFallback(self._setup.tokens_per_pass, device=self._device.type),
            loss_limit=loss_limit(num_labels if task.has_probe else model.config.vocab_size),
            adapter_config=adapter_config,
            notes=(
                f"gradient checkpointing: {why}",
                *(() if quantization == NONE else (f"quantization: {why_bits}",)),
            ),
        )

    def _evaluation_batches(self, examples: Examples, pad_token_id: int) -> EvaluationBatches:
        return EvaluationBatches(examples, batch_size=EVALUATION_ROWS, pad_token_id=pad_token_id, device=self._device)

    def _pack(self, model: nn.Module, task: TaskProtocol) -> tuple[Pack, Mapping[str, Any]]:
        """Return the pack, and the fields of ``adapter_config.json`` that are the same for all trials."""
        suffixes = targets_for(model_type_of(self._setup.model_dir), self._setup.model.target_modules)
        heads = task.head_modules(model)
        targets, head_layers = adapted_layers(model, suffixes, heads)
        config = {
            "revision": self._setup.model.revision or None,
            "task_type": task.peft_task_type,
            "target_modules": targets,
            "modules_to_save": list(heads) or None,
            "fan_in_fan_out": any(is_transposed(model.get_submodule(name)) for name in targets),
        }
        pack = Pack(model, targets=targets, head=head_layers, dtype=self._dtype, base_dropout=self._setup.model.dropout)
        task.check(model)
        return pack, config

    def _references(self, study: _Study) -> dict[str, Mapping[str, float]]:
        """Return the scores of the model without fine-tuning: of probes on its features, or of the model itself."""
        task, validation, tokens = study.task, study.validation, self._setup.tokens_per_pass
        if not task.has_probe:
            outputs_NF = study.pack.frozen(validation, task.outputs, tokens_per_pass=tokens)
            return {"untuned": _validation(task.score(outputs_NF, validation.targets))}
        spec = TrialSpec(
            study=study.request.name,
            number=0,
            params={},
            lora=LoraSettings(),
            train=TrainSettings(),
            seed=study.request.seed,
            origin="frozen",
        )
        lane, train = Lane.start(spec, study.pack.shape, _HOST), self._train_once(study)
        features, held_out = (study.pack.features(lane, split, tokens_per_pass=tokens) for split in (train, validation))
        self._initial_head(study, spec, features.head_inputs)
        scores: dict[str, Mapping[str, float]] = {}
        # Sentence embeddings are compared by their cosine, so rows of the mean are scaled to unit length.
        for name, seen, unseen in (
            ("frozen_probe", F.normalize(features.pooled), F.normalize(held_out.pooled)),
            ("frozen_probe_head", features.head_inputs, held_out.head_inputs),
        ):
            predicted = fit_probe(seen, train.targets, study.num_labels).predict(unseen)
            scores[name] = _validation(task.score_labels(predicted, validation.targets, study.num_labels))
        return scores

    def _initial_head(
        self, study: _Study, spec: TrialSpec, features_NI: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return the head that a trial starts from; None for a random one, and if the task has none.

        Args:
            study: The study.
            spec: The trial.
            features_NI: What the head reads of the training rows; computed if None and needed.
        """
        heads = study.pack.shape.head
        if spec.train.head_init != "probe" or not heads:
            return None
        setup, last = self._setup, heads[-1]

        def fit() -> torch.Tensor:
            train, found = self._train_once(study), features_NI
            if found is None:
                lane = Lane.start(spec, study.pack.shape, _HOST)
                tokens = self._setup.tokens_per_pass
                found = study.pack.features(lane, train, tokens_per_pass=tokens).head_inputs
            probe = fit_probe(found, train.targets, study.num_labels, has_bias=last.has_bias, strength=STRENGTH)
            return head_values(probe, last)

        # A head of several layers starts from the seed, and the probe reads what its first layers make.
        seed = spec.seed if len(heads) > 1 else 0
        model, rows = study.request.model.digest, study.request.rows.digest
        bits = [] if study.quantization == NONE else [study.quantization]
        return initial_head(setup.cache, [model, str(self._dtype), rows, seed, *bits], fit)

    def _train_once(self, study: _Study) -> EvaluationBatches:
        examples = _training_examples(study.task, study.tokens, study.request)
        return self._evaluation_batches(examples, study.tokens.pad_token_id)

    def _score_adapters(self, study: _Study, request: ScoreAdapters) -> AdaptersScored:
        started = time.perf_counter()
        split, examples = study.validation, study.task.examples(study.tokens, request.split)
        if not examples.ids:
            name = study.request.rows.dataset
            raise WorkerError(f"dataset {name} has no {request.split} rows: set its key {request.split}_rows")
        if request.split != "validation":
            split = self._evaluation_batches(examples, study.tokens.pad_token_id)
        lanes: list[Lane] = []
        scores: dict[int, _Scored] = {}
        failures: dict[int, Failure] = {}
        for number, (spec, files) in request.adapters.items():
            try:
                lanes.append(Lane.from_adapter(spec, files, study.pack.shape, _HOST))
            except StoreError as error:
                failures[number] = Failure(kind=FailureKind.CHECKPOINT, message=str(error))
        lanes = sort_lanes(lanes)
        for first in range(0, len(lanes), _ADAPTERS_AT_ONCE):
            found, failed = self._score(study, lanes[first : first + _ADAPTERS_AT_ONCE], split)
            scores |= found
            failures |= failed
        return AdaptersScored(
            metrics={number: _named(request.split, scored.metrics) for number, scored in scores.items()},
            outcomes={number: scored.outcomes for number, scored in scores.items()},
            failures=failures,
            elapsed_s=time.perf_counter() - started,
        )

    def _save(self, numbers: Sequence[int]) -> TrialsSaved:
        started = time.perf_counter()
        checkpoints = {number: self._checkpoints.save(number, self._lanes[number].state()) for number in numbers}
        return TrialsSaved(checkpoints=checkpoints, elapsed_s=time.perf_counter() - started)

    def _run(self, study: _Study, request: ChunkRequest) -> ChunkReport:
        started = time.perf_counter()

        def train(group: Sequence[Lane], tokens: int) -> Sequence[ChunkOutcome]:
            return study.pack.train_chunk(group, study.train, study.task.row_loss, tokens_per_pass=tokens)

        for number in request.evict:
            self._lanes.pop(number, None)
        details, failures = self._admit(study, request.admit)
        lanes = sort_lanes(list(self._lanes.values()))
        outcomes, failed = study.fallback.run(lanes, train, study.train, stage="train")
        failures |= failed
        failures |= find_diverged({n: o.loss for n, o in outcomes.items()}, "training loss", study.loss_limit)
        self._drop(failures)
        scores, failed = self._score_rungs(study, [lane for lane in lanes if lane.spec.number in self._lanes])
        failures |= failed
        failures |= find_diverged({n: s.metrics["loss"] for n, s in scores.items()}, "validation loss")
        self._drop(failures)
        return self._report(study, outcomes, scores, failures, details=details, elapsed_s=time.perf_counter() - started)

    def _score_rungs(self, study: _Study, lanes: Sequence[Lane]) -> tuple[dict[int, _Scored], dict[int, Failure]]:
        """Score the lanes that have reached a rung, on the rows that this rung scores."""
        due: dict[EvaluationBatches, list[Lane]] = {}
        for lane in lanes:
            rows = study.rows_due(lane)
            if rows is not None:
                due.setdefault(rows, []).append(lane)
        scores: dict[int, _Scored] = {}
        failures: dict[int, Failure] = {}
        for rows, group in due.items():
            found, failed = self._score(study, group, rows)
            scores |= found
            failures |= failed
        return scores, failures

    def _score(
        self, study: _Study, lanes: Sequence[Lane], split: EvaluationBatches
    ) -> tuple[dict[int, _Scored], dict[int, Failure]]:
        def score(group: Sequence[Lane], tokens: int) -> Sequence[_Scored]:
            outputs_KNF = study.pack.predict(group, split, study.task.outputs, tokens_per_pass=tokens)
            return [
                _Scored(
                    split.num_rows,
                    study.task.score(outputs_NF, split.targets),
                    study.task.row_outcomes(outputs_NF, split.targets).to_bytes(),
                )
                for outputs_NF in outputs_KNF
            ]

        return study.fallback.run(lanes, score, split, stage="score")

    def _admit(
        self, study: _Study, admissions: Sequence[Admission]
    ) -> tuple[dict[int, Mapping[str, Any]], dict[int, Failure]]:
        details: dict[int, Mapping[str, Any]] = {}
        failures: dict[int, Failure] = {}
        for admission in admissions:
            number = admission.spec.number
            try:
                head = self._initial_head(study, admission.spec) if admission.checkpoint is None else None
                lane = Lane.admit(admission, study.pack.shape, _HOST, head=head)
            except StoreError as error:
                failures[number] = Failure(kind=FailureKind.CHECKPOINT, message=str(error))
                continue
            self._lanes[number] = lane
            self._checkpoints.admitted(number)
            if lane.chunks_done == 0:
                details[number] = {"num_parameters": lane.layout.size, "initial_hash": lane.state_hash()}
        return details, failures

    def _peak_bytes(self) -> int:
        """Return the most memory since the start: on a CPU beyond what was resident before the model was loaded."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return max(0, peak_resident_bytes() - (self._resident_bytes or 0))

    def _drop(self, failures: Mapping[int, Failure]) -> None:
        for number in failures:
            self._lanes.pop(number, None)

    def _report(
        self,
        study: _Study,
        outcomes: Mapping[int, ChunkOutcome],
        scores: Mapping[int, _Scored],
        failures: Mapping[int, Failure],
        *,
        details: Mapping[int, Mapping[str, Any]],
        elapsed_s: float,
    ) -> ChunkReport:
        share = elapsed_s / max(1, len({*outcomes, *failures}))
        costs = {n: Cost(device_s=share) for n in failures}
        costs |= {n: Cost(rows=o.num_rows, tokens=o.num_tokens, device_s=share) for n, o in outcomes.items()}
        measurements, checkpoints, adapters, rung_adapters = {}, {}, {}, {}
        self._checkpoints.keep(self._lanes)
        for number, lane in list(self._lanes.items()):
            scored = _validation(scores[number].metrics) if number in scores else {}
            measurements[number] = Measurement(
                chunk=lane.chunks_done,
                rows=lane.chunks_done * outcomes[number].num_rows,
                metrics={"train/loss": outcomes[number].loss, **self._skipped(outcomes[number]), **scored},
                scored_rows=scores[number].num_rows if number in scores else 0,
            )
            if lane.chunks_done == study.num_chunks(lane):
                adapters[number] = self._adapter(study, lane)
                del self._lanes[number]
            else:
                if self._checkpoints.is_due(number, state := lane.state(), is_scored=number in scores):
                    checkpoints[number] = self._checkpoints.save(number, state)
                # Only a rung that scored all rows can be the best one.
                if number in scores and scores[number].num_rows == study.validation.num_rows:
                    rung_adapters[number] = self._adapter(study, lane)
        return ChunkReport(
            measurements=measurements,
            costs=costs,
            checkpoints=checkpoints,
            adapters=adapters,
            rung_adapters=rung_adapters,
            outcomes={number: scores[number].outcomes for number in measurements if number in scores},
            failures=failures,
            details=details,
            peak_bytes=self._peak_bytes(),
            elapsed_s=elapsed_s,
        )

    def _adapter(self, study: _Study, lane: Lane) -> AdapterFiles:
        base = self._setup.model.id or str(self._setup.model_dir)
        save = partial(self._checkpoints.save_adapter, lane.spec.number)
        return lane.adapter_files(base, study.adapter_config, save)

    def _skipped(self, outcome: ChunkOutcome) -> dict[str, float]:
        """Return the metric that only float16 has."""
        return {"train/skipped_steps": float(outcome.skipped_steps)} if self._dtype is torch.float16 else {}


def _training_examples(task: TaskProtocol, tokens: TokenisedSplits, request: OpenStudy) -> Examples:
    """Return the rows that are trained on. A head cannot learn a label that it has no output for."""
    found = Examples.joined([task.examples(tokens, split) for split in request.train_splits])
    if not task.has_head:
        return found
    known = range(request.rows.num_labels)
    return found.take([row for row, label in enumerate(found.targets) if label in known])


def _validation(scores: Mapping[str, float]) -> dict[str, float]:
    return _named("validation", scores)


def _named(split: str, scores: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in scores.items()}
