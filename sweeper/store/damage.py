"""Finds damaged files in a sweep's folder and moves them to ``damaged/``. Deletes nothing and repairs nothing.

A killed controller leaves no damage, only unfinished files (see `trials`). Damage comes from manual edits, faulty disks
and full file systems. `reconcile` calls this while it holds the sweep's lock.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open

from sweeper.disk.atomic import checksum, move
from sweeper.errors import StoreError
from sweeper.store.paths import TrialPaths
from sweeper.store.retention import adapters_to_keep, rung_adapter_to_keep
from sweeper.store.serialization import from_bytes
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = [
    "Damage",
    "DamageKind",
    "find_damage",
    "find_study_damage",
    "has_checksum",
    "is_adapter_intact",
    "readable_trials",
    "set_aside",
]

T = TypeVar("T")


class DamageKind(enum.StrEnum):
    """Kind of the damaged file."""

    STUDY = "study"
    RECORD = "record"
    CHECKPOINT = "checkpoint"
    ADAPTER = "adapter"
    RUNG_ADAPTER = "rung_adapter"
    """The adapter of a trial's best rung, beside that of its last; nothing depends on it."""
    OUTCOMES = "outcomes"
    """Row outcomes of a rung or of the test rows; the trial keeps its scores without them."""
    LEFTOVER = "leftover"
    """An unfinished file, or one that is no longer needed; removing it loses nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One damaged, missing or superfluous file in the folder of a study."""

    kind: DamageKind
    study: str
    path: Path
    what: str
    """Description, to print."""
    number: int | None = None
    """The trial; None for the study itself."""


def find_study_damage(store: TrialStore) -> list[Damage]:
    """Return damage for each study whose study.json cannot be read."""
    found = []
    for folder in store.paths.studies():
        path = store.paths.study_record(folder.name)
        _, fault = _read(path, StudyRecord)
        if fault:
            found.append(Damage(kind=DamageKind.STUDY, study=folder.name, path=path, what=fault))
    return found


def readable_trials(store: TrialStore, study: str) -> list[TrialRecord]:
    """Return the trials of a study whose records can be read, by number."""
    records = [_read(paths.record, TrialRecord)[0] for paths in store.paths.trials(study)]
    return [record for record in records if record is not None]


def find_damage(store: TrialStore, study: StudyRecord, *, keep_adapters: int) -> list[Damage]:
    """Return the damage among the trials of a study, by number.

    Args:
        store: The sweep.
        study: The study.
        keep_adapters: ``store.keep_adapters``: number of best trials that must have adapters; 0 for all complete ones.
    """
    keep = adapters_to_keep(study, readable_trials(store, study.name), keep_adapters)
    found = []
    for paths in store.paths.trials(study.name):
        for kind, path, what in _trial_damage(store, study, paths, needs_adapter=paths.number in keep):
            found.append(Damage(kind=kind, study=study.name, number=paths.number, path=path, what=what))
    return found


def set_aside(store: TrialStore, path: Path, stamp: str) -> Path:
    """Move a file or folder of the sweep to ``damaged/<stamp>``, under its former path; return its new path."""
    target = store.paths.damaged(stamp, path)
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    move(path, target)
    return target


def is_adapter_intact(folder: Path) -> bool:
    """Whether an adapter's configuration and tensors can be read."""
    return not _adapter_fault(folder)


def has_checksum(path: Path, digest: str) -> bool:
    """Whether a safetensors file can be read and is the one with this checksum."""
    return not _file_fault(path, digest)


def _trial_damage(
    store: TrialStore, study: StudyRecord, paths: TrialPaths, *, needs_adapter: bool
) -> Iterator[tuple[DamageKind, Path, str]]:
    for path in paths.unfinished():
        yield DamageKind.LEFTOVER, path, f"{path.name} is an unfinished file"
    record, fault = _read(paths.record, TrialRecord)
    if record is not None and (record.spec.study, record.spec.number) != (study.name, paths.number):
        fault = f"{paths.record.name} belongs to trial {record.spec.number} of {record.spec.study}"
    if record is None or fault:
        yield DamageKind.RECORD, paths.record, fault
        return
    useful = store.useful_checkpoints(record)
    latest = paths.checkpoint(record.chunks_done)
    needed = {latest} if latest in useful and record.chunks_done else set()
    digests = {paths.checkpoint(chunk): digest for chunk, digest in record.checkpoints.items()}
    for path in sorted({*paths.checkpoints(), *needed}):
        if path not in useful:
            yield DamageKind.LEFTOVER, path, f"{path.name} is no longer needed"
        elif fault := _file_fault(path, digests.get(path, "")):
            yield DamageKind.CHECKPOINT, path, fault
    yield from _outcomes_damage(store, record, paths)
    has_adapter = record.state is TrialState.COMPLETE and (needs_adapter or paths.adapter.exists())
    if has_adapter and (fault := _adapter_fault(paths.adapter)):
        yield DamageKind.ADAPTER, paths.adapter, fault
    # A missing one is no damage: earlier versions kept none.
    kept = rung_adapter_to_keep(study, record, keeps_adapter=has_adapter)
    for folder in paths.rung_adapters():
        if kept is None or folder != paths.rung_adapter(kept):
            yield DamageKind.LEFTOVER, folder, f"{folder.name} is no longer needed"
        elif fault := _adapter_fault(folder):
            yield DamageKind.RUNG_ADAPTER, folder, f"{folder.name}: {fault}"


def _outcomes_damage(
    store: TrialStore, record: TrialRecord, paths: TrialPaths
) -> Iterator[tuple[DamageKind, Path, str]]:
    listed, useful = store.rung_outcomes(record), store.useful_outcomes(record)
    for path in sorted({*paths.all_outcomes(), *listed}):
        if path not in useful:
            yield DamageKind.LEFTOVER, path, f"{path.name} is no longer needed"
        elif fault := _file_fault(path, listed.get(path, "")):
            yield DamageKind.OUTCOMES, path, fault


def _read(path: Path, kind: type[T]) -> tuple[T | None, str]:
    """Return a record and an empty text, or None and why it cannot be read."""
    try:
        return from_bytes(kind, path.read_bytes(), name=path.name), ""
    except FileNotFoundError:
        return None, f"{path.name} is missing"
    except OSError as error:
        return None, f"{path.name} cannot be read ({error.strerror})"
    except StoreError as error:
        return None, str(error)


def _adapter_fault(folder: Path) -> str:
    try:
        json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        return f"adapter_config.json cannot be read ({type(error).__name__})"
    return _tensors_fault(folder / "adapter_model.safetensors")


def _file_fault(path: Path, digest: str) -> str:
    fault = _tensors_fault(path)
    if not fault and digest and checksum(path.read_bytes()) != digest:
        return f"{path.name} has the wrong checksum"
    return fault


def _tensors_fault(path: Path) -> str:
    """Return why a safetensors file cannot be read. The header contains its length, so only the header is read."""
    try:
        if not path.exists() or not path.stat().st_size:
            return f"{path.name} is missing or empty"
        with safe_open(path, "np"):
            return ""
    except (OSError, SafetensorError) as error:
        return f"{path.name} cannot be read ({error})"
