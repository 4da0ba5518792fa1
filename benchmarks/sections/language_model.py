"""A language model, SmolLM2-135M on TREC as instructions: time per trial, and memory of K lanes and of K processes.

Measures what `equal_work` and `memory` measure for the encoder, with the configuration of `experiment=smollm2_trec` and
one epoch per trial: the same rows, adapters on the same layers, one evaluation. The base weights are bfloat16 on disk,
and both load them as such. Takes about ten minutes on two cores, so it belongs to `make bench-long`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchmarks.arithmetic import table, trials_per_hour
from benchmarks.commands import run_ours, run_peer
from benchmarks.context import Context
from benchmarks.record import Row
from benchmarks.sections import memory
from benchmarks.sections.equal_work import NAMES, OURS, STEADY

__all__ = ["render", "run"]

_OVERRIDES = ("experiment=smollm2_trec", "train.epochs=1")
_CONTENDERS = (OURS, "default", "tuned")


def run(context: Context) -> None:
    """Measure time, then memory."""
    sizes = dataclasses.replace(
        context.sizes, overrides=(*_OVERRIDES, *context.sizes.overrides), memory_trials=context.sizes.language_lanes
    )
    inner = dataclasses.replace(context, sizes=sizes)
    for contender in _CONTENDERS:
        row = {"what": "time", "contender": contender, **_time(inner, contender)}
        context.results.append("language_model", row)
        context.log(f"language model, {contender}: {row['trials_per_hour']:.1f} trials per hour")
    for what, sampler in memory.samples(inner, ("default",)):
        row = {"what": "memory", "contender": what, "lanes": sizes.memory_trials, "peak_bytes": sampler.peak_bytes}
        context.results.append("language_model", row)
        context.log(f"language model, {what}: {sampler.peak_bytes / 2**20:.0f} MiB")


def _time(context: Context, contender: str) -> Row:
    scratch, sizes = context.new_scratch(f"language-{contender}"), context.sizes
    if contender == OURS:
        count = sizes.language_trials
        trials = run_ours(context.equal_work_options(*STEADY, f"budget.trials={count}"), scratch=scratch).trials
    else:
        count = sizes.tuned_trials if contender == "tuned" else sizes.default_trials
        form = ["--tuned", "--processes", "2", "--threads", "1"] if contender == "tuned" else []
        points = [str(index) for index in range(count)]
        options = context.peer_options(*form, "--trials", str(count), "--shared", *points)
        trials = run_peer("optuna_trainer", options, scratch=scratch).trials
    rate = trials_per_hour(trials, by_process=contender != OURS)
    return {"trials_per_hour": rate, "trials": trials}


def render(rows: Sequence[Row]) -> str:
    """Return both tables."""
    times = {row["contender"]: row for row in rows if row["what"] == "time"}
    peaks = {row["contender"]: row for row in rows if row["what"] == "memory"}
    if OURS not in times or not {"worker", "sweep", "default"} <= peaks.keys():
        return "Not complete."
    ours = times[OURS]["trials_per_hour"]
    by_time = [
        [NAMES[name], len(row["trials"]), 3600 / row["trials_per_hour"], ours / row["trials_per_hour"]]
        for name, row in times.items()
    ]
    lanes, worker = peaks["worker"]["lanes"], peaks["worker"]["peak_bytes"]
    names = {
        "worker": f"sweeper: one worker, {lanes} lanes",
        "sweep": "sweeper: the same with its controller",
        "default": f"{lanes} processes of the default script",
    }
    by_memory = [[names[name], row["peak_bytes"] / 2**20, row["peak_bytes"] / worker] for name, row in peaks.items()]
    first = table(["contender", "trials measured", "s per trial", "speedup of sweeper"], by_time)
    return f"{first}\n\n{table(['what', 'peak PSS, MiB', 'times the worker'], by_memory)}"
