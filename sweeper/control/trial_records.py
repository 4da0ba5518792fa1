"""The records of a study's trials: written to the store first, then shown. The base of `study_run`, which decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Set

from sweeper.clock import Clock
from sweeper.store.retention import adapters_to_keep
from sweeper.store.trials import TrialStore
from sweeper.track.base import Tracker
from sweeper.types import ChunkReport, Cost, Failure, Phase, StudyRecord, TrialRecord, TrialSpec, TrialState

__all__ = ["TrialRecords"]


class TrialRecords:
    """Keeps records.

    Args:
        record: What the trials share.
        store: Where records go.
        tracker: What is shown.
        clock: The present time.
        keep_adapters: Best trials whose adapters stay on disk; 0 for all.
    """

    def __init__(
        self, record: StudyRecord, *, store: TrialStore, tracker: Tracker, clock: Clock, keep_adapters: int
    ) -> None:
        self.record = record
        self._store, self._tracker, self._clock = store, tracker, clock
        self.trials: dict[int, TrialRecord] = {}
        self._num_adapters = keep_adapters
        self._adapters = store.adapters(record.name)

    @property
    def num_asked(self) -> int:
        """Trials of the search that were begun, whatever became of them."""
        return sum(trial.spec.phase is Phase.SEARCH for trial in self.trials.values())

    def show_all(self) -> None:
        """Show every trial again: what the tracker missed in an earlier session, it catches up with now."""
        for trial in self.trials.values():
            self._show(trial)

    def note_references(self, references: Mapping[str, Mapping[str, float]]) -> None:
        """Record scores of what is not a trial."""
        if references:
            self.record = dataclasses.replace(self.record, references={**self.record.references, **references})
            self._store.write_study(self.record)

    def charge_lost(self, numbers: Collection[int], elapsed_s: float, failure: Failure | None = None) -> None:
        """Charge trials for a chunk that brought nothing, and note why."""
        for number in sorted(numbers):
            trial = self.trials[number]
            cost = trial.cost + Cost(device_s=elapsed_s / len(numbers))
            self._write(dataclasses.replace(trial, cost=cost, failure=failure or trial.failure))

    def refund_retry(self, number: int) -> None:
        """Give a retry back to a trial whose device turned out to be broken."""
        trial = self.trials[number]
        if not trial.state.is_finished and trial.num_retries:
            self._write(dataclasses.replace(trial, num_retries=trial.num_retries - 1))

    def _load(self) -> None:
        """Read what is on disk, and tidy it up."""
        for trial in self._store.trials(self.record.name):
            self._store.tidy(trial)
            self.trials[trial.spec.number] = trial
        self._drop_adapters(adapters_to_keep(self.record, self.trials.values(), self._num_adapters))

    def _keep_adapter(self, trial: TrialRecord, files: Mapping[str, bytes]) -> None:
        """Write the adapter of a trial that is about to be complete, and drop the one whose place it takes."""
        number = trial.spec.number
        complete = {**self.trials, number: dataclasses.replace(trial, state=TrialState.COMPLETE)}
        keep = adapters_to_keep(self.record, complete.values(), self._num_adapters)
        if number in keep:
            self._store.write_adapter(self.record.name, number, files)
            self._adapters.add(number)
        self._drop_adapters(keep)

    def _drop_adapters(self, keep: Set[int]) -> None:
        for number in self._adapters - keep:
            self._store.drop_adapter(self.record.name, number)
        self._adapters &= keep

    def _begin(self, spec: TrialSpec) -> None:
        self._write(TrialRecord(spec=spec, started_at=self._now()))

    def _charge(self, number: int, report: ChunkReport) -> None:
        trial = self.trials[number]
        details = report.details.get(number, {})
        cost = trial.cost + report.costs[number] if number in report.costs else trial.cost
        self.trials[number] = dataclasses.replace(trial, cost=cost, **details)

    def _write(self, trial: TrialRecord, checkpoint: bytes | None = None) -> None:
        self.trials[trial.spec.number] = trial
        self._store.write_trial(trial, checkpoint)
        self._show(trial)

    def _show(self, trial: TrialRecord) -> None:
        folder = self._store.trial_dir(self.record.name, trial.spec.number)
        whole = self._store.root / "sweep.json"
        files = [folder / "trial.json", whole, folder / "adapter"] if trial.state.is_finished else []
        self._tracker.show(self.record, trial, [path for path in files if path.exists()])

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")
