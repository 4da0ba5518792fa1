"""Where a training step goes: two workers at work together, a pack of 8 lanes each at ranks 1 to 64, dropout 0.1.

One chunk is trained without and one with `operators.OperatorTimes`, in turn. Shares are of the chunk without; what no
operator accounts for is Python, autograd and torch's own dispatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.arithmetic import table
from benchmarks.context import Context
from benchmarks.operators import KINDS
from benchmarks.record import Row
from benchmarks.sections.throughput import open_drivers, together

__all__ = ["render", "run"]


def run(context: Context) -> None:
    """Measure each dataset."""
    ranks = list(context.sizes.profile_ranks)
    for dataset in context.sizes.datasets:
        with ExitStack() as stack:
            drivers = open_drivers(context, stack, dataset=dataset, workers=2, threads=1)
            answers = together(drivers, {"do": "profile", "ranks": ranks})
        context.results.append("profile", _sum(answers) | {"dataset": dataset, "ranks": ranks})
        context.say(f"profile, {dataset}: {_share(answers):.0%} of a step are products with frozen weights")


def _sum(answers: Sequence[Row]) -> Row:
    kinds = {
        kind: {name: sum(answer["kinds"][kind][name] for answer in answers) for name in ("seconds", "calls")}
        for kind in KINDS
    }
    return {"kinds": kinds} | {name: sum(answer[name] for answer in answers) for name in ("elapsed_s", "rows")}


def _share(answers: Sequence[Row]) -> float:
    row = _sum(answers)
    return float(row["kinds"]["frozen"]["seconds"] / row["elapsed_s"])


def render(rows: Sequence[Row]) -> str:
    """Return shares of a step."""
    header = ["kind", *(f"{row['dataset']}, share" for row in rows), *(f"{row['dataset']}, ms a row" for row in rows)]
    lines = [
        [
            name,
            *(f"{row['kinds'][kind]['seconds'] / row['elapsed_s']:.1%}" for row in rows),
            *(1e3 * row["kinds"][kind]["seconds"] / row["rows"] for row in rows),
        ]
        for kind, name in KINDS.items()
    ]
    rest = [row["elapsed_s"] - sum(kind["seconds"] for kind in row["kinds"].values()) for row in rows]
    lines.append(
        [
            "what no operator accounts for",
            *(f"{left / row['elapsed_s']:.1%}" for left, row in zip(rest, rows, strict=True)),
            *(1e3 * left / row["rows"] for left, row in zip(rest, rows, strict=True)),
        ]
    )
    ranks = ", ".join(str(rank) for rank in rows[0]["ranks"]) if rows else ""
    return f"{table(header, lines)}\n\nTwo workers at work, each a pack with a lane at each of the ranks {ranks}."
