"""Hand-made studies and trials; values are given, nothing is trained."""

from __future__ import annotations

from dataclasses import replace

from sweeper.store.trials import TrialStore
from sweeper.types import (
    Cost,
    Failure,
    FailureKind,
    Measurement,
    Phase,
    StudyRecord,
    TrialRecord,
    TrialSpec,
    TrialState,
)

SPACE = {
    "lora.r": "tag(log2,interval(1,64))",
    "lora.alpha_ratio": "tag(log,interval(0.25,8))",
    "lora.dropout": "interval(0,0.2)",
    "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
}
FIXED = {"lora.use_rslora": False, "train.batch_size": 16, "train.lr_schedule": "linear", "train.weight_decay": 0.0}


def make_study(dataset="trec", **changes):
    study = StudyRecord(
        name=f"{dataset}-minilm-lora",
        dataset=dataset,
        model="minilm",
        method="lora",
        task="text_classification",
        metric="validation/accuracy",
        direction="maximize",
        num_chunks=12,
        rungs=(3, 6, 12),
        rows_per_chunk=250,
        micro_batch=16,
        fingerprint="c0ffee" * 10,
        labels=("ABBR", "DESC", "ENTY"),
        num_rows={"train": 1000, "validation": 400, "test": 1000},
        space=SPACE,
        references={"frozen_probe": {"validation/accuracy": 0.82, "validation/macro_f1": 0.8}},
    )
    return replace(study, **changes)


def make_trial(number, value=None, *, study=None, state=TrialState.COMPLETE, origin="tpe", chunks=12, **changes):
    """Make a trial scored ``value`` at its last chunk; ``params`` and the fields of TrialRecord may be given."""
    study = study or make_study()
    params = {"lora.r": 16, "lora.alpha_ratio": 2.0, "lora.dropout": 0.05, "train.learning_rate": 0.00123}
    params |= changes.pop("params", {})
    spec = TrialSpec(
        study=study.name,
        number=number,
        params=params,
        settings={**FIXED, **params},
        seed=1000 + number,
        origin=origin,
        phase=changes.pop("phase", Phase.SEARCH),
    )
    metrics = {} if value is None else {study.metric: value}
    measurement = Measurement(chunk=chunks, rows=250 * chunks, metrics={"train/loss": 0.4, **metrics}, elapsed_s=2.0)
    is_finished = state is not TrialState.RUNNING
    record = TrialRecord(
        spec=spec,
        state=state,
        measurements=(measurement,) if chunks else (),
        cost=Cost(rows=250 * chunks, tokens=3250 * chunks, device_s=0.5 * chunks),
        num_parameters=5000 + 1000 * int(params["lora.r"]),
        started_at=f"2026-11-22T10:{number:02d}:00+00:00",
        finished_at=f"2026-11-22T10:{number + 2:02d}:00+00:00" if is_finished else "",
    )
    return replace(record, **changes)


def make_default(value, number=0, **changes):
    params = {"lora.r": 8, "lora.alpha_ratio": 1.0, "lora.dropout": 0.0, "train.learning_rate": 0.001}
    return make_trial(number, value, origin="recipe:peft_default", params=params, **changes)


def make_infeasible(number, message="CUDA out of memory, tried 2.0 GiB", **changes):
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, message=message)
    return make_trial(number, state=TrialState.INFEASIBLE, chunks=0, failure=failure, **changes)


def make_sweep(root, studies, *, adapters=()):
    """Write a sweep to disk: ``studies`` maps each study to its trials, ``adapters`` names (study, number) pairs."""
    store = TrialStore(root)
    recipes = [{"name": "peft_default", "params": {"lora.r": 8}}, {"name": "double_alpha", "params": {}}]
    names = [study.name for study, _ in studies]
    settings = {"search": {"recipes": recipes}}
    store.write_sweep({"settings": settings, "provenance": {"git": {"commit": "abc123"}}, "studies": names})
    for study, trials in studies:
        store.write_study(study)
        for trial in trials:
            store.write_trial(replace(trial, spec=replace(trial.spec, study=study.name)))
    for name, number in adapters:
        config = b'{"base_model_name_or_path": "/models/minilm", "peft_type": "LORA"}'
        store.write_adapter(name, number, {"adapter_config.json": config, "adapter_model.safetensors": b"x"})
    return store
