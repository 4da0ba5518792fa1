"""What does the controller itself cost? Runs many trials on workers that train nothing, with search, store and display.

    python benchmarks/controller.py                  10,000 trials on 8 workers of 8 lanes; rows go to controller.jsonl
    python benchmarks/controller.py --trials 300     a short form, which the tests run; nothing is recorded

Prints, for each thousand trials, CPU time per trial (all threads, without the workers' own), how long a worker waits
from its report to its next request, and memory. The search is `search=tpe` with successive halving.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.record import Results  # noqa: E402  after the path is set
from sweeper.display.live_view import LiveView  # noqa: E402
from sweeper.display.progress import study_progress  # noqa: E402
from sweeper.execute.base import Reply, Request, WorkerHandle  # noqa: E402
from sweeper.store.provenance import collect  # noqa: E402
from tests.control.bench import Bench, KilledExecutor  # noqa: E402

_CHUNK_S = 2.0
"""A short chunk of a real sweep. A worker may wait for 2 % of it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the run, usually a thousand trials."""

    trials: int
    """Trials finished at its end."""
    cpu_ms_per_trial: float
    wait_ms_median: float
    """From a worker's report to its next request. The same below, for reports with a rung."""
    wait_ms_p99: float
    rung_wait_ms_median: float
    rung_wait_ms_p99: float
    rss_mb: float


def main() -> None:
    """Measure, print, and record a full run."""
    asked = _parse()
    with tempfile.TemporaryDirectory(prefix="sweeper-controller-") as folder:
        parts = measure(Path(folder), trials=asked.trials, workers=asked.workers, lanes=asked.lanes)
    for part in parts:
        print("  ".join(f"{name}={value:g}" for name, value in asdict(part).items()))
    limits = f"10 ms a trial, and 2 % of a chunk of {_CHUNK_S:g} s, {20 * _CHUNK_S:g} ms"
    print(f"{collect()['machine']['cpu']}; limits: {limits}")
    if asked.trials >= 10_000:
        results = Results(ROOT / "benchmarks" / "results", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        results.start(f"controller: {asked.trials} trials, {asked.workers} workers of {asked.lanes} lanes")
        for part in parts:
            results.append("controller", {"workers": asked.workers, "lanes": asked.lanes, **asdict(part)})


def measure(folder: Path, *, trials: int, workers: int = 8, lanes: int = 8) -> list[Part]:
    """Run a sweep of fake trials in ``folder``; return about ten parts of it."""
    bench = Bench(folder, num_trials=trials, num_workers=workers, lanes=lanes, keep_adapters=20)
    bench.search = replace(bench.search, num_startup_trials=10)
    bench.events = deque(maxlen=1)
    recorder = _Recorder(bench, size=max(1, trials // 10))
    _Executor.recorder = recorder
    bench._executor = _Executor
    recorder.begin()
    bench.run(on_change=recorder)
    return recorder.parts


class _Recorder:
    """Shows the progress as a sweep does, and notes what each part of the run cost."""

    def __init__(self, bench: Bench, size: int) -> None:
        self._bench, self._size = bench, size
        self._view = LiveView(Console(file=io.StringIO()))
        self._begun_s = 0.0
        self.parts: list[Part] = []
        self.workers_s = 0.0
        self.waits_s: list[float] = []
        self.rung_waits_s: list[float] = []

    def begin(self) -> None:
        """Start a part."""
        self.workers_s = 0.0
        self.waits_s, self.rung_waits_s = [], []
        self._begun_s = time.process_time()

    def __call__(self) -> None:
        controller = self._bench.controller
        (run,) = self._bench.runs
        assert controller is not None
        recipe, budget = self._bench.search.recipes[0].name, self._bench.num_trials
        progress = study_progress(run.record, run.tally, budget=budget, wall_s=run.tally.wall_s(), default=recipe)
        controller.forecast.ends_at(self._bench.num_workers)
        self._view.update([progress])
        finished = run.tally.num_finished
        new = finished - (self.parts[-1].trials if self.parts else 0)
        if new >= self._size or (new and finished == budget):
            self._end(finished)

    def _end(self, num_finished: int) -> None:
        cpu_s = time.process_time() - self._begun_s - self.workers_s
        before = self.parts[-1].trials if self.parts else 0
        self.parts.append(
            Part(
                trials=num_finished,
                cpu_ms_per_trial=round(1000 * cpu_s / (num_finished - before), 3),
                wait_ms_median=_ms(self.waits_s, 0.5),
                wait_ms_p99=_ms(self.waits_s, 0.99),
                rung_wait_ms_median=_ms(self.rung_waits_s, 0.5),
                rung_wait_ms_p99=_ms(self.rung_waits_s, 0.99),
                rss_mb=round(psutil.Process().memory_info().rss / 1e6, 1),
            )
        )
        self.begin()


class _Executor(KilledExecutor):
    """Gives the controller handles that measure how long a worker waits."""

    recorder: _Recorder

    def start(self) -> Sequence[WorkerHandle]:
        return [_Handle(handle, self.recorder) for handle in super().start()]


class _Handle:
    """Measures the worker's own time, and the time from a report to the next request."""

    def __init__(self, handle: WorkerHandle, recorder: _Recorder) -> None:
        self.index, self._handle, self._recorder = handle.index, handle, recorder
        self._reported_s: float | None = None
        self._is_rung = False

    def receive(self) -> Reply:
        begun_s = time.thread_time()
        reply = self._handle.receive()
        self._recorder.workers_s += time.thread_time() - begun_s
        measurements = getattr(reply, "measurements", {})
        self._reported_s = time.perf_counter() if measurements else None
        self._is_rung = any(measurement.is_rung for measurement in measurements.values())
        return reply

    def send(self, request: Request) -> None:
        if self._reported_s is not None:
            waits = self._recorder.rung_waits_s if self._is_rung else self._recorder.waits_s
            waits.append(time.perf_counter() - self._reported_s)
        self._handle.send(request)


def _ms(seconds: Sequence[float], quantile: float) -> float:
    ordered = sorted(seconds)
    return round(1000 * ordered[int(quantile * (len(ordered) - 1))], 2) if ordered else 0.0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--lanes", type=int, default=8, help="of each worker")
    return parser.parse_args()


if __name__ == "__main__":
    main()
