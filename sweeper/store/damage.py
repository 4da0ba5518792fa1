"""Finds damaged files in a sweep's folder, moves them to ``damaged/``, and restores records from their copies.

A killed controller leaves no damage, only unfinished files (see `trials`). Damage comes from manual edits, faulty disks
and full file systems. `run` and `reconcile` call what changes files while they hold the sweep's lock. Nothing is
deleted: `reconcile` repairs what has no copy here (see `sweeper.recovery`).
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open

from sweeper.disk.atomic import file_checksum, make_folder, move, write_atomic
from sweeper.errors import DamagedFile
from sweeper.figures.confirmation import ConfirmationRecord
from sweeper.store.paths import TrialPaths
from sweeper.store.retention import adapters_to_keep, num_adapters_kept, rung_adapter_to_keep
from sweeper.store.serialization import from_bytes
from sweeper.store.sessions import SessionRecord
from sweeper.store.trials import TrialStore
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = [
    "Damage",
    "DamageKind",
    "adapter_warnings",
    "copy_aside",
    "find_damage",
    "find_record_damage",
    "has_checksum",
    "intact_adapter",
    "is_adapter_intact",
    "new_stamp",
    "readable_trials",
    "restore_records",
    "set_aside",
    "without_adapter",
]

T = TypeVar("T")


class DamageKind(enum.StrEnum):
    """Kind of the damaged file."""

    SWEEP = "sweep"
    STUDY = "study"
    CONFIRMATION = "confirmation"
    """The record of a confirmation, which is computed again from the trials."""
    NOTE = "note"
    """The record of a session, or of current problems; no trial depends on it."""
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
    """One damaged, missing or superfluous file of a sweep."""

    kind: DamageKind
    study: str
    """Empty for the sweep itself."""
    path: Path
    what: str
    """Description, to print."""
    number: int | None = None
    """The trial; None for the study itself."""


def find_record_damage(store: TrialStore) -> list[Damage]:
    """Return damage for the records of the sweep, its sessions, its studies and confirmations; of final ones, too."""
    found = []
    if fault := _read(store.paths.sweep, dict[str, Any])[1]:
        found.append(Damage(kind=DamageKind.SWEEP, study="", path=store.paths.sweep, what=fault))
    notes = {path: _read(path, SessionRecord)[1] for path in store.paths.session_records()}
    if store.paths.health.exists():
        notes[store.paths.health] = _json_fault(store.paths.health)
    found += [Damage(kind=DamageKind.NOTE, study="", path=path, what=fault) for path, fault in notes.items() if fault]
    return [*found, *_study_damage(store), *_study_damage(store.finals)]


def _study_damage(store: TrialStore) -> list[Damage]:
    found = []
    for folder in store.paths.studies():
        study = folder.name
        path = store.paths.study_record(study)
        if fault := _read(path, StudyRecord)[1]:
            found.append(Damage(kind=DamageKind.STUDY, study=study, path=path, what=fault))
        path = store.paths.confirmation(study)
        if path.exists() and (fault := _read(path, ConfirmationRecord)[1]):
            found.append(Damage(kind=DamageKind.CONFIRMATION, study=study, path=path, what=fault))
    return found


def restore_records(store: TrialStore, stamp: str) -> list[Path]:
    """Restore the damaged records of the sweep and its studies from their copies, and renew copies that differ.

    Returns:
        The restored records.
    """
    studies = [folder.name for folder in store.paths.studies()]
    pairs: list[tuple[Path, Path, type]] = [(store.paths.sweep, store.paths.sweep_backup, dict[str, Any])]
    pairs += [(store.paths.study_record(name), store.paths.study_backup(name), StudyRecord) for name in studies]
    restored = []
    for path, backup, kind in pairs:
        is_intact, has_copy = not _read(path, kind)[1], not _read(backup, kind)[1]
        if is_intact and not (has_copy and backup.read_bytes() == path.read_bytes()):
            _replace(store, backup, path.read_bytes(), stamp)
        elif has_copy and not is_intact:
            _replace(store, path, backup.read_bytes(), stamp)
            restored.append(path)
    return restored


def readable_trials(store: TrialStore, study: str, *, limit: int | None = None) -> list[TrialRecord]:
    """Return the trials of a study whose records can be read, by number; only the first ``limit`` are read."""
    records = [_read(paths.record, TrialRecord)[0] for paths in store.paths.trials(study)[:limit]]
    return [record for record in records if record is not None]


def find_damage(store: TrialStore, study: StudyRecord, *, keep_adapters: int) -> list[Damage]:
    """Return the damage among the trials of a study, by number, after what workers have left of checkpoints.

    Args:
        store: The sweep.
        study: The study.
        keep_adapters: ``store.keep_adapters``: number of best trials that must have adapters; 0 for all complete ones.
    """
    keep = adapters_to_keep(study, readable_trials(store, study.name), keep_adapters)
    left = sorted(path for path in store.paths.incoming(study.name).rglob("*") if path.is_file())
    what = "a worker wrote it, but no trial refers to it"
    found = [
        Damage(kind=DamageKind.LEFTOVER, study=study.name, path=path, what=f"{path.name}: {what}") for path in left
    ]
    for paths in store.paths.trials(study.name):
        for kind, path, what in _trial_damage(store, study, paths, needs_adapter=paths.number in keep):
            found.append(Damage(kind=kind, study=study.name, number=paths.number, path=path, what=what))
    return found


def without_adapter(
    store: TrialStore, study: StudyRecord, trials: Iterable[TrialRecord], *, keep_adapters: int
) -> list[int]:
    """Return the complete trials that must have an adapter and have no intact one, by number.

    They keep their scores. `reconcile` restores their adapters from MLflow, or trains them again if it is told to.

    Args:
        store: The sweep.
        study: The study.
        trials: Its trials.
        keep_adapters: Number of best trials that must have adapters; 0 for all complete ones.
    """
    keep = adapters_to_keep(study, trials, keep_adapters)
    return sorted(number for number in keep if intact_adapter(store, study.name, number) is None)


def adapter_warnings(store: TrialStore) -> list[str]:
    """Return a line for each study with trials that must have an adapter and have none."""
    settings = store.read_sweep().get("settings", {}) if store.exists else {}
    if "store" not in settings:
        return []
    keep, lines = num_adapters_kept(store.root, settings["store"]["keep_adapters"]), []
    for study in store.studies():
        numbers = without_adapter(store, study, store.trials(study.name), keep_adapters=keep)
        if numbers:
            trials = f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
            lines.append(
                f"{study.dataset}: the adapter of {trials} is missing or damaged. The score stays. To restore the "
                f"adapter, run: sweeper reconcile {store.root.name}; if there is no copy, add --retrain"
            )
    return lines


def new_stamp() -> str:
    """Return the present time as the name of a folder in ``damaged``."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")


