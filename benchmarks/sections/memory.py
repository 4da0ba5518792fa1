"""Peak memory of eight co-trained lanes in one worker, and of eight separate trial processes.

Measures the sum of proportional set sizes (PSS, from /proc/<pid>/smaps_rollup), so that library pages shared by
processes count once; resident set sizes would count them eight times. The largest of ten samples per second counts.
sweeper runs with one worker; the table shows the worker alone, and with its controller (search, MLflow). The eight
processes run the default script with one thread each, and their launcher is left out; they train a few steps, evaluate,
and wait until all have done so. More steps could only raise their peak (longer batches); sweeper trains a full epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.arithmetic import table
from benchmarks.commands import PssSampler, run_ours, run_peer
from benchmarks.context import Context
from benchmarks.record import Row
from benchmarks.sections.equal_work import STEADY

__all__ = ["render", "run", "samples"]

_SETTLE_TICKS = 10


def run(context: Context) -> None:
    """Measure sweeper, then the script in each form."""
    for what, sampler in samples(context, context.sizes.memory_forms):
        _record(context, what, sampler)


def samples(context: Context, forms: Sequence[str]) -> Iterator[tuple[str, PssSampler]]:
    """Measure the worker, the sweep with its controller, and the script in each form; yield each when it is done."""
    lanes = context.sizes.memory_trials
    whole, worker = PssSampler(), PssSampler(keep=lambda command: "sweeper.execute.serve" in command)

    def tick(pid: int, _: list[str]) -> None:
        whole.sample(pid)
        worker.sample(pid)

    options = ["executor.workers=1", f"executor.lanes={lanes}", f"budget.trials={lanes}", "train.epochs=1"]
    scratch = context.new_scratch("memory-ours")
    run_ours(context.equal_work_options(*STEADY, *options), scratch=scratch, each_tick=tick)
    yield "worker", worker
    yield "sweep", whole
    for form in forms:
        yield form, _peer(context, form)


def _peer(context: Context, form: str) -> PssSampler:
    count, scratch = context.sizes.memory_trials, context.new_scratch(f"memory-{form}")
    scratch.mkdir(parents=True)
    flag = scratch / "done"
    # a trial process is recognised by its option
    sampler = PssSampler(keep=lambda command: "--process " in command)
    release = _Release(flag, count)

    def tick(pid: int, lines: list[str]) -> None:
        sampler.sample(pid)
        release.look(lines)

    options = ["--processes", str(count), "--threads", "1", "--trials", str(count), "--shared"]
    options += [str(index) for index in range(count)]
    options += ["--max-steps", str(context.sizes.memory_steps), "--hold", str(flag)]
    options += ["--tuned"] if form == "tuned" else []
    run_peer("optuna_trainer", context.peer_options(*options), scratch=scratch, each_tick=tick)
    return sampler


class _Release:
    """Lets the processes exit once all have trained and a few more samples were taken."""

    def __init__(self, flag: Path, count: int) -> None:
        self._flag, self._count, self._ticks = flag, count, 0

    def look(self, lines: Sequence[str]) -> None:
        if sum(line.startswith('{"number"') for line in list(lines)) >= self._count:
            self._ticks += 1
        if self._ticks == _SETTLE_TICKS:
            self._flag.touch()


def _record(context: Context, what: str, sampler: PssSampler) -> None:
    row = {
        "what": what,
        "trials": context.sizes.memory_trials,
        "peak_bytes": sampler.peak_bytes,
        "num_processes": sampler.num_processes,
    }
    context.results.append("memory", row)
    context.log(f"memory, {what}: {sampler.peak_bytes / 2**20:.0f} MiB in {sampler.num_processes} process(es)")


def render(rows: Sequence[Row]) -> str:
    """Return peaks, and their ratios to those of sweeper."""
    peaks = {row["what"]: row for row in rows}
    if not {"worker", "sweep", "default"} <= peaks.keys():
        return "Not complete."
    count = peaks["worker"]["trials"]
    names = {
        "worker": f"sweeper: one worker, {count} lanes",
        "sweep": "sweeper: the same with its controller",
        "default": f"{count} processes of the default script",
        "tuned": f"{count} processes of the tuned script",
    }
    worker, sweep = peaks["worker"]["peak_bytes"], peaks["sweep"]["peak_bytes"]
    lines = [
        [
            name,
            peaks[what]["num_processes"],
            peaks[what]["peak_bytes"] / 2**20,
            peaks[what]["peak_bytes"] / worker,
            peaks[what]["peak_bytes"] / sweep,
        ]
        for what, name in names.items()
        if what in peaks
    ]
    return table(["what", "processes", "peak PSS, MiB", "relative to the worker", "relative to the sweep"], lines)
