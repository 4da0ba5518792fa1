"""Small stand-ins: a worker that follows a script, a tiny BERT and a tiny Llama on disk, rows that they can learn."""

from __future__ import annotations

import json
import math
import os
import random
import select
import shutil
import time
from collections.abc import Callable, Mapping, MutableSequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from sweeper.config.trial_length import FullLength, trial_chunks, trial_rungs
from sweeper.config.values import ParamValue
from sweeper.disk.atomic import file_checksum, write_by_content
from sweeper.errors import DiskError, StoreError
from sweeper.execute.base import (
    AdaptersScored,
    OpenStudy,
    Reply,
    Request,
    SaveTrials,
    ScoreAdapters,
    StudyOpened,
    TrialsSaved,
    WorkerFailed,
    WorkerReady,
)
from sweeper.store.outcomes import RowOutcomes
from sweeper.types import (
    AdapterFiles,
    Admission,
    Checkpoint,
    CheckpointFile,
    ChunkReport,
    ChunkRequest,
    Cost,
    Failure,
    FailureKind,
    Measurement,
    TrialSpec,
)

WORDS = {"food": ("bread", "cheese", "soup"), "place": ("river", "town", "hill"), "colour": ("red", "green", "blue")}
FILLER = ("the", "a", "is", "near", "very", "like", "old", "new", "and", "what", "where", "which")


def weights_of(number: int, chunk: int) -> bytes:
    """Return the content of the adapter that a fake worker sends of a trial after a rung; it can be read."""
    return save({}, metadata={"made": f"of trial {number} after chunk {chunk}"})


def accuracy(params: Mapping[str, ParamValue], chunk: int) -> float:
    """A known objective: grows with each chunk, and is best at a learning rate of 2e-3."""
    distance = abs(math.log(float(params["train.learning_rate"]) / 2e-3))
    return max(0.0, (1 - distance / 5) * (0.5 + chunk / 16))


def outcomes_of(value: float, num_rows: int = 100) -> RowOutcomes:
    """Make outcomes of rows with two labels, of which a share of ``value`` is right."""
    target = np.arange(num_rows) % 2
    is_right = np.arange(num_rows) < round(value * num_rows)
    predicted = np.where(is_right, target, 1 - target)
    return RowOutcomes.of(np.where(is_right, 0.1, 2.0), predicted_N=predicted, target_N=target, num_labels=2)


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, begin: str = "2026-01-01T00:00+00:00") -> None:
        self.now = datetime.fromisoformat(begin)

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def set(self, moment: str) -> None:
        self.now = datetime.fromisoformat(moment)


