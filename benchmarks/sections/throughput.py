"""Rows per second over tokens per step: 1 to 16 lanes, short and long texts, one or two workers on two threads.

Drives the worker directly (`drive`), without controller and evaluation; every lane has rank 8 and dropout 0.1. Two
workers start each chunk together, and their rate is that of all rows in the time of the slower one. The first chunk
after the start does not count. Tokens per step include padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.arithmetic import table
from benchmarks.context import Context
from benchmarks.drive import Driver
from benchmarks.record import Row

__all__ = ["LAYOUTS", "open_drivers", "render", "run", "together"]

LAYOUTS = ((1, 2), (2, 1))
"""Number of workers, and threads of each."""


def run(context: Context) -> None:
    """Measure every dataset, layout and number of lanes."""
    for dataset in context.sizes.datasets:
        for workers, threads in LAYOUTS:
            with ExitStack() as stack:
                drivers = open_drivers(context, stack, dataset=dataset, workers=workers, threads=threads)
                together(drivers, {"do": "train", "lanes": 1, "chunks": 1})
                for lanes in context.sizes.lanes:
                    answers = together(drivers, {"do": "train", "lanes": lanes, "chunks": 2 if lanes <= 2 else 1})
                    row = _row(answers)
                    row |= {"dataset": dataset, "workers": workers, "threads": threads, "lanes": lanes}
                    context.results.append("throughput", row)
                    context.log(
                        f"throughput, {dataset}, {workers} x {threads}, {lanes}: {row['rows_per_s']:.0f} rows/s"
                    )


def open_drivers(
    context: Context, stack: ExitStack, *, dataset: str, workers: int, threads: int, more: Sequence[str] = ()
) -> list[Driver]:
    """Start workers, which are killed when the stack is closed.

    Args:
        context: Folders and options.
        stack: Owns the workers.
        dataset: What to train on.
        workers: Number of workers.
        threads: Threads of each.
        more: Further overrides.
    """
    opening = {
        "dataset": dataset,
        "cache": str(context.cache),
        "threads": threads,
        "overrides": [*context.overrides_for(dataset), *more],
    }
    scratch = context.new_scratch(f"drive-{dataset}")
    return [stack.enter_context(Driver(opening, scratch)) for _ in range(workers)]


def together(drivers: Sequence[Driver], command: Row) -> list[Row]:
    """Run a command in all workers at the same time; return their answers."""
    for driver in drivers:
        driver.send(command)
    return [driver.receive() for driver in drivers]


def _row(answers: Sequence[Row]) -> Row:
    elapsed_s = max(sum(chunk["elapsed_s"] for chunk in answer["chunks"]) for answer in answers)
    chunks = [chunk for answer in answers for chunk in answer["chunks"]]
    return {
        "rows_per_s": sum(chunk["rows"] for chunk in chunks) / elapsed_s,
        "tokens_per_s": sum(chunk["tokens"] for chunk in chunks) / elapsed_s,
        "tokens_per_step": answers[0]["tokens_per_step"],
        "elapsed_s": elapsed_s,
    }


def render(rows: Sequence[Row]) -> str:
    """Return rates, and their ratios to that of one lane in one worker on the same dataset."""
    base = {row["dataset"]: row["rows_per_s"] for row in rows if (row["workers"], row["lanes"]) == (1, 1)}
    lines = [
        [
            row["dataset"],
            f"{row['workers']} x {row['threads']}",
            row["lanes"],
            row["tokens_per_step"],
            row["rows_per_s"],
            row["tokens_per_s"],
            row["rows_per_s"] / base[row["dataset"]],
        ]
        for row in rows
        if row["dataset"] in base
    ]
    header = [
        "dataset",
        "workers x threads",
        "lanes",
        "tokens per step",
        "rows per second",
        "tokens per second",
        "ratio",
    ]
    return (
        table(header, lines)
        + "\n\nRatio: relative to the rows per second of one lane in one worker on the same dataset."
    )
