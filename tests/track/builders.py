"""Trials for trackers: six chunks with a measurement each, of which every second one is scored."""

from __future__ import annotations

from pathlib import Path

from sweeper.types import Cost, StudyRecord, TrialRecord, TrialState
from tests.builders import make_history, make_spec, make_study, make_trial

SPACE = {"lora.r": "tag(log2,interval(1,64))", "train.learning_rate": "tag(log,interval(1e-4,1e-2))"}
PARAMS = {"lora.r": 8, "train.learning_rate": 1e-3}
SCORES = (0.6, 0.8, 0.7)


def study(**changes) -> StudyRecord:
    return make_study(**{"num_chunks": 6, "rungs": (2, 4, 6), "space": SPACE, "references": {}, **changes})


def trial(number: int = 7, *, chunks: int = 0, state=TrialState.RUNNING, **changes) -> TrialRecord:
    spec = make_spec(number, params=PARAMS, fixed={"lora.alpha_ratio": 2.0}, seed=5)
    defaults = {
        "spec": spec,
        "measurements": make_history(chunks, SCORES, device_s=0.5),
        "cost": Cost(rows=250 * chunks, tokens=3000 * chunks, device_s=0.5 * chunks),
        "num_parameters": 1234,
        "started_at": "2026-11-22T05:00:00+00:00",
        "finished_at": "2026-11-22T05:01:00+00:00" if state.is_finished else "",
        "initial_hash": "ab" * 32,
    }
    return make_trial(number, state=state, **{**defaults, **changes})


def complete(number: int = 7, **changes) -> TrialRecord:
    return trial(number, chunks=6, state=TrialState.COMPLETE, **changes)


def adapter_folder(parent: Path) -> Path:
    folder = parent / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    return folder