class FakeWorker:
    """Trains nothing: a trial is a number of chunks, its checkpoint says so, its scores follow from its setting.

    Args:
        num_chunks: Chunks of the longest trial.
        epochs: Epochs of that trial; those of others are in their settings.
        rungs: Chunks after which trials are scored.
        events: Where requests are noted, as ``(worker, what, trial numbers)``.
        index: The worker's index.
        before: Called with the trial numbers in the pack before each chunk; may raise what a worker may raise.
        fails: Returns why a trial fails at its next chunk, or None.
        device_s: Seconds that a chunk of a trial costs.
        writes_files: Whether it writes checkpoints and adapters itself, as a worker does with large ones.
        saves_rungs_only: Whether it saves trials only at rungs and on request, as with large checkpoints.
    """

    def __init__(
        self,
        *,
        num_chunks: int = 4,
        epochs: int = 2,
        rungs: tuple[int, ...] = (2, 4),
        events: MutableSequence[tuple[int, str, tuple[int, ...]]] | None = None,
        index: int = 0,
        before: Callable[[tuple[int, ...]], None] = lambda _numbers: None,
        fails: Callable[[TrialSpec, int], Failure | None] = lambda _spec, _chunk: None,
        device_s: float = 1.0,
        writes_files: bool = False,
        saves_rungs_only: bool = False,
    ) -> None:
        self._writes_files, self._incoming = writes_files, Path()
        self._saves_rungs_only = saves_rungs_only
        self._refused: dict[int, Failure] = {}
        self._num_chunks, self._rungs, self._index, self._device_s = num_chunks, rungs, index, device_s
        self._length = FullLength(num_chunks, epochs)
        self._before, self._fails = before, fails
        self._events = [] if events is None else events
        self._lanes: dict[int, tuple[TrialSpec, int]] = {}

    def start(self) -> WorkerReady:
        self._note("start")
        return WorkerReady(notes=("a double",))

    def answer(self, request: Request) -> Reply:
        if isinstance(request, OpenStudy):
            self._lanes = {}
            if self._writes_files and request.incoming is not None:
                self._incoming = request.incoming
                shutil.rmtree(self._incoming, ignore_errors=True)
            self._note("open")
            references = {"frozen_probe": {"validation/accuracy": 0.5}} if request.probe else {}
            return StudyOpened(references=references)
        if isinstance(request, ScoreAdapters):
            return self._score(request)
        if isinstance(request, SaveTrials):
            self._note("save")
            saved = {number: self._checkpoint(number, self._lanes[number][1]) for number in request.numbers}
            return TrialsSaved(checkpoints=saved, elapsed_s=self._device_s)
        return self._train(request)

    def _score(self, request: ScoreAdapters) -> AdaptersScored:
        self._note("score")
        values = {number: accuracy(spec.params, self._num_chunks) for number, (spec, _) in request.adapters.items()}
        return AdaptersScored(
            metrics={number: {f"{request.split}/accuracy": value} for number, value in values.items()},
            outcomes={number: outcomes_of(value).to_bytes() for number, value in values.items()},
            elapsed_s=self._device_s,
        )

    def _train(self, request: ChunkRequest) -> Reply:
        for number in request.evict:
            del self._lanes[number]
        fresh = {admission.spec.number for admission in request.admit if not admission.chunks_done}
        for admission in request.admit:
            try:
                self._lanes[admission.spec.number] = (admission.spec, self._chunks_of(admission))
            except StoreError as error:
                self._refused[admission.spec.number] = Failure(kind=FailureKind.CHECKPOINT, message=str(error))
        self._note("chunk")
        try:
            self._before(tuple(sorted(self._lanes)))
        except RuntimeError as error:
            return WorkerFailed(message=str(error), traceback="Traceback of the double")
        return self._report(fresh)

    def _report(self, fresh: set[int]) -> ChunkReport:
        report = ChunkReport(
            measurements={}, costs={}, checkpoints={}, adapters={}, failures={}, details={}, elapsed_s=self._device_s
        )
        report.failures.update(self._refused)
        report.costs.update(dict.fromkeys(self._refused, Cost(device_s=self._device_s)))
        self._refused = {}
        for number, (spec, chunks) in list(self._lanes.items()):
            report.costs[number] = Cost(rows=10, tokens=100, device_s=self._device_s)
            if number in fresh:
                report.details[number] = {"num_parameters": 7, "initial_hash": f"hash-{spec.seed}"}
            failure = self._fails(spec, chunks + 1)
            if failure is not None:
                report.failures[number] = failure
                del self._lanes[number]
                continue
            self._lanes[number] = (spec, chunks + 1)
            report.measurements[number] = self._measured(spec, chunks + 1)
            if report.measurements[number].is_rung:
                value = report.measurements[number].metrics["validation/accuracy"]
                report.outcomes[number] = outcomes_of(value).to_bytes()
            if chunks + 1 == trial_chunks(self._length, spec.train.epochs):
                report.adapters[number] = self._adapter(number, chunks + 1)
                del self._lanes[number]
            else:
                if self._is_due(number, is_rung=report.measurements[number].is_rung):
                    report.checkpoints[number] = self._checkpoint(number, chunks + 1)
                if report.measurements[number].is_rung:
                    report.rung_adapters[number] = self._adapter(number, chunks + 1)
        return report

    def _measured(self, spec: TrialSpec, chunk: int) -> Measurement:
        rungs = trial_rungs(self._rungs, trial_chunks(self._length, spec.train.epochs))
        scores = {"validation/accuracy": accuracy(spec.params, chunk)} if chunk in rungs else {}
        return Measurement(chunk=chunk, rows=10 * chunk, metrics={"train/loss": 1 / chunk, **scores})

    def _adapter(self, number: int, chunk: int) -> AdapterFiles:
        weights = self._sent(number, weights_of(number, chunk))
        return {"adapter_config.json": b"{}", "adapter_model.safetensors": weights}

    def _is_due(self, number: int, *, is_rung: bool) -> bool:  # noqa: ARG002  other doubles ask for the trial
        return is_rung or not self._saves_rungs_only

    def _checkpoint(self, number: int, chunk: int) -> Checkpoint:
        return self._sent(number, save({}, metadata={"done": json.dumps([number, chunk])}))

    def _sent(self, number: int, content: bytes) -> Checkpoint:
        if not self._writes_files:
            return content
        try:
            path, digest = write_by_content(self._incoming, [content], prefix=f"{number}-")
        except DiskError:
            return content
        return CheckpointFile(path=path, sha256=digest, num_bytes=len(content))

    def _chunks_of(self, admission: Admission) -> int:
        content = admission.checkpoint
        if content is None:
            assert admission.chunks_done == 0, f"trial {admission.spec.number} came without its checkpoint"
            return 0
        if isinstance(content, CheckpointFile):
            if file_checksum(content.path) != content.sha256:
                raise StoreError(f"{content.path} has the wrong checksum")
            content = content.path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert json.loads(header["__metadata__"]["done"]) == [admission.spec.number, admission.chunks_done]
        return admission.chunks_done

    def _note(self, what: str) -> None:
        self._events.append((self._index, what, tuple(sorted(self._lanes))))


def wait_until(holds: Callable[[], object], what: str = "it", *, patience_s: float = 60.0) -> None:
    """Return as soon as something holds that another thread or process brings about; fail when it takes too long."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        time.sleep(0.005)


def wait_for_exit(pid: int, *, patience_s: float = 60.0) -> None:
    """Wait until a process, not necessarily a child of ours, has exited; fail when it takes too long."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], patience_s)[0], f"process {pid} is still running"
    finally:
        os.close(descriptor)


def save_tiny_bert(folder: Path) -> Path:
    """Save a BERT of two layers with random weights, and a WordPiece tokenizer of its few words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *FILLER, *(word for group in WORDS.values() for word in group), *"0123456789"]
    words += [f"##{digit}" for digit in range(10)]
    pieces = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    pieces.normalizer = normalizers.Lowercase()
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=32, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def save_tiny_llama(folder: Path, tokenizer: Path) -> Path:
    """Save a Llama of two layers with random weights, and the tokenizer of another folder with an end of text."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    words.eos_token = "[SEP]"  # noqa: S105 - no password
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, num_rows: int = 150, *, seed: int = 0) -> Path:
    """Write different texts as JSONL; one word of each tells its label."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    lines = []
    for number in range(num_rows):
        label = draw.choice(sorted(WORDS))
        text = [*draw.choices(FILLER, k=draw.randint(2, 9)), draw.choice(WORDS[label]), str(number)]
        lines.append(json.dumps({"text": " ".join(text), "label": label}))
    path.write_text("\n".join(lines) + "\n")
    return path
