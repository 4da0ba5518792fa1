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
import contextlib
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from chaos.checks import LOSS_TOLERANCE, check_all, needed_repairs  # noqa: E402  after the path is set
from chaos.driver import Driver, Plan  # noqa: E402
from chaos.events import EVENTS  # noqa: E402
from chaos.fork_server import ForkServer  # noqa: E402
from chaos.history import HISTORY, read_events  # noqa: E402
from chaos.history_check import check  # noqa: E402
from chaos.report import Report  # noqa: E402
from chaos.session import ChaosError  # noqa: E402
from chaos.undisturbed import Undisturbed  # noqa: E402
from chaos.workload import Workload  # noqa: E402
from sweeper.store.paths import OutputsPaths  # noqa: E402

_DISK_MB = 48
_MAX_BAD = 3
"""A run stops after this many sweeps with problems."""


def main() -> None:
    """Run sweeps until there were enough kills; exit with code 1 if there was any problem."""
    asked = _parse()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT by default
    folder = Path(tempfile.mkdtemp(prefix="sweeper-chaos-"))
    Workload.write_inputs(folder / "inputs")
    report = Report(asked.seed)
    undisturbed = Undisturbed(_workload(folder, asked, 0).overrides)
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
        row = _one(
            _workload(folder, asked, number),
            sweep,
            asked,
            undisturbed=undisturbed,
            fork_server=fork_server,
            number=number,
        )
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
    )


def _one(
    workload: Workload,
    sweep: Path,
    asked: argparse.Namespace,
    *,
    undisturbed: Undisturbed,
    fork_server: ForkServer | None,
    number: int,
) -> dict[str, Any]:
    started = time.monotonic()
    with _small_disk(workload.outputs) as has_disk:
        shutil.copy(OutputsPaths(workload.inputs).mlflow_db, workload.outputs)  # creating its 65 tables takes seconds
        kinds = [kind for kind in EVENTS if kind != "fill_disk" or has_disk]
        plan = Plan(seed=asked.seed + number, kills=asked.kills_per_sweep, kinds=kinds, is_short=asked.short)
        driver = Driver(workload, plan, sweep, fork_server)
        problems: list[str] = []
        row: dict[str, Any] = {"seed": asked.seed + number, "trials": workload.trials, "workers": workload.workers}
        try:
            driver.run()
            problems = check(read_events(sweep / HISTORY), driver.store.root)
            row["history"] = len(problems)
            repaired = driver.reconcile()
            row["reconcile"] = repaired.splitlines()[-1:]
            problems += needed_repairs(repaired, mlflow_was_taken=driver.events["take_mlflow_away"] > 0)
            found = check_all(
                workload.outputs,
                trials=workload.trials,
                seen=driver.seen,
                spent_s=driver.spent_s,
                undisturbed=undisturbed,
            )
        except ChaosError as error:
            problems.append(str(error))
        except Exception:  # noqa: BLE001  the counts of the other sweeps must not be lost
            problems.append(traceback.format_exc())
        else:
            found.zombies = driver.zombies
            problems += found.problems
            row |= {"cuts": driver.cuts, "hung": found.num_hung, "infeasible": found.num_infeasible}
            row |= {"lost": len(found.lost), "repeated": len(found.repeated), "zombie": len(found.zombies)}
            row |= {"max_loss_difference": found.max_loss_difference, "compared": found.num_compared}
        if (problems or asked.keep) and has_disk:
            shutil.copytree(workload.outputs, sweep / "kept", ignore_dangling_symlinks=True)
    row |= {
        "events": dict(driver.events),
        "kills": driver.kills,
        "sessions": driver.sessions,
        "exits": dict(driver.exits),
    }
    return {**row, "elapsed_s": round(time.monotonic() - started, 1), "problems": problems}


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system on a folder, if this process may; yield whether it did."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs"]
    mounted = os.geteuid() == 0 and subprocess.run(["mount", *options, str(folder)], check=False).returncode == 0  # noqa: S603, S607
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)  # noqa: S603, S607


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
    parser.add_argument("--jobs", type=int, default=0, help="sweeps to run in parallel (default: 2, or 1 with --short)")
    parser.add_argument("--short", action="store_true", help="run one small sweep, and record nothing")
    parser.add_argument("--keep", action="store_true", help="keep the files even if there is no problem")
    asked = parser.parse_args()
    asked.jobs = asked.jobs or (1 if asked.short else 2)
    return asked


if __name__ == "__main__":
    main()
