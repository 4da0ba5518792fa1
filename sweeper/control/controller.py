"""The control loop: sends chunks to workers, handles their reports, and refills free lanes at once.

The only writer of store, search and tracker (through `StudyRun`). It never waits for all workers: each gets its next
chunk when it reports. The trials of a lost worker return to the queue with their last checkpoints. To find out which of
them caused the loss, each trains alone (`StudyRun.handle_worker_loss`); `WorkerRecovery` finds out whether the device
did. A chunk that would not end before a window closes is not started (see `forecast`).

If a disk is full or fails, in this process or in a worker's, nothing more is started, and running chunks end and are
recorded as far as the disk allows. Then the sweep stops.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from sweeper.config.settings import BudgetSettings, ExecutorSettings
from sweeper.control.forecast import Forecast
from sweeper.control.lane_limits import LaneLimits
from sweeper.control.packing import Packing
from sweeper.control.shutdown import ShutdownRequest
from sweeper.control.study_run import StudyRun
from sweeper.control.watchdog import Watchdog
from sweeper.control.worker_recovery import WorkerRecovery
from sweeper.control.worker_slots import WorkerSlot, WorkerState
from sweeper.errors import DiskError, SweeperError, WorkerError, WorkerLost
from sweeper.execute.base import (
    AdaptersScored,
    Executor,
    OpenStudy,
    Reply,
    Request,
    SaveTrials,
    StudyOpened,
    TrialsSaved,
    WorkerFailed,
    WorkerHandle,
    WorkerReady,
)
from sweeper.failures import POLICIES, Action, disk_error
from sweeper.figures.text import plural
from sweeper.store.ledger import Ledger
from sweeper.types import ChunkReport, ChunkRequest, Cost, Failure, FailureKind

__all__ = ["Controller"]

log = logging.getLogger(__name__)
_TICK_S = 0.5
_FATAL_GRACE_S = 60.0
"""Wait for running chunks after a fatal error, e.g. if Optuna's database is down: the store can still record them."""


