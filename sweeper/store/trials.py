"""Records, checkpoints and adapters of a sweep's trials: JSON and safetensors, every write atomic.

``trial.json`` is the commit point. A checkpoint is written before it, under the number of its chunk, so record and
checkpoint always agree after a kill. An adapter is written before the record with the state ``complete``. This order is
why one class writes all three. Only the controller writes. `paths` shows the layout.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sweeper.errors import StoreError
from sweeper.store.atomic import checksum, write_atomic
from sweeper.store.disk_space import translate_disk_full
from sweeper.store.paths import SweepPaths
from sweeper.store.serialization import from_bytes, to_bytes
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["TrialStore"]

T = TypeVar("T")


class TrialStore:
    """One sweep on disk.

    Args:
        root: The sweep's folder; created by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.paths = SweepPaths(root)
        self.root = self.paths.root

    def adapter_dir(self, study: str, number: int) -> Path:
        """Return the folder of a complete trial's adapter, in PEFT's format."""
        return self.paths.trial(study, number).adapter

    @property
    def exists(self) -> bool:
        """Whether a sweep has been recorded here."""
        return self.paths.sweep.exists()

    def write_sweep(self, sweep: Mapping[str, Any]) -> None:
        """Write settings and provenance of the sweep."""
        write_atomic(self.paths.sweep, to_bytes(sweep))

    def read_sweep(self) -> dict[str, Any]:
        """Return what `write_sweep` wrote.

        Raises:
            StoreError: The file is missing, damaged or of another schema version.
        """
        return self._read(self.paths.sweep, dict[str, Any])

    def write_study(self, record: StudyRecord) -> None:
        """Write the record of a study."""
        write_atomic(self.paths.study_record(record.name), to_bytes(record))

    def read_study(self, study: str) -> StudyRecord:
        """Return the record of a study.

        Raises:
            StoreError: The file is missing, damaged or of another schema version.
        """
        return self._read(self.paths.study_record(study), StudyRecord)

    def studies(self) -> list[StudyRecord]:
        """Return all studies, in the order of sweep.json."""
        found = [path for path in self.paths.studies() if self.paths.study_record(path.name).exists()]
        order = self.read_sweep().get("studies", []) if self.exists else []
        index = {name: number for number, name in enumerate(order)}
        found.sort(key=lambda path: (index.get(path.name, len(order)), path.stat().st_ctime_ns, path))
        return [self.read_study(path.name) for path in found]

    def write_trial(self, record: TrialRecord, checkpoint: bytes | None = None) -> None:
        """Write a trial's record and the checkpoint of its last chunk; delete the checkpoints it no longer lists.

        Args:
            record: The trial.
            checkpoint: Safetensors to continue from. None deletes the checkpoints of a finished trial and keeps
                those of a running one.
        """
        paths = self.paths.trial(record.spec.study, record.spec.number)
        if checkpoint is not None:
            write_atomic(paths.checkpoint(record.chunks_done), checkpoint)
        write_atomic(paths.record, to_bytes(record))
        if checkpoint is not None or record.state.is_finished:
            self._drop_checkpoints(record)

    def read_trial(self, study: str, number: int) -> TrialRecord:
        """Return the record of a trial.

        Raises:
            StoreError: The file is missing, damaged or of another schema version.
        """
        return self._read(self.paths.trial(study, number).record, TrialRecord)

    def trials(self, study: str) -> list[TrialRecord]:
        """Return all trials of a study, by number.

        Raises:
            StoreError: A record is damaged or of another schema version.
        """
        found = [paths.record for paths in self.paths.trials(study) if paths.record.exists()]
        return [self._read(path, TrialRecord) for path in found]

    def read_checkpoint(self, study: str, number: int, chunk: int, *, sha256: str = "") -> bytes | None:
        """Return the checkpoint taken after ``chunk`` chunks, or None if it is missing or damaged.

        Args:
            study: Name of the study.
            number: Number of the trial.
            chunk: Chunks completed.
            sha256: Its expected checksum; not checked if empty.
        """
        try:
            content = self.paths.trial(study, number).checkpoint(chunk).read_bytes()
        except OSError:
            return None
        return content if not sha256 or checksum(content) == sha256 else None

    def write_adapter(self, study: str, number: int, files: Mapping[str, bytes]) -> None:
        """Write an adapter's files to a temporary folder, then move it into place."""
        paths = self.paths.trial(study, number)
        shutil.rmtree(paths.new_adapter, ignore_errors=True)
        for name, content in files.items():
            write_atomic(paths.new_adapter / name, content)
        shutil.rmtree(paths.adapter, ignore_errors=True)
        with translate_disk_full(paths.adapter):
            os.replace(paths.new_adapter, paths.adapter)

    def adapters(self, study: str) -> set[int]:
        """Return the numbers of the trials that have an adapter."""
        return {paths.number for paths in self.paths.trials(study) if paths.adapter.exists()}

    def drop_adapter(self, study: str, number: int) -> None:
        """Remove a trial's adapter; readers never see a part of it."""
        paths = self.paths.trial(study, number)
        shutil.rmtree(paths.new_adapter, ignore_errors=True)
        os.replace(paths.adapter, paths.new_adapter)
        shutil.rmtree(paths.new_adapter)

    def tidy(self, record: TrialRecord) -> None:
        """Remove a trial's unfinished files, left by a kill during a write, and checkpoints that it no longer needs."""
        paths = self.paths.trial(record.spec.study, record.spec.number)
        for path in paths.unfinished():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        self._drop_checkpoints(record)

    def useful_checkpoints(self, record: TrialRecord) -> set[Path]:
        """Return the paths of the checkpoints that a trial may continue from, whether they exist or not."""
        chunks = () if record.state.is_finished else {*record.checkpoints, record.chunks_done}
        paths = self.paths.trial(record.spec.study, record.spec.number)
        return {paths.checkpoint(chunk) for chunk in chunks}

    def _read(self, path: Path, kind: type[T]) -> T:
        remedy = f"To repair it, run: sweeper reconcile {self.root.name}"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist") from None
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error}). {remedy}") from error
        return from_bytes(kind, content, name=str(path), remedy=remedy)

    def _drop_checkpoints(self, record: TrialRecord) -> None:
        useful = self.useful_checkpoints(record)
        for path in self.paths.trial(record.spec.study, record.spec.number).checkpoints():
            if path not in useful:
                path.unlink(missing_ok=True)
