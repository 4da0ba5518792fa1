"""Plans the repair of the trials in a sweep's folder: which damaged files are moved aside, and what replaces them.

A finished trial whose record can be read is never changed back: it keeps its scores. Its record and adapter are
restored from MLflow's copies. Without a copy, an adapter stays missing unless the user asks for a new training
(`retraining`), and a record that cannot be read any more is replaced by a new trial with the configuration that Optuna
has: the same spec gives the same losses. All that is replaced is kept in ``damaged/``.

`reconcile` prints the plan, or carries it out while it holds the sweep's lock.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from sweeper.clock import timestamp
from sweeper.control.resume import latest_intact
from sweeper.errors import StoreError
from sweeper.store.damage import Damage, DamageKind, copy_aside, has_checksum, is_adapter_intact, set_aside
from sweeper.store.paths import TRIAL_FILE
from sweeper.store.serialization import from_bytes
from sweeper.store.trials import TrialStore
from sweeper.track.base import TrackerAudit
from sweeper.types import Phase, TrialRecord, TrialState, TrialTemplate, ViewedTrial

__all__ = ["Repair", "Retrain", "TrialRepair"]


class Retrain(Protocol):
    """Trains a trial again for what it has lost, without changing its scores."""

    def __call__(self, number: int) -> str:
        """Train a trial again; return what came of it, to print."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Repair:
    """The repair of one damage."""

    what: str
    """What will be done, to print."""
    carry_out: Callable[[], str | None]
    """Does it; returns what was done if that is known only then."""

    def run(self) -> str:
        """Carry it out; return what was done, to print."""
        return self.carry_out() or self.what


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrialRepair:
    """Plans the repairs of one study's trials.

    Attributes:
        store: The sweep, or its final trainings.
        study: Name of the study.
        template: Makes the specs of its trials.
        searched: Trials in Optuna, by number.
        runs: Trials in MLflow, by number.
        copies: Reads MLflow's copies; None without a tracker.
        retrain: Trains complete trials again that have lost what only training gives back; None to leave them so.
        stamp: Name of the folder under ``damaged``.
    """

    store: TrialStore
    study: str
    template: TrialTemplate
    searched: Mapping[int, ViewedTrial]
    runs: Mapping[int, ViewedTrial]
    copies: TrackerAudit | None
    retrain: Retrain | None
    stamp: str

    def plan(self, damage: Damage) -> Repair:
        """Return the repair of a damaged file.

        Raises:
            TrackerError: MLflow's copies cannot be reached.
        """
        number, path = damage.number, damage.path
        match damage.kind:
            case DamageKind.RECORD if number is not None:
                return self.plan_recovery(number)
            case DamageKind.ADAPTER if number is not None:
                return self._plan_adapter(number)
            case DamageKind.CHECKPOINT if number is not None:
                return self._plan_checkpoint(number, path)
            case DamageKind.OUTCOMES if number is not None:
                return self._plan_outcomes(number, path)
            case _:
                return Repair(f"moved to damaged/{self.stamp}", lambda: self._set_aside(path))

    def plan_recovery(self, number: int) -> Repair:
        """Return the repair of a trial whose record is damaged or missing.

        Raises:
            TrackerError: MLflow's copies cannot be reached.
        """
        copy = self._copy_of(number)
        if copy is not None:
            return self._plan_copy(copy)
        folder = self.store.paths.trial(self.study, number).folder
        known = self.searched.get(number)
        if known is None or not known.params:
            then = "`sweeper train` trains it again" if self.store.is_final else "a new trial will replace it"
            what = f"moved to damaged/{self.stamp}; its configuration is lost, so {then}"
            return Repair(what, lambda: self._set_aside_with_confirmation(folder))
        spec = self.template.spec(number, known.params, known.origin)

        def restart() -> None:
            self._set_aside(folder)
            self.store.write_trial(TrialRecord(spec=spec, started_at=timestamp()))

        return Repair("restarted with the same configuration: there is no copy", restart)

    def _plan_copy(self, copy: TrialRecord) -> Repair:
        """Return the repair of a record of which there is a copy, and of the adapter that belongs to it."""
        number = copy.spec.number
        folder = self.store.adapter_dir(self.study, number)
        is_lost = copy.state is TrialState.COMPLETE and not is_adapter_intact(folder)
        files = self._adapter_copy(number) if is_lost else {}

        def restore() -> None:
            self._set_aside(self.store.paths.trial(self.study, number).record)
            if is_lost:
                self._set_aside(folder)
            if files:
                self.store.write_adapter(self.study, number, files)
            self.store.write_trial(self._without_lost_outcomes(copy))

        return Repair("restored from MLflow's copy", restore)

    def _plan_adapter(self, number: int) -> Repair:
        folder = self.store.adapter_dir(self.study, number)
        files = self._adapter_copy(number)
        if files:

            def restore() -> None:
                self._set_aside(folder)
                self.store.write_adapter(self.study, number, files)

            return Repair("restored from MLflow's copy", restore)
        if (retrain := self.retrain) is not None:
            return Repair("trained again", lambda: retrain(number))
        # It is only moved: a damaged adapter must not be taken for one that can be used.
        return Repair("not restored: there is no copy. The trial keeps its scores", lambda: self._set_aside(folder))

    def _plan_checkpoint(self, number: int, path: Path) -> Repair:
        """Return the repair of a checkpoint, which only unfinished trials have."""
        record, paths = self.store.read_trial(self.study, number), self.store.paths.trial(self.study, number)
        others = {paths.checkpoint(chunk): (chunk, digest) for chunk, digest in record.checkpoints.items()}
        intact = [chunk for other, (chunk, digest) in others.items() if other != path and has_checksum(other, digest)]
        chunks_done = max(intact, default=0)

        def rewind() -> None:
            self._set_aside(path)
            record = self.store.read_trial(self.study, number)
            rewound, _ = latest_intact(self.store, record)
            if rewound is not record:
                self._rewrite(rewound)

        if not chunks_done:
            return Repair("restarted with the same configuration", rewind)
        return Repair(f"continues after chunk {chunks_done}", rewind)

    def _plan_outcomes(self, number: int, path: Path) -> Repair:
        record = self.store.read_trial(self.study, number)
        if path == self.store.paths.trial(self.study, number).test_outcomes:
            return self._plan_test_outcomes(path)
        is_confirmation = record.spec.phase is Phase.CONFIRMATION
        if is_confirmation and record.state is TrialState.COMPLETE and (retrain := self.retrain) is not None:
            return Repair("trained again", lambda: retrain(number))

        def forget() -> None:
            self._set_aside(path)
            now = self.store.read_trial(self.study, number)
            if (left := self._without_lost_outcomes(now)) != now:
                self._rewrite(left)

        if is_confirmation:
            return Repair("the trial keeps its scores, but candidates are compared without its seed", forget)
        return Repair("the trial keeps its scores, but not the outcomes of these rows", forget)

    def _plan_test_outcomes(self, path: Path) -> Repair:
        when = "the next `sweeper train` of it" if self.store.is_final else "the next session"
        what = f"{when} scores the adapter on the test rows again"
        return Repair(what, lambda: self._set_aside_with_confirmation(path))

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

    def _adapter_copy(self, number: int) -> Mapping[str, bytes]:
        """Return the files of MLflow's copy of a trial's adapter; empty unless it is intact."""
        run = self.runs.get(number)
        files = self.copies.kept_adapter(run) if self.copies is not None and run is not None else {}
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            return files if is_adapter_intact(Path(folder)) else {}

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

    def _rewrite(self, record: TrialRecord) -> None:
        """Replace a record that can be read, and keep the old one."""
        copy_aside(self.store, self.store.paths.trial(self.study, record.spec.number).record, self.stamp)
        self.store.write_trial(record)

    def _set_aside_with_confirmation(self, path: Path) -> None:
        """Move a file or folder aside that a confirmation needs, so that the next session continues it."""
        self._set_aside(self.store.paths.confirmation(self.study))  # first, in case of a kill in between
        self._set_aside(path)

    def _set_aside(self, path: Path) -> None:
        if path.exists():
            set_aside(self.store, path, self.stamp)
