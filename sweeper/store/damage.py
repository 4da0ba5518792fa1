"""Finds what is damaged in a sweep's folder, and moves it aside; never deletes, never repairs.

A killed controller leaves no damage, at most leftovers (see `store`): damage is made by hand, by disks and by file
systems that are full. `reconcile` calls this, while it holds the sweep.
"""

from __future__ import annotations

import enum
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sweeper.errors import StoreError
from sweeper.store.atomic import checksum
from sweeper.store.retention import adapters_to_keep
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = [
    "Damage",
    "DamageKind",
    "find_damage",
    "find_study_damage",
    "is_adapter_whole",
    "readable_trials",
    "set_aside",
]


class DamageKind(enum.StrEnum):
    """What is damaged."""

    STUDY = "study"
    RECORD = "record"
    CHECKPOINT = "checkpoint"
    ADAPTER = "adapter"
    LEFTOVER = "leftover"
    """Written aside and never moved into place, or of no use any more: nothing is lost with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One thing that is wrong in the folder of a study."""

    kind: DamageKind
    study: str
    path: Path
    what: str
    number: int | None = None
    """The trial; None for the study itself."""


def find_study_damage(store: TrialStore) -> list[Damage]:
    """Return studies whose own record cannot be read."""
    found = []
    for folder in sorted(store.root.glob("studies/*")):
        try:
            store.read_study(folder.name)
        except StoreError as error:
            path = folder / "study.json"
            found.append(Damage(kind=DamageKind.STUDY, study=folder.name, path=path, what=_brief(error)))
    return found


def readable_trials(store: TrialStore, study: str) -> list[TrialRecord]:
    """Return the trials of a study whose records can be read, by number."""
    found = []
    for path in sorted((store.study_dir(study) / "trials").glob("*/trial.json")):
        try:
            found.append(store.read_trial(study, int(path.parent.name)))
        except (StoreError, ValueError):
            continue
    return found


def find_damage(store: TrialStore, study: StudyRecord, *, keep_adapters: int) -> list[Damage]:
    """Return what is damaged among the trials of a study, by number.

    Args:
        store: The sweep.
        study: The study.
        keep_adapters: Best trials whose adapters must be there; 0 for all complete ones.
    """
    keep = adapters_to_keep(study, readable_trials(store, study.name), keep_adapters)
    found: list[Damage] = []
    for folder in sorted((store.study_dir(study.name) / "trials").glob("*")):
        if folder.is_dir() and folder.name.isdigit():
            number = int(folder.name)
            found += _of_trial(store, study.name, number, keeps_adapter=number in keep)
    return found


def set_aside(store: TrialStore, path: Path, stamp: str) -> Path:
    """Move a file or folder of the sweep to ``damaged/<stamp>``, under the path it had; return where it is now."""
    target = store.root / "damaged" / stamp / path.relative_to(store.root)
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    return target


def is_adapter_whole(folder: Path) -> bool:
    """Whether the files of an adapter can be read to their ends."""
    return not _adapter_fault(folder)


def _of_trial(store: TrialStore, study: str, number: int, *, keeps_adapter: bool) -> Iterator[Damage]:
    folder = store.trial_dir(study, number)
    for path in [*folder.glob(".*.tmp"), *folder.glob("adapter.tmp")]:
        yield Damage(
            kind=DamageKind.LEFTOVER, study=study, number=number, path=path, what=f"{path.name} was never finished"
        )
    path = folder / "trial.json"
    try:
        record = store.read_trial(study, number)
    except StoreError as error:
        what = _brief(error) if path.exists() else "the folder has no trial.json"
    else:
        if (record.spec.study, record.spec.number) == (study, number):
            yield from _of_files(store, record, keeps_adapter=keeps_adapter)
            return
        what = f"trial.json is of trial {record.spec.number} of {record.spec.study}"
    yield Damage(kind=DamageKind.RECORD, study=study, number=number, path=path, what=what)


def _of_files(store: TrialStore, record: TrialRecord, *, keeps_adapter: bool) -> Iterator[Damage]:
    study, number = record.spec.study, record.spec.number
    folder = store.trial_dir(study, number)
    useful = store.checkpoint_names(record)
    latest = f"checkpoint-{record.chunks_done}.safetensors"
    digests = {f"checkpoint-{chunk}.safetensors": digest for chunk, digest in record.checkpoints.items()}
    there = {path.name for path in folder.glob("checkpoint-*.safetensors")}
    needed = {latest} if latest in useful and record.chunks_done else set()
    for name in sorted(there | needed):
        kind, fault = DamageKind.LEFTOVER, f"{name} is of no use any more"
        if name in useful:
            kind, fault = DamageKind.CHECKPOINT, _checkpoint_fault(folder / name, digests.get(name, ""))
        if fault:
            yield Damage(kind=kind, study=study, number=number, path=folder / name, what=fault)
    if record.state is TrialState.COMPLETE and (keeps_adapter or (folder / "adapter").exists()):
        fault = _adapter_fault(folder / "adapter")
        if fault:
            yield Damage(kind=DamageKind.ADAPTER, study=study, number=number, path=folder / "adapter", what=fault)


def _adapter_fault(folder: Path) -> str:
    try:
        json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        return f"adapter_config.json cannot be read ({type(error).__name__})"
    return _tensors_fault(folder / "adapter_model.safetensors")


def _checkpoint_fault(path: Path, digest: str) -> str:
    fault = _tensors_fault(path)
    is_other = not fault and digest and checksum(path.read_bytes()) != digest
    return f"{path.name} is not what was written: its checksum is another" if is_other else fault


def _tensors_fault(path: Path) -> str:
    """Return why tensors cannot be read; the header says how long the file must be, so nothing more is read."""
    try:
        if not path.exists() or not path.stat().st_size:
            return f"{path.name} is missing or empty"
        with safe_open(path, "np"):
            return ""
    except (OSError, SafetensorError) as error:
        return f"{path.name} cannot be read ({error})"


def _brief(error: StoreError) -> str:
    return str(error).split(";", maxsplit=1)[0].rpartition("/")[2]
