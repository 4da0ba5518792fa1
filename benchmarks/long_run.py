"""Does a long run grow? Samples memory, open files, threads and disk of one sweep of many tiny trials.

    python benchmarks/long_run.py                  1,000 trials; rows go to benchmarks/results/long_run.jsonl
    python benchmarks/long_run.py --trials 60      a short form, which the tests run; nothing is recorded

Prints the growth of each per 100 trials, fitted to all samples after the first quarter, in which caches fill, and exits
with code 1 if one exceeds its bound.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from chaos.workload import STUDY, SWEEP, Workload  # noqa: E402  after the path is set

_BOUNDS = {
    "controller_mb": 4.0,
    "worker_mb": 1.0,
    "controller_files": 0.5,
    "worker_files": 0.2,
    "controller_threads": 0.2,
    "worker_threads": 0.2,
    "store_kb_per_trial": 24.0,
    "outputs_kb_per_trial": 60.0,
}
"""Largest growth per 100 trials, or per trial for disk. The controller keeps every record in memory: a few KB for the
record and for the lists of Optuna and MLflow."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The state of the run at one moment."""

    trials: int
    elapsed_s: float
    controller_mb: float
    worker_mb: float
    controller_files: int
    worker_files: int
    controller_threads: int
    worker_threads: int
    store_kb: float
    outputs_kb: float


def main() -> None:
    """Run the sweep, sample it, and compare its growth with the bounds."""
    asked = _parse()
    with tempfile.TemporaryDirectory(prefix="sweeper-long-") as folder:
        samples = measure(Path(folder), trials=asked.trials, tracker=asked.tracker)
    found = slopes(samples)
    for name, slope in found.items():
        sys.stdout.write(f"{name:22} {slope:+8.3f} {'' if name.endswith('per_trial') else 'per 100 trials'}\n")
    if asked.trials >= 1000:
        record(samples, found)
    too_much = too_steep(found)
    sys.stdout.write(f"{samples[-1].trials} trials in {samples[-1].elapsed_s:.0f} s: {too_much or 'flat'}\n")
    sys.exit(1 if too_much else 0)


def measure(folder: Path, *, trials: int, tracker: str = "mlflow") -> list[Sample]:
    """Run a sweep with one worker and return about fifty samples of it."""
    inputs = Workload.write_inputs(folder / "inputs")
    more = (
        f"tracker={tracker}",
        "lora.alpha_ratio=1",
        "lora.r=choice(2,4,8)",
        "search=random",
        "store.keep_adapters=10",
    )
    outputs = folder / "outputs"
    work = Workload(inputs=inputs, outputs=outputs, trials=trials, workers=1, seed=0, window="00:00-24:00", more=more)
    work.write_rows()
    store = work.outputs / SWEEP
    samples: list[Sample] = []
    command = [sys.executable, "-m", "sweeper.cli", "run", *work.overrides]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)  # noqa: S603
    started, sampled = time.monotonic(), 0
    controller = psutil.Process(process.pid)
    try:
        while process.poll() is None:
            now = len(list((store / "studies" / STUDY / "trials").glob("*")))
            if now >= sampled + max(2, trials // 50):
                sampled = now
                samples += _sample(controller, now, time.monotonic() - started, outputs=work.outputs)
                sys.stderr.write(f"{samples[-1] if samples else 'no worker yet'}\n")
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"the sweep exited with code {process.returncode}: {(folder / 'log').read_text()[-2000:]}")
    return samples


def slopes(samples: Sequence[Sample]) -> dict[str, float]:
    """Return growth per 100 trials after the first quarter, and kilobytes of disk per trial."""
    if len(samples) < 4:
        raise SystemExit("too few samples: the sweep ended too soon")
    late = [sample for sample in samples if sample.trials >= samples[-1].trials / 4]
    trials = np.array([sample.trials for sample in late], dtype=float)
    found = {}
    for name in asdict(late[0]):
        if name in ("trials", "elapsed_s"):
            continue
        slope = float(np.polyfit(trials, [float(getattr(sample, name)) for sample in late], 1)[0])
        found[f"{name}_per_trial" if name.endswith("_kb") else name] = slope if name.endswith("_kb") else 100 * slope
    return found


def too_steep(found: dict[str, float]) -> str:
    """Return what grows more than its bound; empty if nothing does."""
    over = [f"{name} {slope:.2f} > {_BOUNDS[name]:g}" for name, slope in found.items() if slope > _BOUNDS[name]]
    return "; ".join(over)


def record(samples: Sequence[Sample], found: dict[str, float]) -> None:
    """Append the samples of a run, and its slopes."""
    path = ROOT / "benchmarks" / "results" / "long_run.jsonl"
    path.parent.mkdir(exist_ok=True)
    run = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with path.open("a", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps({"run": run, **asdict(sample)}) + "\n")
        file.write(json.dumps({"run": run, "slopes": found}) + "\n")


def _sample(controller: psutil.Process, trials: int, elapsed_s: float, *, outputs: Path) -> list[Sample]:
    try:
        workers = controller.children()
        if not workers:
            return []
        mine, theirs = _process(controller), _process(workers[0])
    except psutil.NoSuchProcess:
        return []
    return [
        Sample(
            trials=trials,
            elapsed_s=round(elapsed_s, 1),
            controller_mb=mine.mb,
            worker_mb=theirs.mb,
            controller_files=mine.files,
            worker_files=theirs.files,
            controller_threads=mine.threads,
            worker_threads=theirs.threads,
            store_kb=_size(outputs / SWEEP / "studies") / 1024,
            outputs_kb=_size(outputs) / 1024,
        )
    ]


class _Usage(NamedTuple):
    mb: float
    files: int
    threads: int


def _process(process: psutil.Process) -> _Usage:
    with process.oneshot():
        return _Usage(round(process.memory_info().rss / 2**20, 2), process.num_fds(), process.num_threads())


def _size(folder: Path) -> int:
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name)).st_size  # noqa: PTH116, PTH118  thousands of files
            except FileNotFoundError:
                continue
    return total


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does a long run grow?")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--tracker", default="mlflow")
    return parser.parse_args()


if __name__ == "__main__":
    main()
