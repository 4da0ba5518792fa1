"""One study under way: which trials run, which wait, what their records say. The controller's bookkeeping.

Every change is written to the store before the search hears of it, and the search before the tracker: after a kill the
store is ahead of both, never behind. What failures lead to says `sweeper.failures.POLICIES`.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping

from sweeper.clock import Clock, utc_now
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.values import ParamValue
from sweeper.control.early_abort import abort_reason
from sweeper.control.resume import after_failure, latest_sound, with_checkpoint
from sweeper.control.search_client import SearchClient
from sweeper.control.trial_queue import TrialQueue
from sweeper.control.trial_records import TrialRecords
from sweeper.errors import DiskFull, SweeperError
from sweeper.failures import POLICIES, Action, retry_wait_s
from sweeper.figures.recipes import recipe_origin
from sweeper.search.base import SearchProtocol
from sweeper.store.trials import TrialStore
from sweeper.track.base import Tracker
from sweeper.types import (
    Admission,
    ChunkReport,
    Decision,
    Failure,
    Phase,
    StudyRecord,
    TrialRecord,
    TrialSpec,
    TrialState,
)

__all__ = ["REFERENCE_NUMBER", "StudyRun"]

log = logging.getLogger(__name__)

REFERENCE_NUMBER = 9000
"""Number of the first reference trial; trials of the search count from 0."""


class StudyRun(TrialRecords):
    """A study that is being run.

    Args:
        record: What its trials share.
        search: Proposes and stops.
        store: Where records go.
        tracker: What is shown.
        defaults: What trials start from: the hyperparameters that do not vary.
        reference: A recipe outside the space to run for comparison, by name and values, if there is one.
        seed: Seed of every trial (common random numbers).
        num_trials: Budget of the search.
        max_retries: Retries of a trial after a cause outside its setting.
        retry_s: Seconds before the first retry, longer before further ones (`failures.retry_wait_s`).
        abort_after_failures: Finished trials after which a study in which all failed is given up; 0 for never.
        keep_adapters: Best trials whose adapters stay on disk; 0 for all.
        clock: The present time.
        timer: Seconds that only grow.
    """

    def __init__(
        self,
        record: StudyRecord,
        *,
        search: SearchProtocol,
        store: TrialStore,
        tracker: Tracker,
        defaults: Hyperparameters,
        reference: tuple[str, Mapping[str, ParamValue]] | None,
        seed: int,
        num_trials: int,
        max_retries: int,
        retry_s: float = 0.0,
        abort_after_failures: int = 0,
        keep_adapters: int = 0,
        clock: Clock = utc_now,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(record, store=store, tracker=tracker, clock=clock, keep_adapters=keep_adapters)
        self._search_client = SearchClient(search, record)
        self._defaults, self._seed = defaults, seed
        self._num_trials, self._max_retries, self._retry_s = num_trials, max_retries, retry_s
        self._abort_after_failures = abort_after_failures
        self._cannot_open = self._aborted = ""
        self._fatal: SweeperError | None = None
        self._waiting = TrialQueue(timer)
        self._reopen(reference)

    @property
    def fatal(self) -> SweeperError | None:
        """What ends the sweep: the search's database is down, or a worker's disk is full."""
        return self._fatal or self._search_client.down

    @property
    def closed(self) -> str:
        """Why no new trial of the study may start; empty if they may."""
        return self._cannot_open or self._aborted

    @property
    def cannot_open(self) -> bool:
        """Whether no worker can open the study."""
        return bool(self._cannot_open)

    @property
    def num_to_begin(self) -> int:
        """Trials that the budget still allows to begin."""
        return 0 if self.closed or self._search_client.is_exhausted else max(self._num_trials - self.num_asked, 0)

    @property
    def may_ask(self) -> bool:
        """Whether the budget allows another trial."""
        return self.num_to_begin > 0

    @property
    def has_waiting(self) -> bool:
        """Whether a trial that was begun waits for a lane, or for its time."""
        return len(self._waiting) > 0 and not self._cannot_open

    @property
    def has_due(self) -> bool:
        """Whether a trial that was begun could go on now."""
        return self._waiting.has_due and not self._cannot_open

    @property
    def has_quarantined(self) -> bool:
        """Whether a trial could go on now that must be alone, since its pack was lost."""
        return self._waiting.has_quarantined and not self._cannot_open

    def admissions(self, num_free: int, *, may_start: bool) -> list[Admission]:
        """Return trials for free lanes: interrupted ones first, then new ones.

        Args:
            num_free: Free lanes.
            may_start: Whether new trials may be begun.
        """
        numbers = self._waiting.take(num_free)
        while len(numbers) < num_free and may_start and self.may_ask:
            proposal = self._search_client.propose()
            if proposal is None:
                break
            self._begin(self._spec(proposal.number, proposal.params, proposal.origin))
            numbers.append(proposal.number)
        return [self._admission(number) for number in numbers]

    def quarantined_admission(self) -> Admission:
        """Return a trial that must train its next chunk alone; there is one."""
        return self._admission(self._waiting.take_quarantined())

    def put_back(self, numbers: Collection[int]) -> None:
        """Put trials that give way to a suspect at the head of the queue."""
        self._waiting.put_first(numbers)

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

    def fail(self, number: int, failure: Failure, *, was_alone: bool = False) -> None:
        """Do about a failure what the table says.

        Args:
            number: The trial.
            failure: Why it could not go on.
            was_alone: Whether it took its worker along, so that it must be alone at its next chunk as well.
        """
        if POLICIES[failure.kind].action is Action.STOP:
            self._fatal = DiskFull(failure.message)
            self._waiting.add(number)
            return
        trial = after_failure(self.trials[number], failure, self._max_retries)
        if trial.state.is_finished:
            self._finish(trial, trial.state)
            return
        self._write(trial)
        wait_s = retry_wait_s(failure.kind, trial.num_retries, self._retry_s)
        self._waiting.add(number, wait_s=wait_s, is_quarantined=was_alone)

    def lose(self, numbers: Collection[int], failure: Failure, *, elapsed_s: float) -> int | None:
        """Take in that a worker is gone, with all that was in its pack.

        A trial that was alone failed. Of several nobody knows which one it was: each goes on alone for a chunk.

        Args:
            numbers: The trials of the pack.
            failure: What became of the worker.
            elapsed_s: Device seconds of the chunk that is lost; charged to the trials.

        Returns:
            The trial that was alone, if one was.
        """
        self.charge_lost(numbers, elapsed_s, failure)
        if len(numbers) == 1:
            (number,) = numbers
            self.fail(number, failure, was_alone=True)
            return number
        for number in sorted(numbers):
            self._waiting.add(number, is_quarantined=True)
        return None

    def shut(self, reason: str) -> None:
        """Start nothing in this session: no worker can open the study."""
        self._cannot_open = reason
        log.error("%s is given up: %s", self.record.name, reason)

    def _reopen(self, reference: tuple[str, Mapping[str, ParamValue]] | None) -> None:
        self._load()
        proposals = self._search_client.synchronize(list(self.trials.values()))
        for number, trial in list(self.trials.items()):
            if not trial.state.is_finished and not self._judge(trial):
                self._waiting.add(number)
        for proposal in proposals:
            self._begin(self._spec(proposal.number, proposal.params, proposal.origin))
            self._waiting.add(proposal.number)
        if reference is not None and REFERENCE_NUMBER not in self.trials:
            name, params = reference
            spec = self._spec(REFERENCE_NUMBER, params, recipe_origin(name))
            self._begin(dataclasses.replace(spec, phase=Phase.REFERENCE))
            self._waiting.add(REFERENCE_NUMBER)
        self._check_early_abort()

    def _spec(self, number: int, params: Mapping[str, ParamValue], origin: str) -> TrialSpec:
        return TrialSpec.of(
            self._defaults, params, study=self.record.name, number=number, seed=self._seed, origin=origin
        )

    def _admission(self, number: int) -> Admission:
        before = self.trials[number]
        trial, checkpoint = latest_sound(self._store, before)
        if trial is not before:
            log.warning("%s, trial %d: %s", self.record.name, number, trial.failure and trial.failure.message)
            self._write(trial)
        return Admission(spec=trial.spec, chunks_done=trial.chunks_done, checkpoint=checkpoint)

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
        checkpoint = report.checkpoints[number]
        self._write(with_checkpoint(trial, checkpoint), checkpoint)
        return self._judge(self.trials[number])

    def _judge(self, trial: TrialRecord) -> bool:
        """Ask whether a trial that stands at a rung goes on; return whether it shall leave.

        That it goes on is written down: a verdict that a kill cut off is asked for again, one that was given is not,
        since by now others may have scored better.
        """
        decision = self._search_client.verdict(trial)
        if decision is Decision.STOP:
            self._finish(trial, TrialState.PRUNED)
        elif decision is Decision.CONTINUE:
            self._write(dataclasses.replace(trial, decided_chunk=trial.chunks_done))
        return decision is Decision.STOP

    def _finish(self, trial: TrialRecord, state: TrialState) -> None:
        trial = dataclasses.replace(trial, state=state, finished_at=self._now(), checkpoints={})
        self._write(trial)
        self._search_client.tell(trial)
        self._check_early_abort()

    def _check_early_abort(self) -> None:
        before, self._aborted = self._aborted, abort_reason(self.trials.values(), self._abort_after_failures)
        if self._aborted and not before:
            log.error("%s is given up: %s", self.record.name, self._aborted)
