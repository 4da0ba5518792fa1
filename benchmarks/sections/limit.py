"""Distance to the limit: the training loop's operations per second, relative to the machine's rate of plain products.

Both are measured in the same processes, two workers with one thread each, at the same time. The limit is the rate of
products in the engine's shapes and number type (its rows, the model's layers; forward and input gradient) and nothing
else; it is measured just before and just after the loop, and averaged. The operations are counted by
`arithmetic.forward_and_backward_flops`, whose docstring has the formula: once with the true lengths of rows (needed),
and once with the padded ones (performed).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.arithmetic import table
from benchmarks.context import Context
from benchmarks.record import Row
from benchmarks.sections.throughput import open_drivers, together

__all__ = ["render", "run"]


def run(context: Context) -> None:
    """Measure each dataset."""
    lanes = context.sizes.limit_lanes
    products = {"do": "products", "lanes": lanes, "seconds": context.sizes.product_s}
    for dataset in context.sizes.datasets:
        with ExitStack() as stack:
            drivers = open_drivers(context, stack, dataset=dataset, workers=2, threads=1)
            together(drivers, {"do": "train", "lanes": 1, "chunks": 1})
            before = together(drivers, products)
            loops = together(drivers, {"do": "train", "lanes": lanes, "chunks": 1})
            after = together(drivers, products)
        row = _row(before, loops, after)
        row |= {"dataset": dataset, "lanes": lanes, "dtype": before[0]["dtype"]}
        context.results.append("limit", row)
        context.log(f"limit, {dataset}: {row['needed'] / row['limit']:.0%} of {row['limit'] / 1e9:.0f} GFLOP/s")


def _row(before: Sequence[Row], loops: Sequence[Row], after: Sequence[Row]) -> Row:
    """Return the operations per second of all workers: the sum of their rates."""
    both = [*before, *after]
    return {
        "limit": sum(answer["flops"] / answer["elapsed_s"] for answer in both) / 2,
        "needed": sum(_rate(answer, "flops_needed") for answer in loops),
        "performed": sum(_rate(answer, "flops_performed") for answer in loops),
    }


def _rate(answer: Row, key: str) -> float:
    return float(sum(c[key] for c in answer["chunks"]) / sum(c["elapsed_s"] for c in answer["chunks"]))


def render(rows: Sequence[Row]) -> str:
    """Return rates and shares."""
    lines = [
        [
            row["dataset"],
            row["lanes"],
            row["limit"] / 1e9,
            row["needed"] / 1e9,
            f"{row['needed'] / row['limit']:.1%}",
            row["performed"] / 1e9,
            f"{row['performed'] / row['limit']:.1%}",
        ]
        for row in rows
    ]
    dtype = rows[0]["dtype"] if rows else ""
    header = ["dataset", "lanes", f"limit, {dtype} GFLOP/s", "needed", "share", "performed (with padding)", "share"]
    return table(header, lines)
