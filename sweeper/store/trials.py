"""Records, checkpoints, row outcomes and adapters of a sweep's trials: JSON and safetensors, every write atomic.

``trial.json`` is the commit point. A checkpoint is written before it, under the number of its chunk, so record and
checkpoint always agree after a kill. The same is true for the adapter and the row outcomes of a rung. The adapter of
the last chunk is written before the record with the state ``complete``. This order is why one class writes all of them.
It also survives a power failure: content and names of all these files are flushed before the record gets its name, and
what the record no longer needs is deleted only once its own name is flushed. The records of the sweep and its studies,
which hardly ever change, have a copy that is read if they are damaged. `paths` shows the layout.

Only the controller writes, except for large checkpoints: a worker writes them into ``incoming``, where nothing refers
to them, and the controller moves them to their names. What a kill leaves there is deleted (`TrialStore.drop_incoming`).
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sweeper.disk.atomic import (
    checksum,
    file_checksum,
    make_folder,
    new_folder,
    remove_folder,
    remove_unfinished,
    sync_folder,
    write_atomic,
)
from sweeper.disk.space import translate_errors
from sweeper.errors import DamagedFile, StoreError
from sweeper.figures.confirmation import ConfirmationRecord
from sweeper.store.outcomes import RowOutcomes
from sweeper.store.paths import SweepPaths
from sweeper.store.serialization import from_bytes, to_bytes
from sweeper.types import AdapterFiles, Checkpoint, CheckpointFile, StudyRecord, TrialRecord, TrialState

__all__ = ["TrialStore"]

T = TypeVar("T")


class TrialStore:
    """One sweep on disk.

    Args:
        root: The sweep's folder; created by the first write.
        sweep: The sweep whose final trainings are here; None if this is a sweep.

    Attributes:
        sweep: Paths of the sweep that the trials belong to, final trainings or not.
    """

    def __init__(self, root: Path, *, sweep: SweepPaths | None = None) -> None:
        self.paths = SweepPaths(root)
        self.root = self.paths.root
        self.sweep = sweep or self.paths

    @property
    def is_final(self) -> bool:
        """Whether these are the final trainings of a sweep."""
        return self.sweep is not self.paths

    @property
    def finals(self) -> TrialStore:
        """What `sweeper train` has trained, in studies of its own."""
        return TrialStore(self.paths.final, sweep=self.sweep)

    def adapter_dir(self, study: str, number: int) -> Path:
        """Return the folder of a complete trial's adapter, in PEFT's format."""
        return self.paths.trial(study, number).adapter

    def rung_adapter_dir(self, study: str, number: int, chunk: int) -> Path:
        """Return the folder of the adapter of a rung, in PEFT's format."""
        return self.paths.trial(study, number).rung_adapter(chunk)

    @property
    def exists(self) -> bool:
        """Whether a sweep has been recorded here."""
        return self.paths.sweep.exists() or self.paths.sweep_backup.exists()

    def write_sweep(self, sweep: Mapping[str, Any]) -> None:
        """Write settings and provenance of the sweep, and the copy."""
        for path in (self.paths.sweep, self.paths.sweep_backup):
            write_atomic(path, to_bytes(sweep))

    def read_sweep(self) -> dict[str, Any]:
        """Return what `write_sweep` wrote.

        Raises:
            DamagedFile: The file and its copy are missing or damaged.
            StoreError: The file is of another schema version.
        """
        remedy = (
            f"To rebuild it, run the sweep again with the same overrides: sweeper run ... name={self.root.name}. They "
            "are compared with the trials first"
        )
        return self._read_either(self.paths.sweep, self.paths.sweep_backup, dict[str, Any], remedy)

    def write_study(self, record: StudyRecord) -> None:
        """Write the record of a study, and its copy."""
        for path in (self.paths.study_record(record.name), self.paths.study_backup(record.name)):
            write_atomic(path, to_bytes(record))

    def read_study(self, study: str) -> StudyRecord:
        """Return the record of a study.

        Raises:
            DamagedFile: The file and its copy are missing or damaged.
            StoreError: The file is of another schema version.
        """
        record, backup = self.paths.study_record(study), self.paths.study_backup(study)
        return self._read_either(record, backup, StudyRecord, self._repair)

    def studies(self) -> list[StudyRecord]:
        """Return all studies, in the order of sweep.json."""
        found = [
            path
            for path in self.paths.studies()
            if self.paths.study_record(path.name).exists() or self.paths.study_backup(path.name).exists()
        ]
        order = self.read_sweep().get("studies", []) if self.exists else []
        index = {name: number for number, name in enumerate(order)}
        found.sort(key=lambda path: (index.get(path.name, len(order)), path.stat().st_ctime_ns, path))
        return [self.read_study(path.name) for path in found]

    def write_confirmation(self, study: str, record: ConfirmationRecord) -> None:
        """Write how far the confirmation of a study is."""
        write_atomic(self.paths.confirmation(study), to_bytes(record))

    def read_confirmation(self, study: str) -> ConfirmationRecord | None:
        """Return how far the confirmation of a study is; None before the end of its search.

        A damaged record counts as none: the next session writes it again.
        """
        try:
            return self._read(self.paths.confirmation(study), ConfirmationRecord)
        except StoreError:
            return None

    def write_trial(self, record: TrialRecord, checkpoint: Checkpoint | None = None) -> None:
        """Write a trial's record and the checkpoint of its last chunk; delete checkpoints and outcomes that it lacks.

        Args:
            record: The trial.
            checkpoint: Safetensors to continue from, or a file in ``incoming`` that has them, which is moved; None if
                there is no new one.
        """
        paths = self.paths.trial(record.spec.study, record.spec.number)
        if isinstance(checkpoint, CheckpointFile):
            target = paths.checkpoint(record.chunks_done)
            make_folder(paths.folder)
            with translate_errors(target):
                os.replace(checkpoint.path, target)
        elif checkpoint is not None:
            # The search would survive the loss of a checkpoint, since the trial continues from the one before. But the
            # kernel may keep unflushed files in memory for 30 s, which both checkpoints of a fast trial are younger
            # than: a power failure would cost the whole trial, not one chunk.
            write_atomic(paths.checkpoint(record.chunks_done), checkpoint, is_name_flushed=False)
        is_rung = bool(record.measurements and record.measurements[-1].outcomes)
        if checkpoint is not None or is_rung or record.state.is_finished:
            make_folder(paths.folder)
            sync_folder(paths.folder)  # the names of checkpoint, row outcomes and adapter, in one flush
        write_atomic(paths.record, to_bytes(record))
        self._drop_checkpoints(record)
        self._drop_outcomes(record)

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

    def read_checkpoint(
        self, study: str, number: int, chunk: int, *, sha256: str = "", file_bytes: float = math.inf
    ) -> Checkpoint | None:
        """Return the checkpoint taken after ``chunk`` chunks, or None if it is missing or damaged.

        Args:
            study: Name of the study.
            number: Number of the trial.
            chunk: Chunks completed.
            sha256: Its expected checksum; not checked if empty.
            file_bytes: Size from which the file is not read: whoever gets it reads it and compares the checksum.
        """
        path = self.paths.trial(study, number).checkpoint(chunk)
        try:
            num_bytes = path.stat().st_size
            if sha256 and num_bytes and num_bytes >= file_bytes:
                return CheckpointFile(path=path, sha256=sha256, num_bytes=num_bytes)
            content = path.read_bytes()
        except OSError:
            return None
        return content if not sha256 or checksum(content) == sha256 else None

    def has_file(self, checkpoint: Checkpoint) -> bool:
        """Whether a worker's file exists and has its size; only who reads it compares the checksum."""
        try:
            return not isinstance(checkpoint, CheckpointFile) or checkpoint.path.stat().st_size == checkpoint.num_bytes
        except OSError:
            return False

    def drop_files(self, sent: Iterable[Checkpoint]) -> None:
        """Remove files of workers that no trial needs, e.g. since it was pruned; those that were moved stay."""
        for checkpoint in sent:
            if isinstance(checkpoint, CheckpointFile):
                with contextlib.suppress(OSError):  # leftovers only take space
                    checkpoint.path.unlink(missing_ok=True)

    def drop_incoming(self, study: str) -> None:
        """Remove what workers have written for a study and no record refers to; none of them may be alive.

        Errors are ignored: leftovers only take space.
        """
        folder = self.paths.incoming(study)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            sync_folder(folder.parent)

    def write_outcomes(self, study: str, number: int, chunk: int, content: bytes) -> str:
        """Write the row outcomes of a rung, before the record that has its score; return their checksum.

        Their name is flushed by `write_trial`, with the checkpoint or the final state of the trial.
        """
        write_atomic(self.paths.trial(study, number).outcomes(chunk), content, is_name_flushed=False)
        return checksum(content)

    def read_outcomes(self, study: str, number: int, chunk: int) -> RowOutcomes | None:
        """Return the row outcomes of the rung after ``chunk`` chunks, or None if they are missing or damaged."""
        return _read_outcomes(self.paths.trial(study, number).outcomes(chunk))

    def write_test_outcomes(self, study: str, number: int, content: bytes) -> None:
        """Write the outcomes of a complete trial's adapter on the test rows."""
        write_atomic(self.paths.trial(study, number).test_outcomes, content)

    def read_test_outcomes(self, study: str, number: int) -> RowOutcomes | None:
        """Return the outcomes on the test rows, or None if they are missing or damaged."""
        return _read_outcomes(self.paths.trial(study, number).test_outcomes)

    def write_adapter(self, study: str, number: int, files: AdapterFiles) -> None:
        """Write the adapter of a trial's last chunk, before the record with the state ``complete``.

        Files in ``incoming`` are moved.
        """
        _write_folder(self.paths.trial(study, number).adapter, files)

    def read_adapter(self, study: str, number: int, *, file_bytes: float = math.inf) -> AdapterFiles:
        """Return what `write_adapter` wrote; empty if the adapter is missing or cannot be read.

        Args:
            study: Name of the study.
            number: Number of the trial.
            file_bytes: Size from which tensors are not held in memory: whoever gets the file reads it.
        """
        try:
            folder = self.adapter_dir(study, number)
            return {path.name: _content(path, file_bytes) for path in sorted(folder.iterdir())}
        except OSError:
            return {}

    def write_rung_adapter(self, study: str, number: int, chunk: int, files: AdapterFiles) -> None:
        """Write the adapter of a rung, before the record that has the score of this rung.

        The adapter of an earlier rung stays, because until then it is the one that the record calls best. Its name is
        flushed by `write_trial`, with the checkpoint of the trial.
        """
        _write_folder(self.paths.trial(study, number).rung_adapter(chunk), files, is_name_flushed=False)

    def adapters(self, study: str) -> set[int]:
        """Return the numbers of the trials that have an adapter."""
        return {paths.number for paths in self.paths.trials(study) if paths.adapter.exists()}

    def drop_adapter(self, study: str, number: int) -> None:
        """Remove a trial's adapter; readers never see a part of it."""
        remove_folder(self.paths.trial(study, number).adapter)

    def drop_rung_adapters(self, study: str, number: int, *, but: int | None) -> None:
        """Remove the adapters of a trial's rungs, except that of one chunk; readers never see a part of them."""
        paths = self.paths.trial(study, number)
        for folder in paths.rung_adapters():
            if but is None or folder != paths.rung_adapter(but):
                remove_folder(folder)

    def tidy_study(self, study: str) -> None:
        """Remove what a kill left: files in ``incoming``, and unfinished ones of trials that were never recorded.

        A folder with other files lacks its record, which is damage: `reconcile` repairs it.
        """
        self.drop_incoming(study)
        for paths in self.paths.trials(study):
            if not paths.record.exists():
                remove_unfinished(paths.folder)

    def tidy(self, record: TrialRecord) -> None:
        """Remove a trial's unfinished files, left by a kill during a write, and files that its record does not list."""
        paths = self.paths.trial(record.spec.study, record.spec.number)
        remove_unfinished(paths.folder)
        self._drop_checkpoints(record)
        self._drop_outcomes(record)

    def useful_checkpoints(self, record: TrialRecord) -> set[Path]:
        """Return the paths of the checkpoints that a trial may continue from, whether they exist or not."""
        chunks = () if record.state.is_finished else record.checkpoints
        paths = self.paths.trial(record.spec.study, record.spec.number)
        return {paths.checkpoint(chunk) for chunk in chunks}

    def rung_outcomes(self, record: TrialRecord) -> dict[Path, str]:
        """Return the checksums of the row outcomes that a trial's record lists, by path."""
        paths = self.paths.trial(record.spec.study, record.spec.number)
        return {paths.outcomes(rung.chunk): rung.outcomes for rung in record.measurements if rung.outcomes}

    def useful_outcomes(self, record: TrialRecord) -> set[Path]:
        """Return the paths of the row outcomes that belong to a trial, whether they exist or not."""
        paths = self.paths.trial(record.spec.study, record.spec.number)
        # Only an adapter of the last chunk is scored on the test rows.
        test = {paths.test_outcomes} if record.state is TrialState.COMPLETE else set()
        return test | self.rung_outcomes(record).keys()

    def _read_either(self, path: Path, backup: Path, kind: type[T], remedy: str = "") -> T:
        """Return a record, or its copy if it is damaged."""
        try:
            return self._read(path, kind, remedy)
        except DamagedFile:
            try:
                return self._read(backup, kind)
            except DamagedFile:
                pass
            raise

    def _read(self, path: Path, kind: type[T], remedy: str = "") -> T:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise DamagedFile(f"{path} does not exist. {remedy}".strip()) from None
        except OSError as error:
            raise DamagedFile(f"{path} cannot be read ({error}). {remedy or self._repair}") from error
        return from_bytes(kind, content, name=str(path), remedy=remedy or self._repair)

    @property
    def _repair(self) -> str:
        return f"To repair it, run: sweeper reconcile {self.sweep.root.name}"

    def _drop_checkpoints(self, record: TrialRecord) -> None:
        _drop(self.paths.trial(record.spec.study, record.spec.number).checkpoints(), self.useful_checkpoints(record))

    def _drop_outcomes(self, record: TrialRecord) -> None:
        _drop(self.paths.trial(record.spec.study, record.spec.number).all_outcomes(), self.useful_outcomes(record))


def _drop(found: Iterable[Path], useful: Container[Path]) -> None:
    """Delete the files that are not useful."""
    for path in found:
        if path not in useful:
            with translate_errors(path):
                path.unlink(missing_ok=True)


def _read_outcomes(path: Path) -> RowOutcomes | None:
    try:
        return RowOutcomes.from_bytes(path.read_bytes())
    except (OSError, StoreError):
        return None


def _content(path: Path, file_bytes: float) -> Checkpoint:
    """Return the content of an adapter's file; large tensors as the file."""
    num_bytes = path.stat().st_size
    if path.suffix == ".safetensors" and num_bytes >= file_bytes:
        return CheckpointFile(path=path, sha256=file_checksum(path), num_bytes=num_bytes)
    return path.read_bytes()


def _write_folder(folder: Path, files: AdapterFiles, *, is_name_flushed: bool = True) -> None:
    with new_folder(folder, is_name_flushed=is_name_flushed) as new:
        for name, content in files.items():
            if isinstance(content, CheckpointFile):
                os.replace(content.path, new / name)
            else:
                (new / name).write_bytes(content)
