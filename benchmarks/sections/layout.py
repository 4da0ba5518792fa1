"""Which use of two cores is quickest for the peer script: one process of two threads, or two processes of one.

An expert would try this once; the tuned contender of `equal_work` uses the winner. The default form stays one process
with torch's default threads, as people run it, whatever this says.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.arithmetic import table, trials_per_hour
from benchmarks.commands import run_peer
from benchmarks.context import Context
from benchmarks.record import Row

__all__ = ["render", "run"]


def run(context: Context) -> None:
    """Measure both forms in both layouts."""
    for form in ("default", "tuned"):
        for processes, threads in ((1, 2), (2, 1)):
            options = ["--trials", "2", "--shared", "0", "1"]
            options += ["--processes", str(processes), "--threads", str(threads)]
            options += ["--tuned"] if form == "tuned" else []
            scratch = context.new_scratch(f"layout-{form}-{processes}")
            finished = run_peer("optuna_trainer", context.peer_options(*options), scratch=scratch)
            row = {"contender": form, "processes": processes, "threads": threads, "trials": finished.trials}
            context.results.append("layout", row)


def render(rows: Sequence[Row]) -> str:
    """Return rates, each beside that of one process of two threads."""
    rates = {(r["contender"], r["processes"]): trials_per_hour(r["trials"], by_process=True) for r in rows}
    lines = [
        [form, processes, 2 // processes, rate, rate / rates[form, 1]]
        for (form, processes), rate in rates.items()
        if (form, 1) in rates
    ]
    return table(["peer's form", "processes", "threads each", "trials an hour", "against one process"], lines)
