"""Do sweeps with other seeds agree, and do test scores lie where the confirmation expects them?

    sweeper run seed=1 name=seed1 ...                               as many sweeps as you like
    python benchmarks/confirmations.py outputs/seed1 outputs/seed2  records their answers, and writes the tables
    python benchmarks/confirmations.py                              only writes the tables again

Reads best.json of each sweep. Rows are appended to <results>/confirmations.jsonl, one for each study; confirmations.md
has the tables. A sweep that is recorded already is replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.arithmetic import table  # noqa: E402  after the path
from sweeper.disk.atomic import write_atomic  # noqa: E402
from sweeper.figures.hyperparameters import params_text  # noqa: E402

Row = Mapping[str, Any]


def main() -> None:
    """Record the given sweeps, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", type=Path, help="folders of sweeps")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    asked = parser.parse_args()
    path = asked.results / "confirmations.jsonl"
    known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    names = {sweep.name for sweep in asked.sweeps}
    rows = [row for row in known if row["sweep"] not in names]
    rows += [row for sweep in asked.sweeps for row in read_answers(sweep)]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_atomic(asked.results / "confirmations.md", render(rows).encode())


def read_answers(sweep: Path) -> list[Row]:
    """Return a row for each confirmed study of a sweep."""
    best = json.loads((sweep / "best.json").read_text(encoding="utf-8"))
    record = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
    about = {
        "sweep": best["sweep"],
        "seed": record["settings"]["seed"],
        "commit": record["provenance"]["git"]["commit"],
    }
    return [{**about, **_answer(study)} for study in best["studies"] if study["confirmation"]]


def _answer(study: Row) -> Row:
    found = study["confirmation"]
    return {
        "dataset": study["dataset"],
        "num_rows": found["num_rows"],
        "num_seeds": found["num_seeds"],
        "share": found["share"],
        "wall_s": study["wall_s"],
        "recommended": found["recommended"],
        "best": found["best"],
        "equivalent": found["equivalent"],
        "candidates": {
            each["name"]: {
                "params": each["params"],
                "value": each["metrics"][study["metric"]],
                "against_default": each["against_default"] and each["against_default"]["verdict"],
                "gain": each["against_default"] and each["against_default"]["gain"],
                "test": each["test"],
            }
            for each in found["candidates"]
            if each["metrics"]
        },
    }


def render(rows: Sequence[Row]) -> str:
    """Return confirmations.md."""
    return "\n\n".join(["# Confirmations", _agreement(rows), _honesty(rows)]) + "\n"


def _agreement(rows: Sequence[Row]) -> str:
    by_dataset: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_dataset[row["dataset"]].append(row)
    header = [
        "dataset",
        "seed",
        "fresh rows",
        "recommended",
        "gain over the default",
        "configuration",
        "equals",
        "minutes",
    ]
    lines = []
    for dataset, found in sorted(by_dataset.items()):
        for row in found:
            chosen = row["candidates"][row["recommended"]]
            gain = chosen["gain"]
            text = f"{gain['estimate']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" if gain else "-"
            about = [dataset, row["seed"], row["num_rows"], row["recommended"], text, params_text(chosen["params"])]
            lines.append([*about, ", ".join(row["equivalent"]), f"{row['wall_s'] / 60:.1f}"])
    note = (
        "Equals are the candidates that were not shown to be worse than the best, and the recommended one. Minutes are "
        "wall-clock time of search and confirmation; studies of a sweep run side by side, some beside other work."
    )
    return f"## What sweeps with other seeds recommend\n\n{note}\n\n{table(header, lines)}"


def _honesty(rows: Sequence[Row]) -> str:
    header = ["dataset", "seed", "candidate", "comparison", "expected on test rows", "test rows", "inside"]
    lines, inside = [], []
    for row in rows:
        for name, each in row["candidates"].items():
            if each["test"] is None:
                continue
            low, high = (each["test"]["expected"][end] for end in ("low", "high"))
            inside.append(low <= each["test"]["value"] <= high)
            lines.append(
                [
                    row["dataset"],
                    row["seed"],
                    name,
                    f"{each['value']['estimate']:.4f}",
                    f"{low:.4f} to {high:.4f}",
                    f"{each['test']['value']:.4f}",
                    "yes" if inside[-1] else "no",
                ]
            )
    note = (
        f"{sum(inside)} of {len(inside)} test scores lie in the range of 95 % in which the rows of the comparison "
        "expect them. Candidates of a study share their test rows, so they are right or wrong together."
    )
    return f"## Expected and real scores on test rows\n\n{note}\n\n{table(header, lines)}"


if __name__ == "__main__":
    main()
