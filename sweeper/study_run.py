"""One study under way: which trials run, which wait, what their records say. The controller's bookkeeping.

Every change is written to the store before the search hears of it, and the search before the tracker: after a kill the
store is ahead of both, never behind.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from typing import Protocol

from sweeper.ledger import Clock, utc_now
from sweeper.retention import adapters_to_keep
from sweeper.store import TrialStore
from sweeper.track.base import Tracker
from sweeper.types import (
    Admission,
    ChunkReport,
    Decision,
    Failure,
    ParamValue,
    Phase,
    StudyRecord,
    TrialRecord,
    TrialSpec,
    TrialState,
)

__all__ = ["REFERENCE_NUMBER", "ProposalProtocol", "SearchProtocol", "StudyRun"]

REFERENCE_NUMBER = 9000
"""Number of the first reference trial; trials of the search count from 0."""


class ProposalProtocol(Protocol):
    """A setting to try."""

    @property
    def number(self) -> int:
        """Trial number."""
        ...

    @property
    def params(self) -> Mapping[str, ParamValue]:
        """Values by dotted key."""
        ...

    @property
    def origin(self) -> str:
        """Recipe, design or sampler."""
        ...


class SearchProtocol(Protocol):
    """What proposes settings and stops trials (see `sweeper.search.study.Search`)."""

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing is left to propose."""
        ...

    def ask(self) -> ProposalProtocol:
        """Propose a setting."""
        ...

    def report(self, number: int, *, chunk: int, value: float) -> Decision:
        """Judge a trial at a rung."""
        ...

    def tell(self, number: int, *, state: TrialState, value: float | None = None) -> None:
        """Finish a trial."""
        ...

    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Bring the search in line with the store."""
        ...

    def pending(self) -> Sequence[ProposalProtocol]:
        """Return trials that the search began and the store does not know."""
        ...


class StudyRun:
    """A study that is being run.

    Args:
        record: What its trials share.
        search: Proposes and stops.
        store: Where records go.
        tracker: What is shown.
        fixed: Every ``lora.*`` and ``train.*`` value that trials start from.
        reference: A recipe outside the space to run for comparison, by name and values, if there is one.
        seed: Seed of every trial (common random numbers).
        num_trials: Budget of the search.
        max_retries: Retries of a trial after a cause outside its setting.
        keep_adapters: Best trials whose adapters stay on disk; 0 for all.
        clock: The present time.
    """

    def __init__(
        self,
        record: StudyRecord,
        *,
        search: SearchProtocol,
        store: TrialStore,
        tracker: Tracker,
        fixed: Mapping[str, ParamValue],
        reference: tuple[str, Mapping[str, ParamValue]] | None,
        seed: int,
        num_trials: int,
        max_retries: int,
        keep_adapters: int = 0,
        clock: Clock = utc_now,
    ) -> None:
        self.record = record
        self._search, self._store, self._tracker, self._clock = search, store, tracker, clock
        self._fixed, self._seed = fixed, seed
        self._num_trials, self._max_retries = num_trials, max_retries
        self._num_adapters = keep_adapters
        self._adapters = store.adapters(record.name)
        self.trials: dict[int, TrialRecord] = {}
        self._waiting: deque[int] = deque()
        self._begun_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._reopen(reference)
        self._past_device_s = sum(trial.cost.device_s for trial in self.trials.values())

    def wall_s(self, num_workers: int) -> float:
        """Return the seconds in which the study was under way: those of this session, and an estimate for earlier ones.

        Args:
            num_workers: Workers that earlier sessions are taken to have had.
        """
        if self._begun_at is None:
            return self._past_device_s / num_workers
        is_running = any(not trial.state.is_finished for trial in self.trials.values())
        end = self._clock() if is_running or self._ended_at is None else self._ended_at
        session = (end - self._begun_at).total_seconds()
        return self._past_device_s / num_workers + session

    @property
    def num_asked(self) -> int:
        """Trials of the search that were begun, whatever became of them."""
        return sum(trial.spec.phase is Phase.SEARCH for trial in self.trials.values())

    @property
    def num_to_begin(self) -> int:
        """Trials that the budget still allows to begin."""
        return 0 if self._search.is_exhausted else max(self._num_trials - self.num_asked, 0)

    @property
    def may_ask(self) -> bool:
        """Whether the budget allows another trial."""
        return self.num_to_begin > 0

    @property
    def has_waiting(self) -> bool:
        """Whether a trial that was begun waits for a lane."""
        return bool(self._waiting)

    def admissions(self, num_free: int, *, may_start: bool) -> list[Admission]:
        """Return trials for free lanes: interrupted ones first, then new ones.

        Args:
            num_free: Free lanes.
            may_start: Whether new trials may be begun.
        """
        self._begun_at = self._begun_at or self._clock()
        numbers: list[int] = []
        while len(numbers) < num_free and self._waiting:
            numbers.append(self._waiting.popleft())
        while len(numbers) < num_free and may_start and self.may_ask:
            proposal = self._search.ask()
            self._begin(self._spec(proposal.number, proposal.params, proposal.origin))
            numbers.append(proposal.number)
        return [self._admission(number) for number in numbers]

    def absorb(self, report: ChunkReport) -> tuple[int, ...]:
        """Take in what a chunk brought.

        Returns:
            Numbers of the trials that shall leave the pack.
        """
        for number, failure in report.failures.items():
            self._charge(number, report)
            self.fail(number, failure)
        # By number, whatever the order of the lanes: a resumed pack is ordered otherwise than one that was refilled.
        stopped = [number for number in sorted(report.measurements) if self._measure(number, report)]
        return tuple(stopped)

    def fail(self, number: int, failure: Failure) -> None:
        """Take in a failure: infeasible if the setting is its cause, else try again from the last checkpoint."""
        trial = self.trials[number]
        if failure.kind.is_caused_by_setting:
            self._finish(dataclasses.replace(trial, failure=failure), TrialState.INFEASIBLE)
        elif trial.num_retries < self._max_retries:
            self._write(dataclasses.replace(trial, failure=failure, num_retries=trial.num_retries + 1))
            self._waiting.append(number)
        else:
            self._finish(dataclasses.replace(trial, failure=failure), TrialState.FAILED)

    def show_all(self) -> None:
        """Show every trial again: what the tracker missed in an earlier session, it catches up with now."""
        for trial in self.trials.values():
            self._show(trial)

    def note_references(self, references: Mapping[str, Mapping[str, float]]) -> None:
        """Record scores of what is not a trial."""
        if references:
            self.record = dataclasses.replace(self.record, references={**self.record.references, **references})
            self._store.write_study(self.record)

    def _reopen(self, reference: tuple[str, Mapping[str, ParamValue]] | None) -> None:
        for trial in self._store.trials(self.record.name):
            self._store.tidy(trial)
            self.trials[trial.spec.number] = trial
        keep = adapters_to_keep(self.record, self.trials.values(), self._num_adapters)
        self._drop_adapters(keep)
        self._search.sync(list(self.trials.values()), self.record.value)
        self._waiting.extend(n for n, trial in self.trials.items() if not trial.state.is_finished)
        for proposal in self._search.pending():
            self._begin(self._spec(proposal.number, proposal.params, proposal.origin))
            self._waiting.append(proposal.number)
        if reference is not None and REFERENCE_NUMBER not in self.trials:
            name, params = reference
            spec = self._spec(REFERENCE_NUMBER, params, f"recipe:{name}")
            self._begin(dataclasses.replace(spec, phase=Phase.REFERENCE))
            self._waiting.append(REFERENCE_NUMBER)

    def _spec(self, number: int, params: Mapping[str, ParamValue], origin: str) -> TrialSpec:
        return TrialSpec(
            study=self.record.name,
            number=number,
            params=params,
            settings={**self._fixed, **params},
            seed=self._seed,
            origin=origin,
        )

    def _begin(self, spec: TrialSpec) -> None:
        self._write(TrialRecord(spec=spec, started_at=self._now()))

    def _admission(self, number: int) -> Admission:
        trial = self.trials[number]
        chunks = trial.chunks_done
        checkpoint = self._store.read_checkpoint(self.record.name, number, chunks) if chunks else None
        if chunks and checkpoint is None:
            trial = dataclasses.replace(trial, measurements=())
            self._write(trial)
        return Admission(spec=trial.spec, chunks_done=trial.chunks_done, checkpoint=checkpoint)

    def _charge(self, number: int, report: ChunkReport) -> None:
        trial = self.trials[number]
        details = report.details.get(number, {})
        cost = trial.cost + report.costs[number] if number in report.costs else trial.cost
        self.trials[number] = dataclasses.replace(trial, cost=cost, **details)

    def _measure(self, number: int, report: ChunkReport) -> bool:
        """Record a trial's measurement; return whether it shall leave the pack."""
        self._charge(number, report)
        trial = self.trials[number]
        measurement = dataclasses.replace(report.measurements[number], elapsed_s=trial.cost.device_s)
        trial = dataclasses.replace(trial, measurements=(*trial.measurements, measurement))
        if measurement.chunk >= self.record.num_chunks:
            self._keep_adapter(trial, report.adapters[number])
            self._finish(trial, TrialState.COMPLETE)
            return False
        self._write(trial, report.checkpoints[number])
        if self._is_stopped(trial):
            self._finish(trial, TrialState.PRUNED)
            return True
        return False

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

    def _is_stopped(self, trial: TrialRecord) -> bool:
        rung = trial.measurements[-1]
        if not rung.is_rung or trial.spec.phase is not Phase.SEARCH:
            return False
        value = rung.metrics[self.record.metric]
        return self._search.report(trial.spec.number, chunk=rung.chunk, value=value) is Decision.STOP

    def _finish(self, trial: TrialRecord, state: TrialState) -> None:
        self._ended_at = self._clock()
        trial = dataclasses.replace(trial, state=state, finished_at=self._now())
        self._write(trial)
        if trial.spec.phase is not Phase.SEARCH:
            return
        value = self.record.value(trial)
        if state is TrialState.COMPLETE and value is not None:
            self._search.report(trial.spec.number, chunk=trial.chunks_done, value=value)
        self._search.tell(trial.spec.number, state=state, value=value)

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
        return self._clock().isoformat(timespec="seconds")
