"""Checks that a session continues a sweep with the same settings, as far as trials depend on them.

`run` checks before anything is fetched and again under the lock: a sweep is never resumed with other settings. If
sweep.json and its copy are lost, the records of studies and trials are compared instead. Without a name of its own, a
sweep is named after these settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sweeper.config.dimensions import parse_space
from sweeper.config.settings import SweepSettings
from sweeper.config.trial_length import longest_epochs
from sweeper.errors import DamagedFile, SweepMismatch
from sweeper.search.pruning import rung_chunks
from sweeper.store.damage import readable_trials
from sweeper.store.trials import TrialStore
from sweeper.sweep.plan import study_name, trial_template
from sweeper.types import Phase, StudyRecord
from sweeper.urls import mask_url, redact_urls

__all__ = ["check_identity", "settings_to_keep", "sweep_name"]

_NOT_IDENTITY = ("name", "outputs", "cache", "executor", "budget", "confirm", "store", "plan", "tracker", "notify")
"""Sections that no trial's result depends on: they may change between the sessions of a sweep."""
_MAX_SHOWN = 4


def sweep_name(settings: SweepSettings) -> str:
    """Return ``name``; if it is empty, a name made of datasets, model, space and a hash of the settings."""
    if settings.name:
        return settings.name
    datasets = "+".join(dataset.name for dataset in settings.dataset.values())
    digest = config_hash(_identity(asdict(settings)))[:6]
    return f"{datasets[:60]}-{settings.model.name}-{settings.space.name}-{digest}"


def settings_to_keep(settings: SweepSettings) -> dict[str, Any]:
    """Return the settings to store, without passwords and notification URLs."""
    content = asdict(settings)
    content["search"]["storage"] = redact_urls(settings.search.storage)
    content["tracker"]["uri"] = redact_urls(settings.tracker.uri)
    content["notify"]["urls"] = [mask_url(url) for url in settings.notify.urls]
    return content


def check_identity(store: TrialStore, settings: SweepSettings) -> None:
    """Check that the sweep on disk, if there is one, was started with these settings.

    Raises:
        SweepMismatch: Settings that trials depend on have changed.
    """
    try:
        before = _identity(store.read_sweep()["settings"])
    except DamagedFile:  # or there is no sweep yet
        changed = sorted(set(_contradictions(store, settings)))
    else:
        changed = sorted(_differences(before, _identity(json.loads(json.dumps(asdict(settings))))))
    if changed:
        more = f"; and {len(changed) - _MAX_SHOWN} more" if len(changed) > _MAX_SHOWN else ""
        raise SweepMismatch(
            f"sweep {store.root.name} was started with other settings ({'; '.join(changed[:_MAX_SHOWN])}{more}), so "
            "its trials cannot be compared with new ones. Give the new sweep its own name, e.g. name=second"
        )


def _contradictions(store: TrialStore, settings: SweepSettings) -> Iterator[str]:
    """Yield what the records of studies and trials say otherwise. They do not have all settings, e.g. no sampler."""
    names = {study_name(settings, dataset) for dataset in settings.dataset.values()}
    for folder in store.paths.studies():
        try:
            study = store.read_study(folder.name)
        except DamagedFile:
            continue  # `sweeper reconcile` rebuilds it
        if study.name not in names:
            yield f"study: {study.name} before, {', '.join(sorted(names))} now"
            continue
        for key, before, now in _study_values(study, settings):
            if before != now:
                yield f"{key}: {before} before, {now} now"
        template = trial_template(settings, study)
        for trial in readable_trials(store, study.name):
            spec = template.spec(trial.spec.number, trial.spec.params, trial.spec.origin)
            yield from _differences(trial.spec.by_key(), spec.by_key())
            if trial.spec.phase is not Phase.CONFIRMATION and trial.spec.seed != spec.seed:
                yield f"seed: {trial.spec.seed} before, {spec.seed} now"


def _study_values(study: StudyRecord, settings: SweepSettings) -> Iterator[tuple[str, Any, Any]]:
    """Yield settings that a study has recorded: the key, its value before, and its value now."""
    search = settings.search
    rungs = rung_chunks(study.num_chunks, min_chunks=search.min_chunks, reduction_factor=search.reduction_factor)
    yield "space", dict(study.space), parse_space(settings.space.dimensions).texts
    yield "task", study.task, settings.task.name
    yield "rungs", study.rungs, rungs
    # With 0, the length of a trial was chosen for the study.
    if epochs := longest_epochs(parse_space(settings.space.dimensions)) or settings.train.epochs:
        yield "train.epochs", study.epochs, epochs
    if settings.train.chunks_per_epoch:
        yield "train.chunks_per_epoch", study.chunks_per_epoch, settings.train.chunks_per_epoch
    if settings.task.metric != "auto":
        yield "task.metric", study.metric, f"validation/{settings.task.metric}"


def _identity(settings: dict[str, Any]) -> dict[str, Any]:
    content = {k: v for k, v in settings.items() if k not in _NOT_IDENTITY}
    content["search"] = {k: v for k, v in content["search"].items() if k != "storage"}
    return content


def _differences(one: Any, other: Any, key: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from _differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif one != other:
        yield f"{key}: {one} before, {other} now"


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a configuration, independent of the order of its keys.

    Args:
        config: Nested mappings, lists and scalars that JSON can represent.

    Raises:
        TypeError: JSON cannot represent a value.
        ValueError: A number is not finite.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
