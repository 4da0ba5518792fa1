"""Makes or extends the tables of real trials: every setting trained to the end, scored after every chunk.

    python -m benchmarks.tables.make                     all tables, in the order of PLANS
    python -m benchmarks.tables.make trec sms_spam       some of them

A table is ``<name>.parquet`` beside this file; README.md there describes its columns. First come `_NUM_SETTINGS` points
of one Sobol sequence with seed 0, then `_NUM_REPEATED` of these settings with three further seeds: the best ones, and
others evenly spread over the ranks. What a table has already is not trained again, so the command can be killed at any
time and repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.tables.plans import PLANS
from sweeper.disk.atomic import write_atomic
from sweeper.execute.process import worker_environment

FOLDER = Path(__file__).resolve().parent
_NUM_SETTINGS = 96
_NUM_REPEATED = 16
_NUM_BEST = 8
"""Repeated settings that are the best ones; the others are spread over the ranks."""
_SEEDS = (1, 2, 3)

Trial = tuple[int, int]
"""Setting and seed."""


def main() -> None:
    """Train what the tables lack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="table", help=", ".join(PLANS))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sweeper"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--serve", metavar="table", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cache = asked.cache.expanduser()
    if asked.serve:
        _serve(asked.serve, cache)
        return
    names = asked.names or list(PLANS)
    unknown = sorted(set(names) - set(PLANS))
    if unknown:
        parser.error(f"table {unknown[0]} is unknown; known: {', '.join(PLANS)}")
    # A table without further seeds is useful already, so all tables get their settings first.
    for wanted in (all_settings, further_seeds):
        for name in names:
            make_table(name, wanted, folder=asked.folder, cache=cache)


def all_settings(frame: pd.DataFrame) -> list[Trial]:  # noqa: ARG001  like further_seeds
    """Return every setting with the first seed."""
    return [(setting, 0) for setting in range(_NUM_SETTINGS)]


def further_seeds(frame: pd.DataFrame) -> list[Trial]:
    """Return the repeated settings with further seeds."""
    settings = repeated_settings(frame)
    return [(setting, seed) for seed in _SEEDS for setting in settings]


def make_table(name: str, wanted: Callable[[pd.DataFrame], list[Trial]], *, folder: Path, cache: Path) -> None:
    """Train the trials that a table lacks; write it after every pack.

    Args:
        name: Its key in `PLANS`.
        wanted: Returns the trials that it should have.
        folder: Where the table is written.
        cache: Folder of fetched models and datasets.
    """
    path, plan = folder / f"{name}.parquet", PLANS[name]
    frame = pd.read_parquet(path) if path.exists() else pd.DataFrame()
    worker: subprocess.Popen[str] | None = None
    known = set() if frame.empty else set(zip(frame["setting"], frame["seed"], strict=True))
    missing = [trial for trial in wanted(frame) if trial not in known]
    for first in range(0, len(missing), plan.lanes):
        worker = worker or _start(name, cache)
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(missing[first : first + plan.lanes]) + "\n")
        worker.stdin.flush()
        reply = json.loads(worker.stdout.readline())
        frame = pd.concat([frame, pd.DataFrame(reply["rows"])], ignore_index=True)
        frame = frame.sort_values(["seed", "setting", "chunk"], ignore_index=True)
        _write(frame, path, reply["about"])
        sys.stderr.write(f"{name}: {frame.groupby(['seed', 'setting']).ngroups} trials\n")
    if worker is not None:
        worker.communicate()


def repeated_settings(frame: pd.DataFrame) -> list[int]:
    """Return the settings to train with further seeds: the best ones, and others evenly spread over the ranks.

    Args:
        frame: A table with all settings of seed 0.
    """
    first = frame[frame["seed"] == 0]
    last = first[first["chunk"] == first["chunk"].max()].sort_values(["score", "setting"], ascending=[False, True])
    ranked = [int(setting) for setting in last["setting"]]
    step = (len(ranked) - _NUM_BEST) / (_NUM_REPEATED - _NUM_BEST)
    others = [ranked[_NUM_BEST + int((position + 0.5) * step)] for position in range(_NUM_REPEATED - _NUM_BEST)]
    return sorted([*ranked[:_NUM_BEST], *others])


def _write(frame: pd.DataFrame, path: Path, about: Mapping[str, Any]) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({"sweeper": json.dumps(about)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def _start(name: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.tables.make", "--serve", name, "--cache", str(cache)]
    environment = {**worker_environment("", 1), "PYTHONPATH": str(FOLDER.parents[1])}
    return subprocess.Popen(  # noqa: S603  this module
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _serve(name: str, cache: Path) -> None:
    """Answer each line, the trials of a pack, with a line: their rows, and what the table is about."""
    from benchmarks.tables.worker import TableWorker

    worker = TableWorker(PLANS[name], cache)
    for line in sys.stdin:
        rows = worker.train([(setting, seed) for setting, seed in json.loads(line)])
        sys.stdout.write(json.dumps({"rows": rows, "about": worker.about}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
