"""Runs one sweep under fault injection from its files to its checks. `run` and `mutation` call it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.checks import check_all, needed_repairs
from chaos.driver import Driver, Plan
from chaos.fork_server import ForkServer
from chaos.history import HISTORY, read_events
from chaos.history_check import check
from chaos.session import ChaosError
from chaos.undisturbed import Undisturbed
from chaos.workload import Workload
from sweeper.store.paths import OutputsPaths

__all__ = ["disturb"]

_DISK_MB = 48


def disturb(
    workload: Workload,
    folder: Path,
    plan: Plan,
    *,
    keep: bool,
    undisturbed: Undisturbed,
    fork_server: ForkServer | None,
) -> dict[str, Any]:
    """Run a sweep with the events of a plan, check it, and return its counts and problems.

    Args:
        workload: The sweep.
        folder: An empty folder for it.
        plan: The events; ``fill_disk`` is left out where this process may not mount a small disk.
        keep: Whether to keep the files even if there is no problem.
        undisturbed: Trains the trials again.
        fork_server: Forks the controllers.
    """
    started = time.monotonic()
    with _small_disk(workload.outputs) as has_disk:
        workload.write_rows()
        shutil.copy(OutputsPaths(workload.inputs).mlflow_db, workload.outputs)  # creating its 65 tables takes seconds
        driver = Driver(workload, plan if has_disk else plan.without("fill_disk"), folder, fork_server)
        problems: list[str] = []
        row: dict[str, Any] = {"seed": plan.seed, "kind": workload.kind, "workers": workload.workers}
        row["trials"] = workload.trials * len(workload.studies)
        try:
            driver.run()
            problems = check(read_events(folder / HISTORY), driver.store.root)
            row["history"] = len(problems)
            repaired = driver.reconcile()
            row["reconcile"] = repaired.splitlines()[-1:]
            problems += needed_repairs(repaired, mlflow_was_taken=driver.events["take_mlflow_away"] > 0)
            found = check_all(workload, seen=driver.seen, spent_s=driver.spent_s, undisturbed=undisturbed)
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
        if (problems or keep) and has_disk:
            shutil.copytree(workload.outputs, folder / "kept", ignore_dangling_symlinks=True)
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
