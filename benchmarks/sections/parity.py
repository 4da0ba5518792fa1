"""Do packed bf16 trials score like stock PEFT in fp32? Paired over configurations, next to the noise of the seed.

Twenty Sobol points of the default space. sweeper: packed, bf16 where the CPU computes in it, two workers. Stock PEFT:
the peer's Trainer function in its default form on all rows, one trial each. Data order, initial values and dropout
differ, so a single pair differs by the noise of the seed; a second seed of sweeper measures how large that is. The
Trainer applies dropout to hidden states of the frozen model, and sweeper does not by default, so sweeper also trains
with model.dropout=0.1. Then both do the same, and the interval of the mean difference should contain zero; without it,
the difference shows what that dropout costs. Takes a quarter of an hour, so it belongs to `make bench-long`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.arithmetic import paired_difference, table
from benchmarks.commands import run_peer
from benchmarks.context import Context
from benchmarks.inputs import load_inputs, shared_configurations
from benchmarks.record import Row
from benchmarks.sections.throughput import open_drivers

__all__ = ["render", "run"]

_LANES = 10
_DROPOUT = "model.dropout=0.1"


def run(context: Context) -> None:
    """Train all configurations with two seeds, with dropout inside the model, and with stock PEFT."""
    count = context.sizes.parity_trials
    configurations = shared_configurations(load_inputs(context.dataset, context.cache, context.sizes.overrides), count)
    with ExitStack() as stack:
        drivers = open_drivers(context, stack, dataset=context.dataset, workers=2, threads=1)
        for seed, driver in enumerate(drivers):
            driver.send({"do": "trials", "configurations": configurations, "seed": seed, "lanes": _LANES})
        first, second = (driver.receive()["scores"] for driver in drivers)
    with ExitStack() as stack:
        (driver,) = open_drivers(context, stack, workers=1, threads=1, dataset=context.dataset, more=[_DROPOUT])
        driver.send({"do": "trials", "configurations": configurations, "seed": 0, "lanes": _LANES})
        dropped = driver.receive()["scores"]
    theirs = _stock(context, count)
    for index, params in enumerate(configurations):
        row = {"params": params, "packed": first[index], "packed_other_seed": second[index], "stock": theirs[index]}
        row["packed_model_dropout"] = dropped[index]
        context.results.append("parity", {"dataset": context.dataset, **row})


def _stock(context: Context, count: int) -> list[float]:
    points = [str(index) for index in range(count)]
    halves = 2 if count % 2 == 0 else 1
    options = ["--trials", str(count), "--processes", str(halves), "--threads", "1", "--all-rows", "--shared", *points]
    finished = run_peer("optuna_trainer", context.peer_options(*options), scratch=context.new_scratch("parity"))
    return [trial["accuracy"] for trial in sorted(finished.trials, key=lambda trial: trial["number"])]


def render(rows: Sequence[Row]) -> str:
    """Return the mean differences with their intervals."""
    packed, other = [row["packed"] for row in rows], [row["packed_other_seed"] for row in rows]
    stock, dropped = [row["stock"] for row in rows], [row["packed_model_dropout"] for row in rows]
    lines = []
    for name, ones, others in (
        (f"packed with {_DROPOUT} - stock PEFT fp32", dropped, stock),
        ("packed - stock PEFT fp32", packed, stock),
        ("packed, other seed - stock PEFT fp32", other, stock),
        ("packed - packed, other seed", packed, other),
        (f"packed with {_DROPOUT} - packed", dropped, packed),
    ):
        found = paired_difference(ones, others)
        interval, median = f"{found.low:+.4f} to {found.high:+.4f}", f"{found.median:+.4f}"
        lines.append([name, len(rows), f"{found.mean:+.4f}", interval, median, f"{found.deviation:.4f}"])
    header = [
        "difference of validation accuracy",
        "configurations",
        "mean",
        "95 % interval",
        "median",
        "deviation of a pair",
    ]
    return table(header, lines)
