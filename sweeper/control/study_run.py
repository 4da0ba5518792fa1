"""The state of one running study: its queue, its trials, and the decisions about them. Called by the controller.

Every change is written to the store (`trial_records`) before the search's database and the tracker get it: after a kill
the store may be ahead of both, but never behind. `sweeper.failures.POLICIES` defines how failures are handled.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sweeper.config.settings import ExecutorSettings, Recipe
from sweeper.config.trial_length import trial_chunks
from sweeper.control.confirmation import Confirmation
from sweeper.control.early_abort import abort_reason
from sweeper.control.follow_up import FollowUp
from sweeper.control.resume import after_failure, latest_intact, with_checkpoint
from sweeper.control.search_client import SearchClient
from sweeper.control.trial_queue import TrialQueue
from sweeper.control.trial_records import TrialRecords
from sweeper.errors import DiskError, SweeperError
from sweeper.failures import POLICIES, Action, disk_error, retry_wait_s
from sweeper.figures.tally import TrialTally
from sweeper.search.base import SearchProtocol
from sweeper.types import (
    AdapterFiles,
    Admission,
    Checkpoint,
    ChunkReport,
    Decision,
    Failure,
    FailureKind,
    StudyRecord,
    TrialRecord,
    TrialSpec,
    TrialState,
    TrialTemplate,
)

__all__ = ["StudyRun"]

log = logging.getLogger(__name__)
_NUM_FIRST_RECIPES = 3
"""Recipes that may train before all other trials, in narrow packs; more would delay the first complete adapter."""


class StudyRun:
    """A running study, resumed from the state in the store.

    Args:
        records: The records of its trials.
        search: Proposes and prunes.
        template: Makes the specs of its trials.
        num_trials: ``budget.trials``.
        executor: Retries and their waiting times, and when a study is aborted.
        references: Recipes that are trained for comparison, by trial number. They start when the search starts no more.
        confirmation: Trains the best candidates again when search and references are finished; None for no such trials.
        finals: Final trainings, of a study without a search.
        timer: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        records: TrialRecords,
        search: SearchProtocol,
        template: TrialTemplate,
        *,
        num_trials: int,
        executor: ExecutorSettings,
        references: Mapping[int, Recipe] | None = None,
        confirmation: Confirmation | None = None,
        finals: Sequence[TrialSpec] = (),
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.records = records
        self._search_client = SearchClient(search, records.study)
        self._template, self._executor, self._num_trials = template, executor, num_trials
        self.follow_up = FollowUp(
            records,
            template,
            references=references or {},
            confirmation=confirmation,
            finals=finals,
            file_bytes=executor.checkpoint_file_bytes,
        )
        """The trials that follow the search."""
        self._cannot_open = self._aborted = ""
        self._is_search_ended = False
        self._fatal: SweeperError | None = None
        self._unwritten: set[int] = set()
        """Trials that could not be written: as after a kill, the next session continues them from what is stored."""
        self._queue = TrialQueue(timer)
        self._resume()
        self._check_early_abort()
        self._update_follow_up()

    @property
    def record(self) -> StudyRecord:
        """The record of the study."""
        return self.records.study

    @property
    def trials(self) -> Mapping[int, TrialRecord]:
        """All trials, by number."""
        return self.records.trials

    @property
    def tally(self) -> TrialTally:
        """Counts and sums over the trials."""
        return self.records.tally

    @property
    def fatal(self) -> SweeperError | None:
        """The error that must end the session: the search's database is down, or a disk is full or fails."""
        return self._fatal or self._search_client.error

    @property
    def stop_reason(self) -> str:
        """Why no new trial of the study may start; empty if one may."""
        return self._cannot_open or self._aborted

    @property
    def cannot_open(self) -> bool:
        """Whether no worker can open the study, so that none of its trials continue in this session."""
        return bool(self._cannot_open)

    @property
    def num_to_start(self) -> int:
        """Trials that the budget still allows to start."""
        if self._is_search_ended or self.stop_reason or self._search_client.is_exhausted:
            return 0
        return max(self._num_trials - self.tally.num_searched, 0)

    @property
    def may_ask(self) -> bool:
        """Whether the budget allows another trial."""
        return self.num_to_start > 0

    def end_search(self) -> None:
        """Start no further trial of the search, although the budget allows some, so that the trials after it start."""
        self._is_search_ended = True
        self._update_follow_up()

    @property
    def num_references_to_start(self) -> int:
        """References that have not started yet and may do so in this session."""
        return 0 if self.stop_reason or self.fatal else self.follow_up.num_references_to_start

    @property
    def num_confirmations_to_start(self) -> int:
        """Trials of the confirmation that have not started yet: before the end of the search, as many as expected."""
        if self.stop_reason or self.fatal:
            return 0
        return self.follow_up.num_confirmations_expected(self.num_to_start)

    @property
    def num_confirmations_reserved(self) -> int:
        """Trials that the confirmation would need if the search started no more."""
        return self.follow_up.num_confirmations_expected(0)

    @property
    def has_new(self) -> bool:
        """Whether a trial may start: one of the search, or one that follows it if the search starts no more."""
        if self.stop_reason or self.fatal:
            return False
        return self.may_ask or self.follow_up.num_due > 0

    @property
    def num_recipes_left(self) -> int:
        """First recipes of the search that are not finished, started or not."""
        found = (self.trials.get(number) for number in range(min(self._num_first_recipes, self._num_trials)))
        return sum(trial is None or not trial.state.is_finished for trial in found)

    @property
    def has_new_recipe(self) -> bool:
        """Whether the next trial of the search is one of the first recipes."""
        return self.may_ask and self.tally.num_searched < self._num_first_recipes

    @property
    def has_due_recipe(self) -> bool:
        """Whether one of the first recipes, started earlier, could continue now in a pack."""
        return self._queue.find(self.is_recipe) is not None and not self._cannot_open

    def is_recipe(self, number: int) -> bool:
        """Whether a trial is one of the first recipes of the search."""
        return number < self._num_first_recipes

    @property
    def _num_first_recipes(self) -> int:
        return min(self._search_client.num_recipes, _NUM_FIRST_RECIPES)

    @property
    def has_waiting(self) -> bool:
        """Whether a started trial waits for a lane or for its retry."""
        return len(self._queue) > 0 and not self._cannot_open

    @property
    def has_due(self) -> bool:
        """Whether a started trial could continue now."""
        return self.num_due > 0 and not self._cannot_open

    @property
    def num_due(self) -> int:
        """Started trials that are in no pack and wait only for a lane."""
        return self._queue.num_due

    @property
    def has_quarantined(self) -> bool:
        """Whether a quarantined trial, which must train alone since its pack was lost, could continue now."""
        return self._queue.has_quarantined and not self._cannot_open

    def admission(self, *, may_start: bool, only_recipes: bool = False) -> Admission | None:
        """Return a trial for a free lane: a waiting one, else a new one; None if there is none.

        Args:
            may_start: Whether a new trial may be started.
            only_recipes: Whether only the first recipes of the search are wanted.
        """
        number = self._queue.take(self.is_recipe) if only_recipes else self._queue.take()
        if number is None and may_start and (self.has_new_recipe or not only_recipes):
            number = self._start()
        return None if number is None else self._admission(number)

    def quarantined_admission(self) -> Admission:
        """Return a quarantined trial, to train its next chunk alone; requires `has_quarantined`."""
        return self._admission(self._queue.take_quarantined())

    def put_back(self, numbers: Collection[int]) -> None:
        """Return trials that leave their lanes to a quarantined one to the head of the queue."""
        self._queue.put_first(numbers)

    def absorb(self, report: ChunkReport) -> tuple[int, ...]:
        """Record the results of a chunk, of every trial that the disk allows to write; see `fatal`.

        Returns:
            Numbers of the pruned trials, which must leave the pack.
        """
        for number, failure in report.failures.items():
            with self._saving(number):
                self.records.charge(number, report)
                self.fail(number, failure)
        pruned = []
        # By number, not by lane, so that the search sees the same order in a resumed pack and in a refilled one.
        for number in sorted(report.measurements.keys() - self._unwritten):
            with self._saving(number):
                if self._measure(number, report):
                    pruned.append(number)
        self.records.store.drop_files(report.sent)
        self._publish()
        return tuple(pruned)

    def unsaved(self, numbers: Collection[int]) -> tuple[int, ...]:
        """Return the trials, of those in a pack, whose last chunks have no checkpoint."""
        trials = [self.trials[number] for number in sorted(set(numbers) - self._unwritten)]
        return tuple(trial.spec.number for trial in trials if trial.chunks_saved < trial.chunks_done)

    def save(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        """Record the checkpoints of trials that are about to leave their pack."""
        for number, sent in checkpoints.items():
            checkpoint = self.records.received(number, sent)
            with self._saving(number):
                if checkpoint is not None:
                    self.records.write(with_checkpoint(self.trials[number], checkpoint), checkpoint)

    def fail(self, number: int, failure: Failure, *, was_alone: bool = False) -> None:
        """Handle a trial's failure according to `POLICIES`.

        Args:
            number: The trial.
            failure: Why it could not continue.
            was_alone: Whether it was alone on a lost worker, so that it must train its next chunk alone again.
        """
        if POLICIES[failure.kind].action is Action.STOP:
            self._fatal = disk_error(failure.kind, failure.message)
            self._queue.add(number)
            return
        trial = after_failure(self.trials[number], failure, self._executor.max_retries)
        if trial.state.is_finished:
            self._finish(trial, trial.state)
            return
        self.records.write(trial)
        wait_s = retry_wait_s(failure.kind, trial.num_retries, self._executor.retry_s)
        self._queue.add(number, wait_s=wait_s, is_quarantined=was_alone)

    def handle_worker_loss(self, numbers: Collection[int], failure: Failure, *, elapsed_s: float) -> int | None:
        """Handle the loss of a worker and its pack.

        A trial that was alone has failed. Of several, any may be the cause, so each trains its next chunk alone.

        Args:
            numbers: The trials of the pack.
            failure: What happened to the worker.
            elapsed_s: Device seconds of the lost chunk, which the trials are charged for.

        Returns:
            The trial that was alone, if one was.
        """
        self.records.charge_lost(numbers, elapsed_s, failure)
        if len(numbers) == 1:
            (number,) = numbers
            self.fail(number, failure, was_alone=True)
            return number
        for number in sorted(numbers):
            self._queue.add(number, is_quarantined=True)
        return None

    def mark_unopenable(self, reason: str) -> None:
        """Mark the study as one that no worker can open: none of its trials start or continue in this session."""
        self._cannot_open = reason
        log.error("%s cannot be opened: %s", self.record.name, reason)

    def _resume(self) -> None:
        """Bring the search up to date with the store, and queue every unfinished trial."""
        self._search_client.synchronize(list(self.trials.values()))
        for number, trial in list(self.trials.items()):
            is_undecided = trial.chunks_done > trial.decided_chunk
            if not trial.state.is_finished and not (is_undecided and self._decide(trial)):
                self._queue.add(number)

    @contextmanager
    def _saving(self, number: int) -> Iterator[None]:
        """Note the error of a disk in the block, and the trial that it concerns; others may still be saved."""
        try:
            yield
        except DiskError as error:
            self._fatal = self._fatal or error
            self._unwritten.add(number)

    def _publish(self) -> None:
        """Let the database show what the search was told, unless some of it could not be stored."""
        if not self._unwritten:
            self._search_client.publish()

    def _start(self) -> int | None:
        """Start the next trial of the search, or one that follows it; return its number, or None if there is none."""
        if not self.may_ask:
            following = self.follow_up.next_spec()
            if following is None:
                return None
            self.records.start(following)
            return following.number
        proposal = self._search_client.propose()
        if proposal is None:
            return None
        spec = self._template.spec(proposal.number, proposal.params, proposal.origin)
        with self._saving(spec.number):
            self.records.start(spec, proposal.notes)
        self._publish()
        return proposal.number

    def _admission(self, number: int) -> Admission:
        before = self.trials[number]
        file_bytes = self._executor.checkpoint_file_bytes
        trial, checkpoint = latest_intact(self.records.store, before, file_bytes=file_bytes)
        if trial is not before:
            if trial.failure is not before.failure:
                log.warning("%s, trial %d: %s", self.record.name, number, trial.failure and trial.failure.message)
            log.info("%s, trial %d repeats the chunks from %d on", self.record.name, number, trial.chunks_done + 1)
            self.records.write(trial)
        return Admission(spec=trial.spec, chunks_done=trial.chunks_done, checkpoint=checkpoint)

    def _measure(self, number: int, report: ChunkReport) -> bool:
        """Record a trial's measurement; return whether it must leave the pack."""
        trial = self.records.charge(number, report)
        if missing := self.records.missing(report.adapters.get(number, {})):
            message = f"{missing}, which the worker wrote, is not there any more; its last chunks are trained again"
            self.fail(number, Failure(kind=FailureKind.CHECKPOINT, message=message))
            return False
        measured = report.measurements[number]
        digest = self.records.keep_outcomes(number, measured.chunk, report.outcomes.get(number))
        measurement = dataclasses.replace(measured, elapsed_s=trial.cost.device_s, outcomes=digest)
        trial = dataclasses.replace(trial, measurements=(*trial.measurements, measurement))
        if measurement.chunk >= trial_chunks(self.record, trial.spec.train.epochs):
            self.records.keep_adapter(trial, report.adapters[number])
            self._finish(trial, TrialState.COMPLETE)
            return False
        checkpoint = self.records.received(number, report.checkpoints.get(number))
        return self._decide(trial, checkpoint, report.rung_adapters.get(number, {}))

    def _decide(
        self, trial: TrialRecord, checkpoint: Checkpoint | None = None, adapter: AdapterFiles | None = None
    ) -> bool:
        """Ask whether a trial continues after its latest chunk, and record the trial with the decision.

        A rung and the decision there are written together. Only the rung is written if the search is down; then the
        next session decides. A recorded decision is not made again, since other trials may have scored better by now.

        Args:
            trial: The trial, its latest measurement included.
            checkpoint: The checkpoint after its latest chunk; None if trial and checkpoint are in the store already.
            adapter: Its adapter, if the latest chunk is a rung.

        Returns:
            Whether it was pruned, so that it must leave the pack.
        """
        decision = self._search_client.decide(trial)
        if decision is Decision.STOP:
            self._finish(trial, TrialState.PRUNED)
            return True
        if decision is Decision.CONTINUE:
            trial = dataclasses.replace(trial, decided_chunk=trial.chunks_done)
        if checkpoint is not None:
            trial = with_checkpoint(trial, checkpoint)
        if adapter:
            self.records.keep_rung_adapter(trial, adapter)
        if trial is not self.trials[trial.spec.number]:
            self.records.write(trial, checkpoint)
        return False

    def _finish(self, trial: TrialRecord, state: TrialState) -> None:
        finished = self.records.finish(trial, state)
        self._search_client.tell(finished)
        self._publish()
        self._check_early_abort()
        self._update_follow_up()

    def _update_follow_up(self) -> None:
        """Decide what is confirmed, once the search is over."""
        if not (self.may_ask or self.tally.counts[TrialState.RUNNING] or self.stop_reason or self.fatal):
            self.follow_up.update()

    def _check_early_abort(self) -> None:
        before, counts = self._aborted, self.tally.counts
        has_result = counts[TrialState.COMPLETE] > 0 or counts[TrialState.PRUNED] > 0
        limit = self._executor.abort_after_failures
        self._aborted = "" if has_result else abort_reason(self.trials.values(), limit)
        if self._aborted and not before:
            log.error("%s is aborted: %s", self.record.name, self._aborted)
