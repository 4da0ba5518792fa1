"""Workers that train nothing: they read each trial's curve from a response, and take the virtual time it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sweeper.config.trial_length import FullLength, trial_chunks, trial_rungs
from sweeper.execute.base import OpenStudy, Reply, Request, StudyOpened, WorkerHandle, WorkerReady
from sweeper.figures.rungs import rows_to_score
from sweeper.simulate.base import Curve, ResponseProtocol
from sweeper.types import ChunkReport, ChunkRequest, Cost, Measurement, TrialSpec

__all__ = ["SimulatedExecutor", "VirtualClock"]

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_CHECKPOINT = b"simulated"


class VirtualClock:
    """Time that passes only while workers train."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def timer(self) -> float:
        """Return the seconds since the start."""
        return self.now_s

    def __call__(self) -> datetime:
        """Return the moment of a calendar that starts with the simulation."""
        return _EPOCH + timedelta(seconds=self.now_s)


class _SimulatedWorker:
    """A worker and its handle at once; the controller never reads a reply before its time has come."""

    def __init__(
        self, index: int, response: ResponseProtocol, clock: VirtualClock, metric: str, times: dict[int, list[float]]
    ) -> None:
        self.index, self._response, self._clock, self._metric = index, response, clock, metric
        self._times = times
        self._rungs: tuple[int, ...] = ()
        self._length = FullLength(response.num_chunks)
        self._lanes: dict[int, tuple[TrialSpec, Curve, int]] = {}
        self._reply: Reply = WorkerReady(notes=())
        self.due_s = clock.now_s
        """When it answers; infinite while it has nothing to do."""

    def send(self, request: Request) -> None:
        """Begin a request; what it will answer follows at once."""
        self.due_s = self._clock.now_s
        if isinstance(request, OpenStudy):
            self._rungs, self._lanes = request.rungs, {}
            self._length = FullLength(self._response.num_chunks, request.epochs)
            self._reply = StudyOpened()
            return
        if not isinstance(request, ChunkRequest):
            raise TypeError(
                f"a simulated worker cannot answer {request!r}: without a confirmation, no adapter is scored"
            )
        report = self._train(request)
        self._reply = report
        self.due_s += report.elapsed_s
        for number in report.measurements:
            self._times.setdefault(number, [self._clock.now_s]).append(self.due_s)

    def receive(self) -> Reply:
        """Return the reply."""
        self.due_s = math.inf
        return self._reply

    def _train(self, request: ChunkRequest) -> ChunkReport:
        for number in request.evict:
            self._lanes.pop(number, None)
        for admission in request.admit:
            spec = admission.spec
            curve = self._response.curve(spec.params, spec.seed)
            self._lanes[spec.number] = (spec, curve, admission.chunks_done)
        measurements, costs = {}, {}
        for number, (spec, curve, done) in list(self._lanes.items()):
            chunk = done + 1
            num_chunks = trial_chunks(self._length, spec.train.epochs)
            measurements[number], device_s = self._measure(curve, chunk, num_chunks)
            costs[number] = Cost(device_s=device_s)
            self._lanes[number] = (spec, curve, chunk)
            if chunk == num_chunks:
                del self._lanes[number]
        return ChunkReport(
            measurements=measurements,
            costs=costs,
            checkpoints=dict.fromkeys(self._lanes, _CHECKPOINT),
            adapters={number: {} for number in measurements.keys() - self._lanes.keys()},
            # The lanes of a pack share the device equally, so a chunk takes the sum of their times.
            elapsed_s=sum(cost.device_s for cost in costs.values()),
        )

    def _measure(self, curve: Curve, chunk: int, num_chunks: int) -> tuple[Measurement, float]:
        """Return what a trial of so many chunks measures after one of them, and its device seconds."""
        index, num_rows, device_s = chunk - 1, self._response.num_rows, curve.train_s[chunk - 1]
        metrics, scored_rows = {"train/loss": curve.loss[index]}, 0
        if chunk in trial_rungs(self._rungs, num_chunks):
            scored_rows = rows_to_score(chunk, num_chunks=num_chunks, num_rows=num_rows)
            is_half = scored_rows < num_rows
            score, loss = (curve.half_score, curve.half_loss) if is_half else (curve.score, curve.loss)
            metrics |= {self._metric: score[index], "validation/loss": loss[index]}
            device_s += curve.score_s * (scored_rows / num_rows if num_rows else 1.0)
        return Measurement(chunk=chunk, rows=chunk, metrics=metrics, scored_rows=scored_rows), device_s


class SimulatedExecutor:
    """Runs simulated workers in virtual time; the one that is due first answers first.

    Args:
        response: Has the curves.
        clock: Moved on by `wait`.
        metric: Name of the objective.
        num_workers: Workers, each with a device of its own.
        stop_s: When the simulation ends at the latest: what would end later is never answered.
    """

    def __init__(
        self,
        response: ResponseProtocol,
        clock: VirtualClock,
        *,
        metric: str,
        num_workers: int = 1,
        stop_s: float = math.inf,
    ) -> None:
        self._clock, self._stop_s = clock, stop_s
        self.times: dict[int, list[float]] = {}
        """Of each trial, by number: when it started, then the end of each of its chunks, in virtual seconds."""
        self._workers = {
            index: _SimulatedWorker(index, response, clock, metric, self.times) for index in range(num_workers)
        }

    def start(self) -> Sequence[WorkerHandle]:
        """Return the workers."""
        return list(self._workers.values())

    def restart(self, handle: WorkerHandle) -> WorkerHandle:
        """Never called: simulated workers are not lost."""
        raise AssertionError(f"simulated worker {handle.index} was lost")

    def retire(self, handle: WorkerHandle) -> None:
        """Drop a worker."""
        del self._workers[handle.index]

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Move the clock to the next reply, however far away it is, and return the workers that are due then."""
        next_s = min((worker.due_s for worker in self._workers.values()), default=math.inf)
        if not math.isfinite(next_s):
            self._clock.now_s += timeout_s
            return []
        if next_s > self._stop_s:
            raise StopSimulation
        self._clock.now_s = max(self._clock.now_s, next_s)
        return [worker for worker in self._workers.values() if worker.due_s <= next_s]

    def stop(self) -> None:
        """Drop all workers."""
        self._workers.clear()


class StopSimulation(Exception):  # noqa: N818  no error: the time that was asked for is over
    """The time of the simulation is over."""
