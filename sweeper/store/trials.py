"""The truth about trials: one folder a sweep, JSON and safetensors, every write atomic.

::

    <outputs>/<sweep>/
        sweep.json                  resolved settings, provenance
        ledger.json                 what was spent (see `ledger`)
        optuna.db                   the studies
        best.json report.md trials.csv   (see `analysis`)
        studies/<study>/study.json
        studies/<study>/trials/0007/
            trial.json              TrialRecord; its `checkpoints` has the checksums of the files that belong to it
            checkpoint-4.safetensors checkpoint-5.safetensors
            adapter/                PEFT's format

``trial.json`` is the commit point: a checkpoint is written first, under the name of its chunk, so after a kill the two
always agree. Only the controller writes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from sweeper.errors import StoreError
from sweeper.store.atomic import checksum, write_atomic
from sweeper.store.disk_space import translate_disk_full
from sweeper.store.serialization import SCHEMA_VERSION, from_jsonable, to_jsonable
from sweeper.types import StudyRecord, TrialRecord

__all__ = [
    "TrialStore",
    "trial_from_bytes",
]

T = TypeVar("T")


class TrialStore:
    """Files of one sweep.

    Args:
        root: The sweep's folder; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def study_dir(self, study: str) -> Path:
        """Folder of a study."""
        return self.root / "studies" / study

    def trial_dir(self, study: str, number: int) -> Path:
        """Folder of a trial."""
        return self.study_dir(study) / "trials" / f"{number:04d}"

    def adapter_dir(self, study: str, number: int) -> Path:
        """Folder of a complete trial's adapter, as PEFT reads it."""
        return self.trial_dir(study, number) / "adapter"

    @property
    def exists(self) -> bool:
        """Whether a sweep was begun here."""
        return (self.root / "sweep.json").exists()

    def write_sweep(self, sweep: Mapping[str, Any]) -> None:
        """Record settings and provenance of the sweep."""
        self._write_json(self.root / "sweep.json", sweep)

    def read_sweep(self) -> dict[str, Any]:
        """Return what `write_sweep` recorded."""
        return self._read_json(self.root / "sweep.json")

    def write_study(self, record: StudyRecord) -> None:
        """Record what the study's trials share."""
        self._write_json(self.study_dir(record.name) / "study.json", to_jsonable(record))

    def read_study(self, study: str) -> StudyRecord:
        """Return what `write_study` recorded."""
        return self._read(self.study_dir(study) / "study.json", StudyRecord)

    def studies(self) -> list[StudyRecord]:
        """All studies, in the order in which they were begun."""
        found = sorted(self.root.glob("studies/*/study.json"), key=lambda p: (p.parent.stat().st_ctime_ns, p))
        order = self.read_sweep().get("studies", []) if self.exists else []
        found.sort(key=lambda p: order.index(p.parent.name) if p.parent.name in order else len(order))
        return [self._read(path, StudyRecord) for path in found]

    def write_trial(self, record: TrialRecord, checkpoint: bytes | None = None) -> None:
        """Record a trial, with the checkpoint of its last chunk; those that the record does not name go.

        Args:
            record: The trial as it stands.
            checkpoint: Safetensors to go on from. None leaves none behind for a finished trial, and keeps the present
                one for a running trial.
        """
        folder = self.trial_dir(record.spec.study, record.spec.number)
        if checkpoint is not None:
            write_atomic(folder / f"checkpoint-{record.chunks_done}.safetensors", checkpoint)
        self._write_json(folder / "trial.json", to_jsonable(record))
        if checkpoint is not None or record.state.is_finished:
            self._drop_checkpoints(record)

    def read_trial(self, study: str, number: int) -> TrialRecord:
        """Return a trial.

        Raises:
            StoreError: There is none, or its file is damaged.
        """
        return self._read(self.trial_dir(study, number) / "trial.json", TrialRecord)

    def trials(self, study: str) -> list[TrialRecord]:
        """All trials of a study, by number."""
        paths = sorted(self.study_dir(study).glob("trials/*/trial.json"))
        return [self._read(path, TrialRecord) for path in paths]

    def read_checkpoint(self, study: str, number: int, chunk: int, *, sha256: str = "") -> bytes | None:
        """Return the checkpoint taken after ``chunk`` chunks, or None if there is no sound one.

        Args:
            study: The study.
            number: The trial.
            chunk: Chunks completed.
            sha256: What `checksum` must return of it; unchecked if empty.
        """
        path = self.trial_dir(study, number) / f"checkpoint-{chunk}.safetensors"
        try:
            content = path.read_bytes()
        except OSError:
            return None
        return content if not sha256 or checksum(content) == sha256 else None

    def write_adapter(self, study: str, number: int, files: Mapping[str, bytes]) -> None:
        """Write an adapter's files aside, then move the folder into place."""
        target = self.adapter_dir(study, number)
        aside = target.with_name("adapter.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        for name, content in files.items():
            write_atomic(aside / name, content)
        shutil.rmtree(target, ignore_errors=True)
        with translate_disk_full(target):
            os.replace(aside, target)

    def adapters(self, study: str) -> set[int]:
        """Return the numbers of the trials that have an adapter."""
        return {int(path.parent.name) for path in self.study_dir(study).glob("trials/*/adapter")}

    def drop_adapter(self, study: str, number: int) -> None:
        """Remove a trial's adapter, as a whole: a reader finds all of it or nothing."""
        folder = self.adapter_dir(study, number)
        aside = folder.with_name("adapter.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        shutil.rmtree(aside)

    def tidy(self, record: TrialRecord) -> None:
        """Remove what a kill in the midst of a write has left of a trial: it is of no use any more."""
        folder = self.trial_dir(record.spec.study, record.spec.number)
        for path in folder.glob(".*.tmp"):
            path.unlink()
        shutil.rmtree(folder / "adapter.tmp", ignore_errors=True)
        self._drop_checkpoints(record)

    def checkpoint_names(self, record: TrialRecord) -> set[str]:
        """Return the names of the checkpoints that a trial may go on from."""
        chunks = () if record.state.is_finished else {*record.checkpoints, record.chunks_done}
        return {f"checkpoint-{chunk}.safetensors" for chunk in chunks}

    def write_text(self, name: str, text: str) -> Path:
        """Write a file at the top of the sweep's folder."""
        path = self.root / name
        write_atomic(path, text.encode())
        return path

    def _write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        text = json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1)
        write_atomic(path, text.encode())

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            content: Any = json.loads(path.read_text())
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist") from None
        except (OSError, ValueError) as error:
            raise self._damaged(path, f"cannot be read ({error})") from error
        if not isinstance(content, dict) or content.pop("schema_version", None) != SCHEMA_VERSION:
            raise StoreError(f"{path} is not of schema version {SCHEMA_VERSION}; use a new sweep name")
        return cast("dict[str, Any]", content)

    def _read(self, path: Path, kind: type[T]) -> T:
        try:
            value: T = from_jsonable(kind, self._read_json(path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(path, f"is damaged ({error!r})") from error
        return value

    def _damaged(self, path: Path, what: str) -> StoreError:
        return StoreError(f"{path} {what}. To repair what can be, run: sweeper reconcile {self.root.name}")

    def _drop_checkpoints(self, record: TrialRecord) -> None:
        names = self.checkpoint_names(record)
        for path in self.trial_dir(record.spec.study, record.spec.number).glob("checkpoint-*.safetensors"):
            if path.name not in names:
                path.unlink(missing_ok=True)


def trial_from_bytes(content: bytes) -> TrialRecord:
    """Return the trial of a copy of ``trial.json``, e.g. a tracker's.

    Raises:
        StoreError: The copy is damaged or of another schema version.
    """
    try:
        fields = json.loads(content)
        if fields.pop("schema_version") != SCHEMA_VERSION:
            raise StoreError(f"the copy of trial.json is not of schema version {SCHEMA_VERSION}")
        return cast("TrialRecord", from_jsonable(TrialRecord, fields))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the copy of trial.json is damaged ({error!r})") from error