class Controller:
    """Runs studies on workers until their budgets are spent.

    Args:
        studies: Studies by name, each with the request that opens it on a worker.
        executor: Starts, restarts and stops the workers.
        ledger: Records what was spent.
        budget: Limits of what may be spent.
        limits: How many trials may train at once.
        shutdown: A request to stop, which may be set at any time.
        on_change: Called after every reply, and at least twice a second, to display the progress.
        watchdog: Finds hung workers; one with default timeouts if None.
    """

    def __init__(
        self,
        studies: Mapping[str, tuple[StudyRun, OpenStudy]],
        executor: Executor,
        *,
        ledger: Ledger,
        budget: BudgetSettings,
        limits: LaneLimits,
        shutdown: ShutdownRequest,
        on_change: Callable[[], None],
        watchdog: Watchdog | None = None,
    ) -> None:
        self._studies = studies
        self._executor = executor
        self._ledger = ledger
        self._limits = limits
        self._shutdown = shutdown
        self._on_change = on_change
        self._watchdog = watchdog or Watchdog(ExecutorSettings())
        self._recovery = WorkerRecovery(ledger)
        self._slots: dict[int, WorkerSlot] = {}
        self._disk_error: DiskError | None = None
        self.stop_reason: str | None = None
        """Why the session ended although work is left; None before its end, and if nothing is left."""
        runs = [run for run, _ in studies.values()]
        # Before the first chunk, nobody knows how many lanes a worker will find to be fastest.
        num_lanes = 1 if limits.is_measured else limits.lanes
        self.forecast = Forecast(runs, ledger=ledger, budget=budget, num_lanes=num_lanes)
        self._packing = Packing(limits, self._slots, self.forecast)

    @property
    def disabled(self) -> Mapping[int, str]:
        """Why workers were disabled, by index."""
        return self._recovery.disabled

    def run(self) -> None:
        """Run until no work is left or allowed, or a requested shutdown is complete.

        Raises:
            WorkerError: No worker is left, or none can open any study.
            StorageDown: The search's database is down. Running chunks were recorded before.
            DiskError: A disk is full or fails. Everything written before is intact.
        """
        try:
            if self._open_studies():
                self._slots.update({handle.index: self._new_slot(handle) for handle in self._executor.start()})
            while not self._is_ending and self._is_work_left():
                self._step()
            if self._is_ending:
                self._finish_chunks()
            else:
                self.stop_reason = self.forecast.reason()
            # Abandoned chunks are charged: their time is spent, although they have no results.
            for slot in self._slots.values():
                with self._draining_on_disk_errors():
                    self._recovery.charge_lost_chunk(slot, self._watchdog.finished(slot.handle.index))
        finally:
            self._executor.stop()
            with self._draining_on_disk_errors():
                self._ledger.save()
                for run, _ in self._studies.values():
                    run.records.store.drop_incoming(run.record.name)
        error = self._fatal or self._opening_error()
        if error is not None:
            raise error

    @property
    def _is_ending(self) -> bool:
        return bool(self._shutdown) or self._fatal is not None

    @property
    def _fatal(self) -> SweeperError | None:
        return self._disk_error or next((run.fatal for run, _ in self._studies.values() if run.fatal), None)

    @contextmanager
    def _draining_on_disk_errors(self) -> Iterator[None]:
        """Note the error of a disk in the block, so that the sweep stops once running chunks are recorded."""
        try:
            yield
        except DiskError as error:
            self._stop_for(error)

    def _stop_for(self, error: DiskError) -> None:
        if self._disk_error is None:
            log.error("%s", error)
            self._disk_error = error

    def _step(self) -> None:
        self._receive_from_ready(_TICK_S)
        self._watchdog.tick()
        self._handle_hung()
        with self._draining_on_disk_errors():
            if not self._is_ending:
                self._end_searches()
                self._assign_idle()
        with self._draining_on_disk_errors():
            self._on_change()

    def _receive_from_ready(self, timeout_s: float) -> None:
        for handle in self._executor.wait(timeout_s):
            # A worker that could not be replaced, because of a disk's error, has no slot any more.
            if (slot := self._slots.get(handle.index)) is not None:
                self._receive(slot)

    def _handle_hung(self) -> None:
        if any(self._watchdog.overdue(index) for index in self._slots):
            self._receive_from_ready(0.0)  # replies that arrived while this process was busy
        for slot in list(self._slots.values()):
            if why := self._watchdog.overdue(slot.handle.index):
                self._handle_loss(slot, Failure(kind=FailureKind.HUNG, message=why))

    def _finish_chunks(self) -> None:
        """Wait for running chunks, up to the end of the grace period, and record them; start nothing."""
        deadline_s = self._shutdown.deadline_s if self._shutdown else time.monotonic() + _FATAL_GRACE_S
        left_s = max(0.0, deadline_s - time.monotonic())
        log.warning("%s: waiting up to %.0f s for running chunks", self._shutdown.reason or self._fatal, left_s)
        while time.monotonic() < deadline_s and any(slot.is_training for slot in self._slots.values()):
            self._step()

    def _is_work_left(self) -> bool:
        if not self._slots and self._open_studies():
            raise WorkerError(f"no worker is left: {'; '.join(self.disabled.values())}. See the sweep's logs folder")
        if any(slot.is_busy for slot in self._slots.values()):
            if self.forecast.is_overdue:
                log.warning("chunks that take longer than predicted are abandoned; their trials will repeat them")
            return not self.forecast.is_overdue
        return any(not slot.lanes for slot in self._slots.values()) and self._open_studies() != []

    def _receive(self, slot: WorkerSlot) -> None:
        try:
            reply = slot.handle.receive()
        except WorkerLost as lost:
            self._handle_loss(slot, Failure(kind=FailureKind.LOST_WORKER, message=str(lost)))
            return
        if isinstance(reply, WorkerFailed):
            self._handle_loss(slot, Failure(kind=reply.kind, message=reply.message, traceback=reply.traceback))
            return
        self._watchdog.finished(slot.handle.index, is_good=True)
        slot.state = WorkerState.IDLE
        with self._draining_on_disk_errors():
            self._handle_reply(slot, reply)

    def _handle_reply(self, slot: WorkerSlot, reply: Reply) -> None:
        match reply:
            case WorkerReady(notes=notes):
                log.info("worker %d is ready: %s", slot.handle.index, "; ".join(notes))
            case StudyOpened(references=references) if slot.study is not None:
                self._recovery.study_opened(slot.study)
                slot.num_lanes = reply.lanes or self._limits.lanes
                for note in reply.notes:
                    log.info("worker %d, %s: %s", slot.handle.index, slot.study.record.name, note)
                self.forecast.record_opened(slot.study.record.name, reply)
                slot.study.records.record_references(references)
                self._send_chunk(slot, slot.study)
            case ChunkReport() if slot.study is not None:
                self._handle_report(slot, slot.study, reply)
            case TrialsSaved(elapsed_s=elapsed_s) if slot.study is not None:
                self._ledger.charge(Cost(device_s=elapsed_s))
                slot.study.save(reply.checkpoints)
                self._send_chunk(slot, slot.study, saved=reply.checkpoints.keys())
            case AdaptersScored(elapsed_s=elapsed_s) if slot.study is not None:
                self._ledger.charge(Cost(device_s=elapsed_s))
                slot.study.follow_up.record_scores(reply)
                self._send_chunk(slot, slot.study)
            case _:
                raise AssertionError(f"worker {slot.handle.index} sent {reply!r} unasked")

    def _handle_report(self, slot: WorkerSlot, study: StudyRun, report: ChunkReport) -> None:
        if report.measurements:
            self._recovery.chunk_completed(slot, study, report.measurements)
        # The ledger is written first: after a kill in between it may exceed the sum of the trials' costs, but never
        # falls below it.
        self._ledger.charge(sum(report.costs.values(), Cost()))
        self.forecast.record_chunk(study.record.name, report)
        if self._can_run_ahead(slot, study, report):
            self._send(slot, ChunkRequest(), WorkerState.CHUNK, f"a chunk of {study.record.name}")
            study.absorb(report)
            return
        slot.evict = study.absorb(report)
        slot.lanes -= {*slot.evict, *report.failures, *report.adapters}
        self._send_chunk(slot, study)

    def _can_run_ahead(self, slot: WorkerSlot, study: StudyRun, report: ChunkReport) -> bool:
        """Whether the pack stays as it is, so that its next chunk can start before this one is written to disk.

        Writing takes about a tenth of a chunk's time.
        """
        needs_decision = report.failures or report.adapters or any(m.is_rung for m in report.measurements.values())
        is_settled = self._packing.is_settled(slot, study) and len(slot.lanes) == len(report.measurements)
        is_isolated = slot.is_isolated or study.has_quarantined
        return is_settled and not (needs_decision or is_isolated or self._is_ending) and self.forecast.may_train(study)

    def _send_chunk(self, slot: WorkerSlot, study: StudyRun, saved: Collection[int] = ()) -> None:
        """Refill the pack and send its next chunk; the worker stays idle if no trial or time is left.

        Trials that leave the pack, or stay in it when the session ends, are saved first.

        Args:
            slot: The worker.
            study: Its study.
            saved: Trials that it has just saved; whether this was of use or not, it is not asked again.
        """
        slot.is_isolated = False
        is_allowed = self.forecast.may_train(study)
        is_tested = any(s.is_isolated and s.study is study for s in self._slots.values())
        is_needed = study.has_quarantined and not (slot.lanes and is_tested)
        is_leaving = self._is_ending or not is_allowed or is_needed
        leaving = slot.lanes if is_leaving else self._packing.excess(slot, study)
        unsaved = study.unsaved({*leaving} - {*saved})
        if unsaved and not isinstance(self._fatal, DiskError):
            self._send(slot, SaveTrials(numbers=unsaved), WorkerState.SAVE, f"saving trials of {study.record.name}")
            return
        if self._is_ending:
            return
        if not is_allowed:
            # Without its pack, the worker is free for another study, whose chunks may be short enough.
            study.put_back(slot.lanes)
            slot.evict, slot.lanes = (*slot.evict, *slot.lanes), set()
            return
        if is_needed:
            study.put_back(slot.lanes)
            slot.evict, slot.lanes, slot.is_isolated = (*slot.evict, *slot.lanes), set(), True
            admissions = [study.quarantined_admission()]
            slot.lanes.add(admissions[0].spec.number)
        else:
            slot.evict = (*slot.evict, *self._packing.release(slot, study))
            admissions = self._packing.fill(slot, study)
        if not slot.lanes:
            if scores := study.follow_up.score_request(limit=slot.num_lanes):
                self._send(slot, scores, WorkerState.SCORE, f"the scores of {study.record.name} on test rows")
        elif not self._is_ending:
            request, slot.evict = ChunkRequest(admit=tuple(admissions), evict=slot.evict), ()
            self._send(slot, request, WorkerState.CHUNK, f"a chunk of {study.record.name}")

    def _send(self, slot: WorkerSlot, request: Request, state: WorkerState, what: str) -> None:
        slot.handle.send(request)
        slot.state = state
        self._watchdog.started(slot.handle.index, what, num_lanes=len(slot.lanes))

    def _new_slot(self, handle: WorkerHandle) -> WorkerSlot:
        """Return the slot of a worker that was just started, and start to watch it."""
        self._watchdog.started(handle.index, "its start")
        return WorkerSlot(handle)

    def _end_searches(self) -> None:
        """End the searches whose confirmation needs the device hours that are left."""
        for run, _ in self._studies.values():
            if self.forecast.leaves_confirmation(run):
                log.info("%s: the device hours that are left are for the confirmation", run.record.name)
                run.end_search()

    def _assign_idle(self) -> None:
        for slot in self._slots.values():
            if slot.is_busy or slot.lanes:
                continue
            study = self._choose_study(slot)
            if study is not None and study is slot.study:
                self._send_chunk(slot, study)
            elif study is not None:
                self._open(slot, study)

    def _choose_study(self, slot: WorkerSlot) -> StudyRun | None:
        """Return a study with work for an idle worker, preferably the one that it has open; None if there is none."""
        unfinished = self._open_studies()
        ready = [run for run in unfinished if self._packing.has_work(slot, run) or run.follow_up.has_scores_due]
        if not ready and slot.study not in unfinished:
            # All trials that may be in flight are in other packs, which share them as soon as the worker has joined.
            ready = [run for run in unfinished if self._may_start(run)]
        if slot.study in ready:
            return slot.study
        return min(ready, key=self._num_workers, default=None)

    def _open(self, slot: WorkerSlot, study: StudyRun) -> None:
        request = next(opening for run, opening in self._studies.values() if run is study)
        probe = not study.record.references and self._num_workers(study) == 0
        slot.study, slot.evict = study, ()
        what = f"the opening of {study.record.name}"
        incoming = study.records.store.paths.incoming(study.record.name) / str(slot.handle.index)
        self._send(slot, dataclasses.replace(request, probe=probe, incoming=incoming), WorkerState.OPEN, what)

    def _open_studies(self) -> list[StudyRun]:
        runs = [run for run, _ in self._studies.values() if self.forecast.may_train(run)]
        return [run for run in runs if run.has_waiting or run.follow_up.has_scores_due or self._may_start(run)]

    def _may_start(self, study: StudyRun) -> bool:
        return study.has_new and self.forecast.may_start(study)

    def _num_workers(self, study: StudyRun) -> int:
        return sum(slot.study is study and slot.is_busy for slot in self._slots.values())

    def _handle_loss(self, slot: WorkerSlot, failure: Failure) -> None:
        """Handle the loss of a worker; after the error of a disk, or when the session ends, it is not replaced."""
        index = slot.handle.index
        returned = plural(len(slot.lanes), "trial")
        log.warning("worker %d: %s; back in the queue: %s", index, failure.message, returned)
        elapsed_s = self._watchdog.finished(index)
        if POLICIES[failure.kind].action is Action.STOP:
            self._stop_for(disk_error(failure.kind, f"worker {index}: {failure.message}"))
        if self._is_ending:
            self._retire(slot)
            with self._draining_on_disk_errors():
                self._recovery.charge_lost_chunk(slot, elapsed_s)
            return
        try:
            self._replace(slot, failure, elapsed_s)
        except DiskError as error:
            self._slots.pop(index, None)  # nobody waits for its chunk
            self._stop_for(error)

    def _replace(self, slot: WorkerSlot, failure: Failure, elapsed_s: float) -> None:
        """Return the trials of a worker to the queue, and restart or disable it."""
        index = slot.handle.index
        if slot.state is WorkerState.SCORE and slot.study is not None:
            self._ledger.charge(Cost(device_s=elapsed_s))
            slot.study.follow_up.scores_failed(failure.message)
        reason = self._recovery.worker_lost(slot, failure, elapsed_s, has_other_workers=len(self._slots) > 1)
        if reason:
            log.error("worker %d is disabled: %s", index, reason)
            self._retire(slot)
        else:
            self._slots[index] = self._new_slot(self._executor.restart(slot.handle))

    def _retire(self, slot: WorkerSlot) -> None:
        self._executor.retire(slot.handle)
        del self._slots[slot.handle.index]

    def _opening_error(self) -> SweeperError | None:
        """Return an error if no study could be opened, so that nothing was trained; otherwise None."""
        runs = [run for run, _ in self._studies.values()]
        reasons = [run.stop_reason for run in runs if run.cannot_open]
        return WorkerError(reasons[0]) if reasons and len(reasons) == len(runs) else None
