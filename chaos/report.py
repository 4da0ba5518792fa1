"""Reports a run of the suite: one line per sweep, a table of totals at the end, and both as files."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.events import EVENTS
from chaos.evidence import commit, upper_bound

__all__ = ["Report"]


class Report:
    """The counts of a run so far.

    Args:
        seed: The seed of the first sweep; each further sweep has the next one.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rows: list[dict[str, Any]] = []
        self._started_s = time.monotonic()

    @property
    def kills(self) -> int:
        """The number of SIGKILLs sent."""
        return self._sum("kills")

    @property
    def num_bad(self) -> int:
        """The number of sweeps with problems."""
        return sum(bool(row["problems"]) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Add the counts of a sweep."""
        self.rows.append(row)

    @staticmethod
    def line(row: dict[str, Any]) -> str:
        """Describe one sweep in one line."""
        result = f"{len(row['problems'])} PROBLEMS" if row["problems"] else "no problems"
        return (
            f"seed {row['seed']}: {row['trials']} trials, {row['sessions']} sessions, {row['kills']} kills, "
            f"{sum(row['events'].values())} events, {row['elapsed_s']:.0f} s: {result}, exit codes {row['exits']}"
        )

    def table(self, tolerance: float) -> str:
        """Return the totals as Markdown."""
        events: Counter[str] = Counter()
        for row in self.rows:
            events.update(row["events"])
        doc = {
            name: (event.__doc__ or "").splitlines()[0].split(". ")[0].split("; ")[0].rstrip(".")
            for name, event in EVENTS.items()
        }
        lines = ["| event | times |", "| --- | --- |"]
        lines += [f"| {doc[name]} (`{name}`) | {events[name]} |" for name in EVENTS]
        lines += ["", "| outcome | |", "| --- | --- |"]
        worst = max((row.get("max_loss_difference", 0.0) for row in self.rows), default=0.0)
        outcomes = {
            "sweeps": len(self.rows),
            "sessions (starts of the same command)": self._sum("sessions"),
            "kills": self.kills,
            "sessions that the end of the window stopped, with trials left": self._sum("cuts"),
            "hung workers that the watchdog killed": self._sum("hung"),
            "trials": self._sum("trials"),
            "trials with an injected fault (out of memory, NaN)": self._sum("infeasible"),
            "sweeps in which `sweeper reconcile` repaired Optuna or MLflow before the checks": self._num_repaired(),
            "sweeps with a problem of any kind": self.num_bad,
            "lost trials": self._sum("lost"),
            "repeated trials": self._sum("repeated"),
            "processes left behind": self._sum("zombie"),
            "trials whose losses were compared with those of undisturbed training": self._sum("compared"),
            f"largest relative difference of a loss (tolerance {tolerance:g})": f"{worst:.1e}",
            **self._bounds(),
            "minutes": round((time.monotonic() - self._started_s) / 60, 1),
        }
        return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in outcomes.items())])

    def write(self, folder: Path, tolerance: float) -> None:
        """Append the rows to chaos.jsonl, and write the table to chaos.md."""
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with (folder / "chaos.jsonl").open("a", encoding="utf-8") as file:
            for row in self.rows:
                file.write(json.dumps({"run": now, "commit": commit(), **row}) + "\n")
        made = f"Made by `{self._command()}`, {now}, commit {commit()}. Raw rows: [chaos.jsonl](chaos.jsonl)."
        head = f"# Chaos\n\n{made}\n\n"
        (folder / "chaos.md").write_text(head + self.table(tolerance) + "\n", encoding="utf-8")

    @staticmethod
    def _command() -> str:
        return f"make chaos ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "make chaos"

    def _bounds(self) -> dict[str, str]:
        """Return the rates that zero observed losses allow; nothing if there was a loss."""
        if self._sum("lost") or self._sum("repeated"):
            return {}
        of = {"trials lost or repeated": self._sum("trials"), "kills that lose a trial": self.kills}
        return {f"{what}: highest rate that none seen allows (95 %)": f"{upper_bound(n):.2%}" for what, n in of.items()}

    def _num_repaired(self) -> int:
        return sum("repaired" in " ".join(row.get("reconcile", [])) for row in self.rows)

    def _sum(self, key: str) -> int:
        return sum(row.get(key, 0) for row in self.rows)
