"""Mends the folder of a sweep: what is damaged goes aside, and is rebuilt from what the views still have.

A finished trial comes back from MLflow's copy of its record and adapter. Without one it is begun anew, with the setting
and the number that Optuna knows: the same spec gives the same losses. `reconcile` calls this, holding the sweep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sweeper.control.resume import latest_sound
from sweeper.errors import StoreError
from sweeper.store.damage import Damage, DamageKind, is_adapter_whole, set_aside
from sweeper.store.trials import TrialStore, trial_from_bytes
from sweeper.track.base import TrackerAudit
from sweeper.types import TrialRecord, TrialState, TrialTemplate, ViewedTrial

__all__ = ["TrialRepair"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrialRepair:
    """Mends the trials of one study.

    Attributes:
        template: What the study's trials have in common.
        searched: Trials as the search's database has them, by number.
        runs: Trials as the tracker has them, by number.
        copies: The tracker's copies; None without a tracker.
        stamp: Folder under ``damaged``.
    """

    store: TrialStore
    study: str
    template: TrialTemplate
    searched: Mapping[int, ViewedTrial]
    runs: Mapping[int, ViewedTrial]
    copies: TrackerAudit | None
    stamp: str

    def mend(self, damage: Damage) -> str:
        """Repair one damage; return what was done."""
        number = damage.number
        match damage.kind:
            case DamageKind.RECORD if number is not None:
                return self.recover(number)
            case DamageKind.ADAPTER if number is not None:
                return self._mend_adapter(number)
            case DamageKind.CHECKPOINT if number is not None:
                self._aside(damage.path)
                return self._go_back(number)
            case _:
                self._aside(damage.path)
                return "moved aside"

    def recover(self, number: int) -> str:
        """Rebuild a trial whose record cannot be read, or is gone; return what was done."""
        folder = self.store.trial_dir(self.study, number)
        self._aside(folder / "trial.json")
        copy = self._copy_of(number)
        if copy is not None and self._has_adapter(copy):
            self.store.write_trial(copy)
            return "rebuilt from MLflow's copy"
        self._aside(folder)
        known = self.searched.get(number)
        if known is None or not known.params:
            return "moved aside; its setting is lost with it, so another trial takes its place"
        spec = self.template.spec(number, known.params, known.origin)
        return self._restart(TrialRecord(spec=spec, started_at=datetime.now(UTC).isoformat(timespec="seconds")))

    def _copy_of(self, number: int) -> TrialRecord | None:
        """Return the tracker's copy of a finished trial, if it is one of this trial."""
        run = self.runs.get(number)
        content = self.copies.kept_record(run) if self.copies is not None and run is not None else None
        try:
            record = trial_from_bytes(content) if content else None
        except StoreError:
            return None
        is_same = record is not None and (record.spec.study, record.spec.number) == (self.study, number)
        return record if record is not None and is_same and record.state.is_finished else None

    def _has_adapter(self, record: TrialRecord) -> bool:
        """Whether a trial that is to come back has the adapter it should have; fetches it from the tracker."""
        folder = self.store.adapter_dir(self.study, record.spec.number)
        if record.state is not TrialState.COMPLETE or is_adapter_whole(folder):
            return True
        self._aside(folder)
        run = self.runs.get(record.spec.number)
        files = self.copies.kept_adapter(run) if self.copies is not None and run is not None else {}
        if files:
            self.store.write_adapter(self.study, record.spec.number, files)
        return is_adapter_whole(folder)

    def _mend_adapter(self, number: int) -> str:
        record = self.store.read_trial(self.study, number)
        if self._has_adapter(record):
            return "fetched from MLflow's copy"
        self._aside(self.store.adapter_dir(self.study, number))
        return self._restart(record)

    def _go_back(self, number: int) -> str:
        """Let a trial go on from the checkpoint that is left, if there is one."""
        trial, checkpoint = latest_sound(self.store, self.store.read_trial(self.study, number))
        if checkpoint is None:
            return self._restart(trial)
        self.store.write_trial(trial)
        return f"goes on after chunk {trial.chunks_done}"

    def _restart(self, record: TrialRecord) -> str:
        again = dataclasses.replace(
            record, state=TrialState.RUNNING, measurements=(), checkpoints={}, finished_at="", failure=None
        )
        self.store.write_trial(again)
        return "begun anew, with the same setting"

    def _aside(self, path: Path) -> None:
        if path.exists():
            set_aside(self.store, path, self.stamp)
