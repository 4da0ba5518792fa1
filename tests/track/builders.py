"""Records of trials as a controller would have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sweeper.types import Cost, Measurement, StudyRecord, TrialRecord, TrialSpec, TrialState

SPACE = {"lora.r": "tag(log2,interval(1,64))", "train.learning_rate": "tag(log,interval(1e-4,1e-2))"}


def study(**changes) -> StudyRecord:
    record = StudyRecord(
        name="trec-minilm-lora",
        dataset="trec",
        model="minilm",
        method="lora",
        task="text_classification",
        metric="validation/accuracy",
        direction="maximize",
        num_chunks=6,
        rungs=(2, 4, 6),
        rows_per_chunk=250,
        micro_batch=8,
        fingerprint="f" * 64,
        labels=("a", "b"),
        num_rows={"train": 1000, "validation": 400},
        space=SPACE,
    )
    return replace(record, **changes)


def trial(
    number: int = 7,
    *,
    chunks: int = 0,
    scores: tuple[float, ...] = (0.6, 0.8, 0.7),
    state=TrialState.RUNNING,
    **changes,
) -> TrialRecord:
    params = {"lora.r": 8, "train.learning_rate": 1e-3}
    settings = {**params, "lora.alpha_ratio": 2.0, "lora.use_rslora": False, "train.batch_size": 16}
    spec = TrialSpec(study="trec-minilm-lora", number=number, params=params, settings=settings, seed=5, origin="tpe")
    done = tuple(measurement(chunk, scores) for chunk in range(1, chunks + 1))
    record = TrialRecord(
        spec=spec,
        state=state,
        measurements=done,
        cost=Cost(rows=250 * chunks, tokens=3000 * chunks, device_s=0.5 * chunks),
        num_parameters=1234,
        started_at="2026-11-22T05:00:00+00:00",
        finished_at="2026-11-22T05:01:00+00:00" if state.is_finished else "",
        initial_hash="ab" * 32,
    )
    return replace(record, **changes)


def measurement(chunk: int, scores: tuple[float, ...]) -> Measurement:
    metrics = {"train/loss": 1 / chunk}
    if chunk % 2 == 0:
        metrics["validation/accuracy"] = scores[(chunk // 2 - 1) % len(scores)]
    return Measurement(chunk=chunk, rows=250 * chunk, metrics=metrics, elapsed_s=0.5 * chunk)


def complete(number: int = 7, **changes) -> TrialRecord:
    return trial(number, chunks=6, state=TrialState.COMPLETE, **changes)


def adapter_folder(parent: Path) -> Path:
    folder = parent / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    return folder
