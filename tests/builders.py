"""Studies, specs and trials made by hand: values are given, nothing is trained.

The one place in the tests that constructs `StudyRecord`, `TrialSpec` and `TrialRecord`. A test names only the values
that it is about; everything else comes from here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from safetensors.numpy import save

from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import ConfirmSettings, LoraSettings, TaskSettings, TrainSettings
from sweeper.execute.base import OpenStudy
from sweeper.figures.confirmation import Candidate, ConfirmationRecord, ConfirmationState
from sweeper.figures.recipes import FIRST_CONFIRMATION_NUMBER, confirmation_origin
from sweeper.store.outcomes import RowOutcomes
from sweeper.store.trials import TrialStore
from sweeper.types import (
    Cost,
    Failure,
    FailureKind,
    FileRef,
    Measurement,
    ModelRef,
    Phase,
    RowsRef,
    StudyRecord,
    TrialRecord,
    TrialSpec,
    TrialState,
)

STUDY = "trec-minilm-lora"
SPACE = {
    "lora.r": "tag(log2,interval(1,64))",
    "lora.alpha_ratio": "tag(log,interval(0.25,8))",
    "lora.dropout": "interval(0,0.2)",
    "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
}
PARAMS = {"lora.r": 16, "lora.alpha_ratio": 2.0, "lora.dropout": 0.05, "train.learning_rate": 0.00123}
DEFAULTS = Hyperparameters(LoraSettings(), TrainSettings())
ADAPTER = {
    "adapter_config.json": b'{"base_model_name_or_path": "/models/minilm", "peft_type": "LORA"}',
    "adapter_model.safetensors": save({}),
}
"""The files of an adapter that can be read."""
DEFAULT_PARAMS = {"lora.r": 8, "lora.alpha_ratio": 1.0, "lora.dropout": 0.0, "train.learning_rate": 0.001}
"""What the recipe peft_default trains."""


def make_study(dataset="trec", **changes) -> StudyRecord:
    """Make a study of 12 chunks with rungs at 3, 6 and 12; fields of StudyRecord may be given."""
    study = StudyRecord(
        name=f"{dataset}-minilm-lora",
        dataset=dataset,
        model="minilm",
        method="lora",
        task="text_classification",
        metric="validation/accuracy",
        direction="maximize",
        num_chunks=12,
        epochs=3,
        chunks_per_epoch=4,
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


def make_rows_ref(dataset="trec", **changes) -> RowsRef:
    """Make a reference to rows that no cache has; fields of RowsRef may be given."""
    ref = RowsRef(
        dataset=dataset,
        kind="text",
        num_labels=3,
        fingerprint="c0ffee" * 10,
        digest="d1ce" * 16,
        splits="5p117",
        tokens="70ke25",
        max_length=8,
        chat="never",
    )
    return replace(ref, **changes)


def make_model_ref(name="minilm", **files) -> ModelRef:
    """Make a reference to a model; ``files`` maps names, with ``_`` for the dot, to SHA-256 digests."""
    digests = files or {"config_json": "c0" * 32, "model_safetensors": "3e" * 32}
    found = [FileRef(name=key.replace("_", "."), sha256=digest, num_bytes=10) for key, digest in digests.items()]
    return ModelRef(name=name, files=tuple(found))


def make_opening(name=STUDY, **changes) -> OpenStudy:
    """Make the request that opens a study; fields of OpenStudy may be given."""
    opening = OpenStudy(
        name=name,
        rows=make_rows_ref(),
        model=make_model_ref(),
        task=TaskSettings(),
        micro_batch=1,
        chunks_per_epoch=1,
        epochs=1,
        rungs=(1,),
        seed=0,
        probe=False,
    )
    return replace(opening, **changes)


def make_spec(number=0, *, params=PARAMS, fixed=None, study=STUDY, seed=None, origin="tpe", phase=Phase.SEARCH):
    """Make a trial's configuration.

    Args:
        number: The trial's number.
        params: The searched values by dotted key; all of them, nothing is added.
        fixed: Values by dotted key that are not searched; what is in neither has the value of the settings' defaults.
        study: The study's name.
        seed: The trial's seed; 1000 + ``number`` unless told.
        origin: Who proposed it.
        phase: Why it is run.
    """
    values = {**DEFAULTS.by_key(), **(fixed or {}), **params}
    return TrialSpec(
        study=study,
        number=number,
        params=params,
        lora=LoraSettings(**_section(values, "lora")),
        train=TrainSettings(**_section(values, "train")),
        seed=1000 + number if seed is None else seed,
        origin=origin,
        phase=phase,
    )


def _section(values, name):
    """Return the values of one section by field; they are not cast, so a test may give what no user can."""
    return {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}


def make_measurement(chunk, value=None, *, metric="validation/accuracy", loss=0.4, rows=250, **changes) -> Measurement:
    """Make the measurement after a chunk of so many rows; scored if there is a value."""
    scores = {} if value is None else {metric: value}
    measurement = Measurement(chunk=chunk, rows=rows * chunk, metrics={"train/loss": loss, **scores})
    return replace(measurement, **changes)


def make_history(chunks, scores=(), *, rows=250, device_s=0.0) -> tuple[Measurement, ...]:
    """Make a measurement of every chunk up to ``chunks``; every second one is scored, with ``scores`` in turn."""
    return tuple(
        make_measurement(
            chunk,
            scores[(chunk // 2 - 1) % len(scores)] if scores and chunk % 2 == 0 else None,
            loss=1 / chunk,
            rows=rows,
            elapsed_s=device_s * chunk,
        )
        for chunk in range(1, chunks + 1)
    )


def make_trial(number=0, value=None, *, study=None, state=TrialState.COMPLETE, chunks=12, **changes) -> TrialRecord:
    """Make a trial of so many chunks, scored ``value`` at the last.

    ``params`` are added to those of `PARAMS`. Other arguments of `make_spec` may be given, and fields of TrialRecord.
    """
    study = study or make_study()
    params = {**PARAMS, **changes.pop("params", {})}
    given = {name: changes.pop(name) for name in ("fixed", "seed", "origin", "phase") if name in changes}
    spec = make_spec(number, params=params, study=study.name, **given)
    record = TrialRecord(
        spec=spec,
        state=state,
        measurements=(make_measurement(chunks, value, metric=study.metric, elapsed_s=2.0),) if chunks else (),
        cost=Cost(rows=250 * chunks, tokens=3250 * chunks, device_s=0.5 * chunks),
        num_parameters=5000 + 1000 * int(params["lora.r"]),
        started_at=f"2026-11-22T10:{number % 60:02d}:00+00:00",
        finished_at=f"2026-11-22T10:{(number + 2) % 60:02d}:00+00:00" if state.is_finished else "",
    )
    return replace(record, **changes)


def make_default(value, number=0, **changes) -> TrialRecord:
    """Make a trial of the default recipe."""
    return make_trial(number, value, origin="recipe:peft_default", params=DEFAULT_PARAMS, **changes)


def make_infeasible(number, message="CUDA out of memory, tried 2.0 GiB", **changes) -> TrialRecord:
    """Make a trial that did not fit into memory."""
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, message=message)
    return make_trial(number, state=TrialState.INFEASIBLE, chunks=0, failure=failure, **changes)


def make_sweep(root, studies, *, adapters=()) -> TrialStore:
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
        store.write_adapter(name, number, ADAPTER)
    return store


def make_outcomes(accuracy, *, shift=0, rows=400) -> RowOutcomes:
    """Make row outcomes of so many right rows out of ``rows``; another ``shift`` gets other rows wrong."""
    wrong = np.zeros(rows, dtype=bool)
    count = round((1 - accuracy) * rows)
    wrong[(np.arange(count) * 2 + shift) % rows] = True
    target = np.arange(rows) % 3
    return RowOutcomes.of(
        np.where(wrong, 2.0, 0.1), predicted_N=np.where(wrong, (target + 1) % 3, target), target_N=target, num_labels=3
    )


def make_confirmed_sweep(
    root, accuracies, *, seeds=3, state=ConfirmationState.COMPLETE, study=None, test=(), **settings
) -> TrialStore:
    """Write a sweep with a confirmation to disk. Its search has trial 0, the default recipe, and trial 9.

    Args:
        root: Folder of the sweep's folder.
        accuracies: Validation accuracy with every fresh seed by candidate, ``peft_default`` or ``trial 9``.
        seeds: Fresh seeds of each.
        state: How far the confirmation is.
        study: The study.
        test: Candidates that were scored on the test rows.
        settings: Fields of ConfirmSettings.
    """
    study = study or make_study()
    default, best = make_default(0.85), make_trial(9, 0.97)
    numbers = {"peft_default": 0, "trial 9": 9}
    trials, rows = [default, best], {}
    number = FIRST_CONFIRMATION_NUMBER
    for seed in range(seeds):
        for name, accuracy in accuracies.items():
            params = DEFAULT_PARAMS if name == "peft_default" else {}
            origin = confirmation_origin(name)
            phase = Phase.CONFIRMATION
            trials.append(make_trial(number, accuracy, params=params, origin=origin, seed=50 + seed, phase=phase))
            rows[number] = (name, make_outcomes(accuracy, shift=seed))
            number += 1
    store = make_sweep(root / "sweep", [(study, trials)], adapters=[(study.name, n) for n in rows])
    for number, (name, found) in rows.items():
        store.write_outcomes(study.name, number, 12, found.to_bytes())
        if name in test:
            store.write_test_outcomes(study.name, number, make_outcomes(0.9, rows=1000).to_bytes())
    candidates = tuple(Candidate(name=name, trial=numbers[name], probability=0.5) for name in accuracies)
    record = ConfirmationRecord(
        state=state, num_searched=2, settings=ConfirmSettings(**settings), candidates=candidates, num_seeds=seeds
    )
    store.write_confirmation(study.name, record)
    return store
