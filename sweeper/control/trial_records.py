"""The records of a study's trials: written to the store first, then sent to the tracker. `study_run` owns one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping

from sweeper.clock import Clock, timestamp, utc_now
from sweeper.figures.tally import TrialTally
from sweeper.store.retention import adapters_to_keep, rung_adapter_to_keep
from sweeper.store.trials import TrialStore
from sweeper.track.base import Tracker
from sweeper.types import (
    AdapterFiles,
    Checkpoint,
    ChunkReport,
    Cost,
    Failure,
    StudyRecord,
    TrialRecord,
    TrialSpec,
    TrialState,
)

__all__ = ["TrialRecords"]

log = logging.getLogger(__name__)


class TrialRecords:
    """Reads the records of a study and makes every change to them. Also removes unfinished files that a kill left.

    Args:
        study: The record of the study.
        store: Where records are written.
        tracker: Where they are shown.
        keep_adapters: ``store.keep_adapters``: number of best trials whose adapters are kept; 0 for all.
        clock: The present time.
    """

    def __init__(
        self,
        study: StudyRecord,
        *,
        store: TrialStore,
        tracker: Tracker,
        keep_adapters: int = 0,
        clock: Clock = utc_now,
    ) -> None:
        self.study, self.store = study, store
        self.clock = clock
        self.trials: dict[int, TrialRecord] = {}
        """By number."""
        self.tally = TrialTally(study)
        self._tracker, self._num_adapters = tracker, keep_adapters
        self._adapters = store.adapters(study.name)
        store.tidy_study(study.name)
        for trial in store.trials(study.name):
            store.tidy(trial)
            self._set(trial)
        self._kept = adapters_to_keep(study, self.trials.values(), keep_adapters)
        self._drop_adapters()
        for trial in self.trials.values():
            self._drop_rung_adapters(trial)

    def start(self, spec: TrialSpec, notes: Mapping[str, object] | None = None) -> None:
        """Record a trial that is about to train for the first time.

        Args:
            spec: The trial.
            notes: What the search must know about its proposal to make later ones.
        """
        trial = TrialRecord(spec=spec, started_at=timestamp(self.clock), notes=notes or {})
        self._set(trial)  # the search knows it, whether the disk allows to write it or not
        self.write(trial)

    def received(self, number: int, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Return the checkpoint that a worker sent of a trial; None if it is a file that is not there."""
        if checkpoint is not None and not self.store.has_file(checkpoint):
            log.warning(
                "%s, trial %d: %s is not there, so it has no new checkpoint", self.study.name, number, checkpoint
            )
            return None
        return checkpoint

    def missing(self, files: AdapterFiles) -> str:
        """Return the name of a file of an adapter that a worker has written and that is not there; empty if none is."""
        return next((name for name, content in files.items() if not self.store.has_file(content)), "")

    def write(self, trial: TrialRecord, checkpoint: Checkpoint | None = None) -> None:
        """Write a trial to the store and show it.

        Args:
            trial: The trial.
            checkpoint: The checkpoint of its last chunk; None if there is no new one.
        """
        # In this order: if the disk fails, a later record of the trial must not list a checkpoint that was not written.
        self.store.write_trial(trial, checkpoint)
        self._set(trial)
        self._drop_rung_adapters(trial)
        self._show(trial)

    def finish(self, trial: TrialRecord, state: TrialState) -> TrialRecord:
        """Record the final state of a trial; return the record."""
        # A clock that was set back must not end a trial before its start: its time would be negative.
        at = max(timestamp(self.clock), trial.started_at)
        finished = dataclasses.replace(trial, state=state, finished_at=at, checkpoints={})
        self.write(finished)
        if self._num_adapters:  # only now: until then, the adapters that this trial displaces are among the best
            self._drop_adapters()
        return finished

    def show_all(self) -> None:
        """Show every trial again, so that the tracker catches up on what it missed in earlier sessions."""
        for trial in self.trials.values():
            self._show(trial)

    def record_references(self, references: Mapping[str, Mapping[str, float]]) -> None:
        """Record the metrics of baselines that are not trials, by name, e.g. ``frozen_probe``."""
        if references:
            self.study = dataclasses.replace(self.study, references={**self.study.references, **references})
            self.store.write_study(self.study)

    def charge(self, number: int, report: ChunkReport) -> TrialRecord:
        """Add a chunk's cost and the worker's details to a trial; the caller writes it."""
        trial = self.trials[number]
        details = report.details.get(number, {})
        cost = trial.cost + report.costs[number] if number in report.costs else trial.cost
        self._set(dataclasses.replace(trial, cost=cost, **details))
        return self.trials[number]

    def charge_lost(self, numbers: Collection[int], elapsed_s: float, failure: Failure | None = None) -> None:
        """Charge trials for a lost chunk, in equal shares, and record the failure if one is given."""
        for number in sorted(numbers):
            trial = self.trials[number]
            cost = trial.cost + Cost(device_s=elapsed_s / len(numbers))
            self.write(dataclasses.replace(trial, cost=cost, failure=failure or trial.failure))

    def refund_retry(self, number: int) -> None:
        """Give back a retry to a trial that failed on a device that turned out to be broken."""
        trial = self.trials[number]
        if not trial.state.is_finished and trial.num_retries:
            self.write(dataclasses.replace(trial, num_retries=trial.num_retries - 1))

    def keep_adapter(self, trial: TrialRecord, files: AdapterFiles) -> None:
        """Write the adapter of a trial that is about to be complete if it is kept; `finish` deletes displaced ones."""
        number = trial.spec.number
        if self._num_adapters:
            # A trial's rank never rises, so only this one and those that are kept so far can be among the best.
            complete = dataclasses.replace(trial, state=TrialState.COMPLETE)
            candidates = [*(self.trials[kept] for kept in self._kept), complete]
            self._kept = adapters_to_keep(self.study, candidates, self._num_adapters)
        else:
            self._kept.add(number)
        if number in self._kept:
            self.store.write_adapter(self.study.name, number, files)
            self._adapters.add(number)

    def keep_rung_adapter(self, trial: TrialRecord, files: AdapterFiles) -> None:
        """Write the adapter of the rung that a running trial has just reached, if it is its best rung so far.

        The caller writes the record afterwards, so a record's best rung has an adapter, unless the worker's file is
        gone: nothing depends on it.
        """
        chunk, number = trial.chunks_done, trial.spec.number
        if rung_adapter_to_keep(self.study, trial, keeps_adapter=True) != chunk:
            return
        if missing := self.missing(files):
            log.warning("%s, trial %d: %s is not there, so this rung has no adapter", self.study.name, number, missing)
        else:
            self.store.write_rung_adapter(self.study.name, number, chunk, files)

    def keep_outcomes(self, number: int, chunk: int, content: bytes | None) -> str:
        """Write the row outcomes of the rung that a trial has just reached; return their checksum, for the record.

        The caller writes the record afterwards, so a record's rung always has its outcomes.

        Args:
            number: The trial.
            chunk: Chunks completed.
            content: The outcomes as safetensors; None if the trial was not scored.
        """
        return "" if content is None else self.store.write_outcomes(self.study.name, number, chunk, content)

    def _set(self, trial: TrialRecord) -> None:
        self.trials[trial.spec.number] = trial
        self.tally.put(trial)

    def _drop_adapters(self) -> None:
        dropped, self._adapters = self._adapters - self._kept, self._adapters & self._kept
        for number in dropped:
            self.store.drop_adapter(self.study.name, number)
        for number in dropped & self.trials.keys():
            self._drop_rung_adapters(self.trials[number])

    def _drop_rung_adapters(self, trial: TrialRecord) -> None:
        number = trial.spec.number
        kept = rung_adapter_to_keep(self.study, trial, keeps_adapter=number in self._adapters)
        self.store.drop_rung_adapters(self.study.name, number, but=kept)

    def _show(self, trial: TrialRecord) -> None:
        paths = self.store.paths.trial(self.study.name, trial.spec.number)
        files = [paths.record, self.store.paths.sweep, paths.adapter] if trial.state.is_finished else []
        self._tracker.show(self.study, trial, [path for path in files if path.exists()])
