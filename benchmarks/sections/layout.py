"""How the peer script uses the cores best: one process on all cores, or one process with one thread per core.

An expert would try this once; the tuned contenders of `equal_work` and `time_to_score` use the faster one
(`tuned_layout`). The default form remains one process with torch's default threads, as people run it, whatever the
result; `make bench-long` measures it in both layouts.
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
    """Measure both layouts, with one trial per process."""
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
            context.log(f"layout, {form}, {processes} x {threads}: {rate:.1f} trials per hour")


def tuned_layout(results: Results) -> list[str]:
    """Return the options of the tuned script in its faster layout, according to the newest measurement."""
    rates = _rates([row for row in results.latest("layout") if row["contender"] == "tuned"])
    cores = _cores()
    _, processes, threads = max(rates, key=lambda layout: rates[layout], default=("tuned", cores, 1))
    return ["--tuned", "--processes", str(processes), "--threads", str(threads)]


def render(rows: Sequence[Row]) -> str:
    """Return rates, and their ratios to that of one process on all cores."""
    rates = _rates(rows)
    alone = {form: rate for (form, processes, _), rate in rates.items() if processes == 1}
    lines = [
        [form, processes, threads, rate, rate / alone[form]]
        for (form, processes, threads), rate in rates.items()
        if form in alone
    ]
    return table(["peer's form", "processes", "threads each", "trials per hour", "relative to one process"], lines)


def _rates(rows: Sequence[Row]) -> dict[tuple[str, int, int], float]:
    return {
        (row["contender"], row["processes"], row["threads"]): trials_per_hour(row["trials"], by_process=True)
        for row in rows
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))
