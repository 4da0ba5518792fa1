"""Where the time of a training step goes: two workers in parallel, each with 8 lanes of ranks 1 to 64, dropout 0.1.

Two chunks are trained, the second one with `operators.OperatorTimes`. Shares are relative to the first; time that no
operator accounts for is Python, autograd and torch's dispatch.
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
    """Measure one dataset."""
    ranks = list(context.sizes.profile_ranks)
    with ExitStack() as stack:
        drivers = open_drivers(context, stack, dataset=context.dataset, workers=2, threads=1)
        answers = together(drivers, {"do": "profile", "ranks": ranks})
    row = _sum(answers) | {"dataset": context.dataset, "ranks": ranks}
    context.results.append("profile", row)
    share = row["kinds"]["frozen"]["seconds"] / row["elapsed_s"]
    context.log(f"profile, {context.dataset}: {share:.0%} of a step are products with frozen weights")


def _sum(answers: Sequence[Row]) -> Row:
    kinds = {
        kind: {name: sum(answer["kinds"][kind][name] for answer in answers) for name in ("seconds", "calls")}
        for kind in KINDS
    }
    return {"kinds": kinds} | {name: sum(answer[name] for answer in answers) for name in ("elapsed_s", "rows")}


def render(rows: Sequence[Row]) -> str:
    """Return shares of a step."""
    (row,) = rows[-1:]
    found = {name: row["kinds"][kind] for kind, name in KINDS.items()}
    left_s = row["elapsed_s"] - sum(kind["seconds"] for kind in found.values())
    found["what no operator accounts for"] = {"seconds": left_s, "calls": ""}
    lines = [
        [name, f"{kind['seconds'] / row['elapsed_s']:.1%}", 1e3 * kind["seconds"] / row["rows"], kind["calls"]]
        for name, kind in found.items()
    ]
    ranks = ", ".join(str(rank) for rank in row["ranks"])
    note = f"Dataset {row['dataset']}; two workers in parallel, each with one lane of each of the ranks {ranks}."
    return f"{table(['kind', 'share of a step', 'ms per row', 'calls'], lines)}\n\n{note}"