def set_aside(store: TrialStore, path: Path, stamp: str) -> Path:
    """Move a file or folder to ``damaged/<stamp>``, under its former path; return its new path."""
    target = _new_path(store, path, stamp)
    move(path, target)
    return target


def copy_aside(store: TrialStore, path: Path, stamp: str) -> Path:
    """Copy a file that is about to be rewritten to ``damaged/<stamp>``, under its former path; return the copy."""
    target = _new_path(store, path, stamp)
    write_atomic(target, path.read_bytes())
    return target


def intact_adapter(store: TrialStore, study: str, number: int) -> Path | None:
    """Return the folder of a trial's adapter; None if it is missing or damaged."""
    folder = store.adapter_dir(study, number)
    return folder if is_adapter_intact(folder) else None


def is_adapter_intact(folder: Path) -> bool:
    """Whether an adapter's configuration and tensors can be read."""
    return not _adapter_fault(folder)


def has_checksum(path: Path, digest: str) -> bool:
    """Whether a safetensors file can be read and is the one with this checksum."""
    return not _file_fault(path, digest)


def _new_path(store: TrialStore, path: Path, stamp: str) -> Path:
    target = store.sweep.damaged(stamp, path)
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    make_folder(target.parent)
    return target


def _replace(store: TrialStore, path: Path, content: bytes, stamp: str) -> None:
    if path.exists():
        copy_aside(store, path, stamp)
    write_atomic(path, content)


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
    latest = paths.checkpoint(record.chunks_saved)
    needed = {latest} if latest in useful and record.chunks_saved else set()
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
    # A confirmation compares these, so their loss is reported until they are there again.
    is_compared = record.spec.phase is Phase.CONFIRMATION and record.state is TrialState.COMPLETE
    if is_compared and (last := record.last_rung) is not None and not last.outcomes:
        yield DamageKind.OUTCOMES, paths.outcomes(last.chunk), f"{paths.outcomes(last.chunk).name} is lost"


def _read(path: Path, kind: type[T]) -> tuple[T | None, str]:
    """Return a record and an empty text, or None and why it cannot be read.

    Raises:
        StoreError: It has another schema version, so it is not damaged.
    """
    try:
        return from_bytes(kind, path.read_bytes(), name=path.name), ""
    except FileNotFoundError:
        return None, f"{path.name} is missing"
    except OSError as error:
        return None, f"{path.name} cannot be read ({error.strerror})"
    except DamagedFile as error:
        return None, str(error)


def _json_fault(path: Path) -> str:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be read ({type(error).__name__})"
    return ""


def _adapter_fault(folder: Path) -> str:
    if not folder.is_dir():
        return "the adapter is missing"
    if fault := _json_fault(folder / "adapter_config.json"):
        return fault
    return _tensors_fault(folder / "adapter_model.safetensors")


def _file_fault(path: Path, digest: str) -> str:
    fault = _tensors_fault(path)
    if not fault and digest and file_checksum(path) != digest:
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
