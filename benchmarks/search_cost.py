"""How many rows does a search need until it is as good as an older version of it in the end?

    python benchmarks/search_cost.py <older sweep's folder> <newer sweep's folder>

Reads two sweeps of the same datasets (`python -m benchmarks.variants` prints them as an experiment), each trained by
its own version of sweeper. The cost of a search is counted in rows trained, by all its trials up to a moment. Both
versions need about the same time for a row, and unlike seconds, rows do not depend on what else the machine did.
Within a trial, rows are spread evenly over the time from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.arithmetic import table  # noqa: E402  after the path is set

Trial = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Search:
    """The trials of one study, as their records say."""

    metric: str
    trials: list[Trial]

    @classmethod
    def read(cls, study: Path) -> Search:
        """Read a study's folder of any version of the store."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in study.glob("trials/*/trial.json")]
        metric = json.loads((study / "study.json").read_text(encoding="utf-8"))["metric"]
        return cls(metric, [trial for trial in records if trial["measurements"]])

    @property
    def best(self) -> float:
        """The best final score of a complete trial of the search."""
        return max(self._end(trial) for trial in self.trials if self._counts(trial) and trial["state"] == "complete")

    @property
    def default(self) -> float:
        """The final score of the default recipe."""
        return max(self._end(trial) for trial in self.trials if trial["spec"]["origin"] == "recipe:peft_default")

    def rows_until(self, score: float) -> int | None:
        """Return the rows trained until a trial was scored at least ``score``; None if none was."""
        moments = [
            at for trial in self.trials if self._counts(trial) for at, found in self._scores(trial) if found >= score
        ]
        return round(sum(_rows_before(trial, min(moments)) for trial in self.trials)) if moments else None

    @property
    def rows(self) -> int:
        """The rows trained in all."""
        return sum(trial["cost"]["rows"] for trial in self.trials)

    def _counts(self, trial: Trial) -> bool:
        return bool(trial["spec"]["phase"] == "search")

    def _end(self, trial: Trial) -> float:
        return [float(m["metrics"][self.metric]) for m in trial["measurements"] if self.metric in m["metrics"]][-1]

    def _scores(self, trial: Trial) -> Iterator[tuple[float, float]]:
        start, end = _span(trial)
        last = trial["measurements"][-1]["chunk"]
        for measurement in trial["measurements"]:
            if self.metric in measurement["metrics"]:
                yield start + (end - start) * measurement["chunk"] / last, measurement["metrics"][self.metric]


def _rows_before(trial: Trial, moment: float) -> float:
    start, end = _span(trial)
    done = min(1.0, max(0.0, (moment - start) / (end - start))) if end > start else float(moment >= end)
    return float(done * trial["cost"]["rows"])


def _span(trial: Trial) -> tuple[float, float]:
    start, end = (datetime.fromisoformat(trial[key]).timestamp() for key in ("started_at", "finished_at"))
    return start, end


def main() -> None:
    """Compare the studies that both sweeps have, and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path)
    parser.add_argument("newer", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    asked = parser.parse_args()
    rows = []
    for study in sorted((asked.older / "studies").iterdir()):
        if not (asked.newer / "studies" / study.name / "study.json").exists():
            continue
        older, newer = Search.read(study), Search.read(asked.newer / "studies" / study.name)
        needed = newer.rows_until(older.best)
        rows.append(
            {
                "dataset": study.name.split("-")[0],
                "default before": older.default,
                "default now": newer.default,
                "best before": older.best,
                "best now": newer.best,
                "rows before": older.rows_until(older.best),
                "rows now": needed,
            }
        )
    lines = [
        [*row.values(), "never" if row["rows now"] is None else row["rows before"] / row["rows now"]] for row in rows
    ]
    ratios = [0.0 if row["rows now"] is None else row["rows before"] / row["rows now"] for row in rows]
    text = table([*rows[0], "ratio"], lines) + f"\n\nMedian ratio: {statistics.median(ratios):.1f}.\n"
    (asked.results / "search_cost.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (asked.results / "search_cost.md").write_text(
        f"# Rows until the older search's best score\n\n{text}", encoding="utf-8"
    )
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
