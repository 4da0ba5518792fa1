"""The loop: hand chunks to workers, take in reports, refill lanes at once; nothing else.

The only writer of store, search and tracker (through `StudyRun`). Workers are never waited for together: each is
answered when it reports. A lost worker's trials go back to the queue with their last checkpoint. What would not end
before a window closes is not begun (see `forecast`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sweeper.errors import WorkerError, WorkerLost
from sweeper.execute.base import Executor, OpenStudy, Reply, StudyOpened, WorkerFailed, WorkerHandle, WorkerReady
from sweeper.forecast import Forecast
from sweeper.ledger import Ledger
from sweeper.settings import BudgetSettings
from sweeper.study_run import StudyRun
from sweeper.types import Admission, ChunkReport, ChunkRequest, Cost, Failure, FailureKind

__all__ = ["Controller", "Drain"]

log = logging.getLogger(__name__)
_TICK_S = 0.5
_MAX_LOSSES = 3
"""A worker that is lost so often in a row, without one chunk in between, is not started again."""


@dataclass(slots=True)
class Drain:
    """A wish to stop, set from a signal handler; running chunks may end before ``deadline_s``."""

    reason: str = ""
    deadline_s: float = math.inf
    """On the clock of `time.monotonic`."""

    def __bool__(self) -> bool:
        return bool(self.reason)


@dataclass(slots=True)
class _Post:
    """What the controller knows of a worker."""

    handle: WorkerHandle
    study: StudyRun | None = None
    is_ready: bool = False
    is_busy: bool = True
    lanes: set[int] = field(default_factory=set)
    num_lanes: int = 0
    evict: tuple[int, ...] = ()
    num_losses: int = 0


class Controller:
    """Runs studies on workers until their budgets are spent.

    Args:
        studies: Each with the request that opens it on a worker.
        executor: The workers.
        ledger: What is spent.
        budget: What may be spent.
        lanes: Lanes of a pack, unless a worker has chosen their number itself.
        drain: Set by whoever wants the sweep to stop.
        on_change: Called after every reply, at least twice a second, to show how things are.
    """

    def __init__(
        self,
        studies: Mapping[str, tuple[StudyRun, OpenStudy]],
        executor: Executor,
        *,
        ledger: Ledger,
        budget: BudgetSettings,
        lanes: int,
        drain: Drain,
        on_change: Callable[[], None],
    ) -> None:
        self._studies = studies
        self._executor = executor
        self._ledger = ledger
        self._num_lanes = lanes
        self._drain = drain
        self._on_change = on_change
        self._posts: dict[int, _Post] = {}
        self.stop_reason: str | None = None
        runs = [run for run, _ in studies.values()]
        self.forecast = Forecast(runs, ledger=ledger, budget=budget, num_lanes=lanes)

    def run(self) -> None:
        """Run until nothing is left to do, or the drain is asked for and done.

        Raises:
            WorkerError: No worker is left, or none can do what is asked.
        """
        try:
            if self._open_studies():
                self._posts = {handle.index: _Post(handle) for handle in self._executor.start()}
            while not self._drain and self._is_work_left():
                self._step()
            if self._drain:
                self._finish_chunks()
            elif any(_is_unfinished(run) for run, _ in self._studies.values()):
                self.stop_reason = self.forecast.reason()
        finally:
            self._executor.stop()
            self._ledger.save()

    def _step(self) -> None:
        for handle in self._executor.wait(_TICK_S):
            self._hear(self._posts[handle.index])
        if not self._drain:
            self._employ_idle()
        self._on_change()

    def _finish_chunks(self) -> None:
        """Take in the chunks that are being trained, as far as patience goes; start nothing."""
        left_s = max(0.0, self._drain.deadline_s - time.monotonic())
        log.warning("%s: waiting up to %.0f s for running chunks", self._drain.reason, left_s)
        while time.monotonic() < self._drain.deadline_s and any(p.is_busy and p.lanes for p in self._posts.values()):
            self._step()

    def _is_work_left(self) -> bool:
        if not self._posts and self._open_studies():
            raise WorkerError(f"no worker is left: each was lost {_MAX_LOSSES} times in a row. The logs folder has why")
        if any(post.is_busy for post in self._posts.values()):
            return not self._is_overdue()
        return any(not post.lanes for post in self._posts.values()) and self._open_studies() != []

    def _is_overdue(self) -> bool:
        if self.forecast.is_overdue:
            log.warning("chunks that took longer than predicted are given up; their trials go on from the chunk before")
        return self.forecast.is_overdue

    def _hear(self, post: _Post) -> None:
        try:
            reply = post.handle.receive()
        except WorkerLost as lost:
            self._replace(post, Failure(kind=FailureKind.LOST_WORKER, message=str(lost)))
            return
        post.is_busy = False
        self._take_in(post, reply)

    def _take_in(self, post: _Post, reply: Reply) -> None:
        match reply:
            case WorkerReady(notes=notes):
                post.is_ready = True
                log.info("worker %d is ready: %s", post.handle.index, "; ".join(notes))
            case StudyOpened(references=references) if post.study is not None:
                post.num_lanes = reply.lanes or self._num_lanes
                for note in reply.notes:
                    log.info("worker %d, %s: %s", post.handle.index, post.study.record.name, note)
                post.study.note_references(references)
                self._send_chunk(post, post.study)
            case ChunkReport() if post.study is not None:
                self._absorb(post, post.study, reply)
            case WorkerFailed(message=message) if post.lanes:
                self._replace(post, Failure(kind=FailureKind.ERROR, message=message, traceback=reply.traceback))
            case WorkerFailed(message=message):
                raise WorkerError(f"worker {post.handle.index} cannot start: {message}")
            case _:
                raise AssertionError(f"worker {post.handle.index} sent {reply!r} unasked")

    def _absorb(self, post: _Post, study: StudyRun, report: ChunkReport) -> None:
        post.num_losses = 0
        # The account comes first: after a kill in between it may say too much, never less than the trials' costs.
        self._ledger.charge(sum(report.costs.values(), Cost()))
        post.evict = study.absorb(report)
        post.lanes -= {*post.evict, *report.failures, *report.adapters}
        self.forecast.note(study.record.name, report)
        self._send_chunk(post, study)

    def _send_chunk(self, post: _Post, study: StudyRun) -> None:
        """Refill the pack and train its next chunk; without trials, time, or during a drain, the worker is idle."""
        if self._drain or not self.forecast.may_train(study):
            return
        admissions: list[Admission] = []
        while len(post.lanes) < post.num_lanes:
            # One by one: each promises device hours that the next one cannot have.
            admitted = study.admissions(1, may_start=self.forecast.may_begin(study))
            if not admitted:
                break
            admissions += admitted
            post.lanes.add(admitted[0].spec.number)
        if post.lanes:
            post.handle.send(ChunkRequest(admit=tuple(admissions), evict=post.evict))
            post.is_busy, post.evict = True, ()

    def _employ_idle(self) -> None:
        for post in self._posts.values():
            if not post.is_ready or post.is_busy or post.lanes:
                continue
            open_studies = self._open_studies()
            if post.study in open_studies:
                self._send_chunk(post, post.study)
            elif open_studies:
                self._open(post, min(open_studies, key=self._num_workers))

    def _open(self, post: _Post, study: StudyRun) -> None:
        request = next(opening for run, opening in self._studies.values() if run is study)
        post.study, post.evict, post.is_busy = study, (), True
        probe = not study.record.references and self._num_workers(study) == 1
        post.handle.send(dataclasses.replace(request, probe=probe))

    def _open_studies(self) -> list[StudyRun]:
        may = self.forecast
        runs = [run for run, _ in self._studies.values() if may.may_train(run)]
        return [run for run in runs if run.has_waiting or (run.may_ask and may.may_begin(run))]

    def _num_workers(self, study: StudyRun) -> int:
        return sum(post.study is study and post.is_busy for post in self._posts.values())

    def _replace(self, post: _Post, failure: Failure) -> None:
        """Put a lost worker's trials back and start another in its place."""
        log.warning("worker %d: %s; %d trial(s) go back", post.handle.index, failure.message, len(post.lanes))
        if post.study is not None and not self._drain:
            for number in sorted(post.lanes):
                post.study.fail(number, failure)
        losses = post.num_losses + 1
        if self._drain or losses >= _MAX_LOSSES:
            self._executor.retire(post.handle)
            del self._posts[post.handle.index]
            return
        handle = self._executor.restart(post.handle)
        self._posts[handle.index] = _Post(handle, num_losses=losses)


def _is_unfinished(run: StudyRun) -> bool:
    return run.may_ask or any(not trial.state.is_finished for trial in run.trials.values())
