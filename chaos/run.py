"""Kill sweeps and count what was lost. `make chaos` runs the long form, `make chaos-short` the form that CI runs.

    python chaos/run.py                  at least 210 kills; 15 minutes on two idle cores
    python chaos/run.py --short          one sweep, each kind of event once; under two minutes
    python chaos/run.py --seed 7         other moments; a failed run prints its seed and keeps its folder
    python chaos/run.py --kills 20
    python chaos/run.py --minutes 10     start no further sweep after this time

The long form appends one row per sweep to chaos/results/chaos.jsonl and writes the totals to chaos/results/chaos.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from chaos.checks import LOSS_TOLERANCE  # noqa: E402  after the path is set
from chaos.driver import Plan  # noqa: E402
from chaos.events import EVENTS  # noqa: E402
from chaos.fork_server import ForkServer  # noqa: E402
from chaos.one_sweep import disturb  # noqa: E402
from chaos.report import Report  # noqa: E402
from chaos.undisturbed import Undisturbed  # noqa: E402
from chaos.workload import KINDS, SHORT_KIND, Workload  # noqa: E402

_MAX_BAD = 3
"""A run stops after this many sweeps with problems."""


def main() -> None:
    """Run sweeps until there were enough kills; exit with code 1 if there was any problem."""
    asked = _parse()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT by default
    folder = Path(tempfile.mkdtemp(prefix="sweeper-chaos-"))
    Workload.write_inputs(folder / "inputs")
    report = Report(asked.seed)
    undisturbed = Undisturbed()
    fork_server = ForkServer(ROOT)
    numbers = itertools.count()
    with ThreadPoolExecutor(asked.jobs) as pool:
        work = [
            pool.submit(
                _sweeps, folder, asked, numbers, report=report, undisturbed=undisturbed, fork_server=fork_server
            )
            for _ in range(asked.jobs)
        ]
    for each in work:
        each.result()
    sys.stdout.write(report.table(LOSS_TOLERANCE) + "\n")
    if not asked.short:
        report.write(ROOT / "chaos" / "results", LOSS_TOLERANCE)
    if report.num_bad or asked.keep:
        sys.stdout.write(f"seed {asked.seed}: the files are kept in {folder}\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if report.num_bad:
        sys.exit(1)


def _sweeps(
    folder: Path,
    asked: argparse.Namespace,
    numbers: Iterator[int],
    *,
    report: Report,
    undisturbed: Undisturbed,
    fork_server: ForkServer | None,
) -> None:
    """Run one sweep after the other until there were enough kills, or too many sweeps with problems."""
    end = time.monotonic() + asked.minutes * 60
    while report.kills < asked.kills and report.num_bad < _MAX_BAD and time.monotonic() < end:
        number = next(numbers)
        sweep = folder / f"sweep-{number}"
        plan = Plan(seed=asked.seed + number, kills=asked.kills_per_sweep, kinds=list(EVENTS), is_short=asked.short)
        workload = _workload(folder, asked, number)
        row = disturb(workload, sweep, plan, keep=asked.keep, undisturbed=undisturbed, fork_server=fork_server)
        report.add(row)
        sys.stdout.write("\n".join([report.line(row), *row["problems"]]) + "\n")
        sys.stdout.flush()
        if not row["problems"] and not asked.keep:
            shutil.rmtree(sweep, ignore_errors=True)
        if asked.short:
            return


def _workload(folder: Path, asked: argparse.Namespace, number: int) -> Workload:
    trials = asked.trials
    return Workload(
        inputs=folder / "inputs",
        outputs=folder / f"sweep-{number}" / "outputs",
        trials=trials,
        workers=1 + number % 2,
        seed=asked.seed + number,
        kind=asked.kind or (SHORT_KIND if asked.short else KINDS[number % len(KINDS)]),
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill sweeps at seeded moments, and count what was lost.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first sweep")
    parser.add_argument("--kills", type=int, default=210, help="start no further sweep after this many kills")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start no further sweep after this many minutes"
    )
    parser.add_argument("--trials", type=int, default=48, help="trials per sweep")
    parser.add_argument(
        "--kills-per-sweep", type=int, default=20, help="kills after which a sweep may finish undisturbed"
    )
    parser.add_argument("--kind", choices=KINDS, default="", help="kind of all sweeps; by default each in turn")
    parser.add_argument("--jobs", type=int, default=0, help="sweeps to run in parallel (default: 2, or 1 with --short)")
    parser.add_argument("--short", action="store_true", help="run one small sweep, and record nothing")
    parser.add_argument("--keep", action="store_true", help="keep the files even if there is no problem")
    asked = parser.parse_args()
    asked.jobs = asked.jobs or (1 if asked.short else 2)
    return asked


if __name__ == "__main__":
    main()
