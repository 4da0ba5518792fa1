"""Which use of the cores is quickest for the peer script: one process of all cores, or a process of one thread a core.

An expert would try this once; the tuned contender of `equal_work` and `quality` uses the winner (`tuned_layout`). The
default form stays one process with torch's default threads, as people run it, whatever this says; it is measured in
both ways in `make bench-long` only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmarks.arithmetic import table, trials_per_hour
from benchmarks.commands import run_peer
from benchmarks.context import Context
from benchmarks.record import Results, Row

__all__ = ["render", "run", "tuned_layout"]


def run(context: Context) -> None:
    """Measure both layouts, a trial a process."""
    cores = _cores()
    for form in ("tuned", "default") if context.form == "long" else ("tuned",):
        for processes, threads in ((1, cores), (cores, 1)):
            points = [str(index) for index in range(processes)]
            options = ["--trials", str(processes), "--processes", str(processes), "--threads", str(threads)]
            options += [*(["--tuned"] if form == "tuned" else []), "--shared", *points]
            scratch = context.new_scratch(f"layout-{form}-{processes}")
            finished = run_peer("optuna_trainer", context.peer_options(*options), scratch=scratch)
            row = {"contender": form, "processes": processes, "threads": threads, "trials": finished.trials}
            context.results.append("layout", row)
            rate = trials_per_hour(finished.trials, by_process=True)
            context.say(f"layout, {form}, {processes} x {threads}: {rate:.1f} trials an hour")


def tuned_layout(results: Results) -> list[str]:
    """Return the options of the tuned script in its quicker layout, by the newest measurement."""
    rates = _rates([row for row in results.latest("layout") if row["contender"] == "tuned"])
    cores = _cores()
    _, processes, threads = max(rates, key=lambda layout: rates[layout], default=("tuned", cores, 1))
    return ["--tuned", "--processes", str(processes), "--threads", str(threads)]


def render(rows: Sequence[Row]) -> str:
    """Return rates, each beside that of one process of all cores."""
    rates = _rates(rows)
    alone = {form: rate for (form, processes, _), rate in rates.items() if processes == 1}
    lines = [
        [form, processes, threads, rate, rate / alone[form]]
        for (form, processes, threads), rate in rates.items()
        if form in alone
    ]
    return table(["peer's form", "processes", "threads each", "trials an hour", "against one process"], lines)


def _rates(rows: Sequence[Row]) -> dict[tuple[str, int, int], float]:
    return {
        (row["contender"], row["processes"], row["threads"]): trials_per_hour(row["trials"], by_process=True)
        for row in rows
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))
