"""Adds up the sweeps of a run: a line each while it runs, a table at the end, raw rows and the table as files."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.events import EVENTS

__all__ = ["Report"]


class Report:
    """What a run of the suite has counted so far.

    Args:
        seed: Of the first sweep; each further one has the next.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rows: list[dict[str, Any]] = []
        self._begun_s = time.monotonic()

    @property
    def kills(self) -> int:
        """SIGKILLs sent."""
        return self._sum("kills")

    @property
    def num_bad(self) -> int:
        """Sweeps with complaints."""
        return sum(bool(row["complaints"]) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Take in a sweep."""
        self.rows.append(row)

    @staticmethod
    def line(row: dict[str, Any]) -> str:
        """Return one sweep in one line."""
        verdict = f"{len(row['complaints'])} COMPLAINTS" if row["complaints"] else "all well"
        return (
            f"seed {row['seed']}: {row['trials']} trials, {row['sessions']} sessions, {row['kills']} kills, "
            f"{sum(row['events'].values())} events, {row['elapsed_s']:.0f} s: {verdict} {row['exits']}"
        )

    def table(self, tolerance: float) -> str:
        """Return the counts as Markdown."""
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
            "sessions that the window's end cut off, with trials left": self._sum("cuts"),
            "hung workers that the watchdog killed": self._sum("hung"),
            "trials": self._sum("trials"),
            "trials with an injected fault (no memory, not a number)": self._sum("infeasible"),
            "sweeps whose views `sweeper reconcile` had to repair before the checks": self._num_repaired(),
            "sweeps with a complaint of any kind": self.num_bad,
            "lost": self._sum("lost"),
            "repeated": self._sum("repeated"),
            "zombie processes": self._sum("zombie"),
            "trials whose losses were compared with undisturbed ones": self._sum("compared"),
            f"largest relative difference of a loss (tolerance {tolerance:g})": f"{worst:.1e}",
            "minutes": round((time.monotonic() - self._begun_s) / 60, 1),
        }
        return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in outcomes.items())])

    def write(self, folder: Path, tolerance: float) -> None:
        """Append the raw rows and write the table."""
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with (folder / "chaos.jsonl").open("a", encoding="utf-8") as file:
            for row in self.rows:
                file.write(json.dumps({"run": now, **row}) + "\n")
        head = f"# Chaos\n\nMade by `{self._command()}`, {now}. Raw rows: [chaos.jsonl](chaos.jsonl).\n\n"
        (folder / "chaos.md").write_text(head + self.table(tolerance) + "\n", encoding="utf-8")

    @staticmethod
    def _command() -> str:
        return f"make chaos ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "make chaos"

    def _num_repaired(self) -> int:
        return sum("repaired" in " ".join(row.get("reconcile", [])) for row in self.rows)

    def _sum(self, key: str) -> int:
        return sum(row.get(key, 0) for row in self.rows)
