"""What do large checkpoints cost a chunk? Lanes of 50 to 500 MB are saved by a worker process, in two ways in turn.

    python benchmarks/checkpoints.py --lanes 1                  rows go to checkpoints.jsonl, a table to checkpoints.md
    python benchmarks/checkpoints.py --mb 1 --rounds 1 --dry    a short form; nothing is recorded

- ``pipe``: the worker sends the bytes, and the controller hashes and writes them, as it does with small ones.
- ``file``: the worker writes and flushes a file and sends its checksum, and the controller moves it.

Measured are the seconds until the controller has the reply (the worker's device is idle then), those until the last
record is written, and the CPU seconds of both processes, on a file system in memory and on a disk. CPU seconds hold on
a busy machine, too. Nothing is trained: how long a chunk takes depends on model and device, so the table has the time
from a checkpoint of a lane to the next one above which they take less than 2 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.arithmetic import table  # noqa: E402  after the path is set
from benchmarks.checkpoint_worker import make_lanes_worker  # noqa: E402
from benchmarks.record import Results, Row, describe_machine  # noqa: E402
from sweeper.control.resume import with_checkpoint  # noqa: E402
from sweeper.execute.base import CheckpointPolicy, Reply, WorkerHandle  # noqa: E402
from sweeper.execute.process import ProcessExecutor  # noqa: E402
from sweeper.store.trials import TrialStore  # noqa: E402
from sweeper.types import ChunkReport, ChunkRequest, TrialState  # noqa: E402
from tests.builders import STUDY, make_opening, make_trial  # noqa: E402

__all__ = ["WAYS", "describe", "main", "measure"]

WAYS = {"pipe": CheckpointPolicy(), "file": CheckpointPolicy(file_bytes=0)}
_BYTES_PER_PARAMETER = 12
_SHARE = 0.02
_PATIENCE_S = 600.0
_NAME = "checkpoints"


def main() -> None:
    """Measure, print and record."""
    asked = _parse()
    rows = []
    for folder in asked.folders:
        for mb in asked.mb:
            with tempfile.TemporaryDirectory(prefix="sweeper-checkpoints-", dir=folder) as place:
                rows += measure(Path(place), mb=mb, lanes=asked.lanes, rounds=asked.rounds)
            print(
                describe([row for row in rows if row["mb"] == mb and row["folder"] == _kind(Path(folder))]), flush=True
            )
    if asked.dry:
        return
    results = Results(ROOT / "benchmarks" / "results", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    results.start(f"{_NAME}: {asked.rounds} rounds of {asked.lanes} lanes")
    for row in rows:
        results.append(_NAME, row)
    text, machine = (__doc__ or "").split("\n\n", 2), describe_machine(results.machine_of(results.run))
    page = f"# Large checkpoints\n\n{text[0]}\n\n{text[2]}\n{describe(rows)}\n\n{machine}\n"
    (results.folder / f"{_NAME}.md").write_text(page)


def measure(folder: Path, *, mb: float, lanes: int, rounds: int) -> list[Row]:
    """Save lanes in both ways in turn; return a row for each chunk.

    Args:
        folder: Where the sweep is.
        mb: Size of a lane's checkpoint.
        lanes: Lanes of the pack.
        rounds: Chunks of each way.
    """
    num_parameters = int(mb * 1_000_000) // _BYTES_PER_PARAMETER
    executors = {
        way: ProcessExecutor(partial(make_lanes_worker, lanes, num_parameters, policy), 1, logs=folder / way / "logs")
        for way, policy in WAYS.items()
    }
    stores = {way: TrialStore(folder / way) for way in WAYS}
    rows = []
    try:
        for way, executor in executors.items():
            (handle,) = executor.start()
            _receive(executor)
            handle.send(make_opening(incoming=stores[way].paths.incoming(STUDY) / "0"))
            _receive(executor)
        for chunk in range(1, rounds + 1):
            for way, executor in executors.items():
                seconds = _save(executor, stores[way], lanes, chunk)
                rows.append({"folder": _kind(folder), "mb": mb, "lanes": lanes, "way": way, "chunk": chunk, **seconds})
    finally:
        for executor in executors.values():
            executor.stop()
    return rows


def _save(executor: ProcessExecutor, store: TrialStore, lanes: int, chunk: int) -> Row:
    """Return the seconds of a chunk's checkpoints: of the worker, until the reply is here, and until all is written."""
    (handle,) = executor.start()
    started_s, before = time.perf_counter(), _cpu_s()
    handle.send(ChunkRequest())
    report = _receive(executor)
    received_s = time.perf_counter()
    assert isinstance(report, ChunkReport)
    for number in range(lanes):
        trial = make_trial(number, state=TrialState.RUNNING, chunks=chunk)
        checkpoint = report.checkpoints[number]
        store.write_trial(with_checkpoint(trial, checkpoint), checkpoint)
    now = _cpu_s()
    return {
        "controller_cpu_s": now[0] - before[0],
        "worker_cpu_s": now[1] - before[1],
        "worker_s": report.elapsed_s,
        "reply_s": received_s - started_s,
        "controller_s": time.perf_counter() - received_s,
        "total_s": time.perf_counter() - started_s,
    }


def _cpu_s() -> tuple[float, float]:
    """Return the CPU seconds of this process and of its workers, of which only one works at a time."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children())]
    used = [each.user + each.system for each in times]
    return used[0], sum(used[1:])


def _receive(executor: ProcessExecutor) -> Reply:
    ready: Sequence[WorkerHandle] = executor.wait(_PATIENCE_S)
    return ready[0].receive()


def _kind(folder: Path) -> str:
    return "memory" if folder.is_relative_to("/dev/shm") else "disk"  # noqa: S108  nothing is written by this name


def describe(rows: Sequence[Row]) -> str:
    """Return a table of medians, in seconds a lane."""
    whats = ("worker_cpu_s", "controller_cpu_s", "reply_s", "total_s")
    lines = []
    for place, mb in dict.fromkeys((row["folder"], row["mb"]) for row in rows):
        medians = {
            way: {what: median(row[what] / row["lanes"] for row in rows if _is(row, place, mb, way)) for what in whats}
            for way in WAYS
        }
        for way, each in medians.items():
            faster = [medians["pipe"][what] / max(each[what], 1e-3) for what in ("reply_s", "total_s")]
            lines.append(
                [
                    f"{place}, {mb:g} MB, {way}",
                    *(f"{each[what]:.2f}" for what in whats),
                    *(f"{ratio:.1f}" for ratio in faster),
                    f"{each['reply_s'] / _SHARE:.0f}",
                ]
            )
    header = [
        "place, size, way",
        "worker's CPU",
        "controller's CPU",
        "until the reply",
        "until written",
        "reply, times as fast",
        "written, times as fast",
        "2 % of (s)",
    ]
    return table(header, lines)


def _is(row: Row, place: str, mb: float, way: str) -> bool:
    return (row["folder"], row["mb"], row["way"]) == (place, mb, way)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=float, nargs="+", default=[50, 200, 500], help="sizes of a lane's checkpoint")
    parser.add_argument("--lanes", type=int, default=2, help="lanes of the pack")
    parser.add_argument("--rounds", type=int, default=3, help="chunks of each way")
    parser.add_argument("--folders", nargs="+", default=["/dev/shm", tempfile.gettempdir()], help="where to write")  # noqa: S108
    parser.add_argument("--dry", action="store_true", help="record nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
