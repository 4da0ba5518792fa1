"""Keeps the records of a simulated study in memory, in place of the files of `sweeper.store.trials`."""

from __future__ import annotations

import math
from pathlib import Path

from sweeper.figures.confirmation import ConfirmationRecord
from sweeper.store.trials import TrialStore
from sweeper.types import AdapterFiles, Checkpoint, StudyRecord, TrialRecord

__all__ = ["MemoryStore"]

_NOWHERE = Path("simulated")


class MemoryStore(TrialStore):
    """One study in memory: its records, and the checkpoints that its trials continue from."""

    def __init__(self) -> None:
        super().__init__(_NOWHERE)
        self._trials: dict[int, TrialRecord] = {}
        self._checkpoints: dict[tuple[int, int], Checkpoint] = {}

    def write_study(self, record: StudyRecord) -> None:
        """Do nothing: the caller has the record."""

    def write_confirmation(self, study: str, record: ConfirmationRecord) -> None:
        """Do nothing: nothing is confirmed."""

    def write_trial(self, record: TrialRecord, checkpoint: Checkpoint | None = None) -> None:
        """Keep a trial's record and the checkpoint of its last chunk."""
        self._trials[record.spec.number] = record
        if checkpoint is not None:
            self._checkpoints[record.spec.number, record.chunks_done] = checkpoint

    def trials(self, study: str) -> list[TrialRecord]:  # noqa: ARG002  one study only
        """Return all trials, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    def read_checkpoint(
        self,
        study: str,  # noqa: ARG002  one study only
        number: int,
        chunk: int,
        *,
        sha256: str = "",  # noqa: ARG002
        file_bytes: float = math.inf,  # noqa: ARG002
    ) -> Checkpoint | None:
        """Return the checkpoint taken after ``chunk`` chunks."""
        return self._checkpoints.get((number, chunk))

    def adapters(self, study: str) -> set[int]:  # noqa: ARG002  there are no adapters
        """Return nothing."""
        return set()

    def write_adapter(self, study: str, number: int, files: AdapterFiles) -> None:
        """Do nothing: there are no adapters. The same for all that follows."""

    def drop_adapter(self, study: str, number: int) -> None:
        """Do nothing."""

    def write_rung_adapter(self, study: str, number: int, chunk: int, files: AdapterFiles) -> None:
        """Do nothing."""

    def drop_rung_adapters(self, study: str, number: int, *, but: int | None) -> None:
        """Do nothing."""

    def drop_incoming(self, study: str) -> None:
        """Do nothing: workers write no files."""

    def tidy_study(self, study: str) -> None:
        """Do nothing: there are no files."""

    def tidy(self, record: TrialRecord) -> None:
        """Do nothing: there are no files."""
