"""Repairs the trials in a sweep's folder: moves damaged files aside and rebuilds them from the views.

A finished trial is restored from MLflow's copy of its record and adapter. Without a copy, it is restarted with its
number and configuration from Optuna: the same spec gives the same losses. `reconcile` calls this while it holds the
sweep's lock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from sweeper.clock import timestamp
from sweeper.control.resume import latest_intact
from sweeper.errors import StoreError
from sweeper.store.damage import Damage, DamageKind, has_checksum, is_adapter_intact, set_aside
from sweeper.store.paths import TRIAL_FILE
from sweeper.store.serialization import from_bytes
from sweeper.store.trials import TrialStore
from sweeper.track.base import TrackerAudit
from sweeper.types import TrialRecord, TrialState, TrialTemplate, ViewedTrial

__all__ = ["TrialRepair"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrialRepair:
    """Repairs the trials of one study.

    Attributes:
        store: The sweep.
        study: Name of the study.
        template: Makes the specs of its trials.
        searched: Trials in Optuna, by number.
        runs: Trials in MLflow, by number.
        copies: Reads MLflow's copies; None without a tracker.
        stamp: Name of the folder under ``damaged``.
    """

    store: TrialStore
    study: str
    template: TrialTemplate
    searched: Mapping[int, ViewedTrial]
    runs: Mapping[int, ViewedTrial]
    copies: TrackerAudit | None
    stamp: str

    def repair(self, damage: Damage) -> str:
        """Repair one damaged file; return what was done, to print."""
        number = damage.number
        match damage.kind:
            case DamageKind.RECORD if number is not None:
                return self.recover(number)
            case DamageKind.ADAPTER if number is not None:
                record = self.store.read_trial(self.study, number)
                if self._restore_adapter(record):
                    return "restored from MLflow's copy"
                self._set_aside(damage.path)
                return self._restart(record)
            case DamageKind.CHECKPOINT if number is not None:
                self._set_aside(damage.path)
                return self._rewind(number)
            case DamageKind.OUTCOMES if number is not None:
                self._set_aside(damage.path)
                record = self.store.read_trial(self.study, number)
                self.store.write_trial(self._without_lost_outcomes(record))
                return "the trial keeps its scores, but not the outcomes of these rows"
            case _:
                self._set_aside(damage.path)
                return f"moved to damaged/{self.stamp}"

    def recover(self, number: int) -> str:
        """Rebuild a trial whose record is damaged or missing; return what was done, to print."""
        paths = self.store.paths.trial(self.study, number)
        self._set_aside(paths.record)
        copy = self._copy_of(number)
        if copy is not None and self._restore_adapter(copy):
            self.store.write_trial(self._without_lost_outcomes(copy))
            return "restored from MLflow's copy"
        self._set_aside(paths.folder)
        known = self.searched.get(number)
        if known is None or not known.params:
            return f"moved to damaged/{self.stamp}; its configuration is lost, so a new trial will replace it"
        spec = self.template.spec(number, known.params, known.origin)
        return self._restart(TrialRecord(spec=spec, started_at=timestamp()))

    def _copy_of(self, number: int) -> TrialRecord | None:
        """Return MLflow's copy of a trial's record; None unless it is intact, of this trial, and finished."""
        run = self.runs.get(number)
        content = self.copies.kept_record(run) if self.copies is not None and run is not None else None
        if not content:
            return None
        try:
            record = from_bytes(TrialRecord, content, name=TRIAL_FILE)
        except StoreError:
            return None
        is_same = (record.spec.study, record.spec.number) == (self.study, number)
        return record if is_same and record.state.is_finished else None

    def _restore_adapter(self, record: TrialRecord) -> bool:
        """Restore a complete trial's adapter from MLflow if it is damaged; return whether it is intact now."""
        folder = self.store.adapter_dir(self.study, record.spec.number)
        if record.state is not TrialState.COMPLETE or is_adapter_intact(folder):
            return True
        self._set_aside(folder)
        run = self.runs.get(record.spec.number)
        files = self.copies.kept_adapter(run) if self.copies is not None and run is not None else {}
        if files:
            self.store.write_adapter(self.study, record.spec.number, files)
        return is_adapter_intact(folder)

    def _without_lost_outcomes(self, record: TrialRecord) -> TrialRecord:
        """Return a record that lists only intact row outcomes; move the others aside."""
        listed = self.store.rung_outcomes(record)
        lost = {path for path, digest in listed.items() if not has_checksum(path, digest)}
        for path in lost:
            self._set_aside(path)
        paths = self.store.paths.trial(self.study, record.spec.number)
        measurements = tuple(
            dataclasses.replace(each, outcomes="") if paths.outcomes(each.chunk) in lost else each
            for each in record.measurements
        )
        return dataclasses.replace(record, measurements=measurements)

    def _rewind(self, number: int) -> str:
        record, checkpoint = latest_intact(self.store, self.store.read_trial(self.study, number))
        if checkpoint is None:
            return self._restart(record)
        self.store.write_trial(record)
        return f"continues after chunk {record.chunks_done}"

    def _restart(self, record: TrialRecord) -> str:
        restarted = dataclasses.replace(
            record, state=TrialState.RUNNING, measurements=(), checkpoints={}, finished_at="", failure=None
        )
        self.store.write_trial(restarted)
        return "restarted with the same configuration"

    def _set_aside(self, path: Path) -> None:
        if path.exists():
            set_aside(self.store, path, self.stamp)
