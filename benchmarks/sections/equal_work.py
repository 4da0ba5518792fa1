"""Trials per hour at equal work: the same rows, epochs, targets, evaluations and configurations, without pruning.

All train three epochs at one learning rate for adapter and head, as the peers do (`configuration.EQUAL_WORK`).
Contenders run in turn, A B C D A B C D, so that a slow minute of the machine affects all. All train points of the same
list (see `inputs.shared_configurations`): sweeper the first 16, a peer as many as time allows, a new pair each time.

Steady state leaves out everything before the first trial starts and after the last one ends. It favours the peers in
two ways: the rates of their two processes are added up (`arithmetic.trials_per_hour`), and Ray's trials end with their
last evaluation. It counts the first trial of each process, which takes up to half a second longer (lazy imports, first
kernels), in peers and in sweeper. The column "24 trials" includes start-up and end: the time that 24 trials take
from the start of the command to its end.

The tuned script uses the cores in the way that the section ``layout`` last measured as faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.arithmetic import median_ratio, table, trials_per_hour, window_s
from benchmarks.commands import Finished, run_ours, run_peer
from benchmarks.context import Context
from benchmarks.record import Row
from benchmarks.sections.layout import tuned_layout

__all__ = ["OURS", "STEADY", "render", "run"]

OURS = "sweeper"
STEADY = ("search=qmc", "search.recipes=[]", "search.references=[]", "search.pruner=none")
"""With these, sweeper proposes the shared list in order, and trains nothing else."""
NAMES = {
    OURS: "sweeper",
    "default": "Optuna + Trainer + PEFT + MLflow, default",
    "tuned": "the same, tuned",
    "ray": "Ray Tune, the tuned trial",
}


def run(context: Context) -> None:
    """Measure all contenders in turn."""
    for repetition in range(context.sizes.repetitions):
        for contender in NAMES:
            finished = _contend(context, contender, repetition)
            row = {
                "contender": contender,
                "repetition": repetition,
                "dataset": context.dataset,
                "form": context.form,
                "wall_s": finished.wall_s,
                "trials": finished.trials,
            }
            context.results.append("equal_work", row)
            context.log(f"equal work {repetition + 1}, {contender}: {_rate(row):.1f} trials per hour")


def _contend(context: Context, contender: str, repetition: int) -> Finished:
    sizes, scratch = context.sizes, context.new_scratch(contender)
    if contender == OURS:
        options = context.equal_work_options(*STEADY, f"budget.trials={sizes.ours_trials}")
        return run_ours(options, scratch=scratch)
    count = {"default": sizes.default_trials, "tuned": sizes.tuned_trials, "ray": sizes.ray_trials}[contender]
    points = [str(index) for index in range(repetition * count, (repetition + 1) * count)]
    shared = ["--trials", str(count), "--shared", *points]
    if contender == "ray":
        return run_peer("ray_asha", context.peer_options(*shared), scratch=scratch)
    form = tuned_layout(context.results) if contender == "tuned" else []
    return run_peer("optuna_trainer", context.peer_options(*form, *shared), scratch=scratch)


def _rate(row: Row) -> float:
    return trials_per_hour(row["trials"], by_process=row["contender"] != OURS)


def _all_24_s(row: Row) -> float:
    """Return the seconds of 24 trials from the start of the command to its end."""
    return float(row["wall_s"]) - window_s(row["trials"]) + 24 * 3600 / _rate(row)


def render(rows: Sequence[Row]) -> str:
    """Return the table of medians and ratios."""
    by_name = {name: [row for row in rows if row["contender"] == name] for name in NAMES}
    complete = min(len(found) for found in by_name.values())
    ours = by_name[OURS][:complete]
    if not ours:
        return "Not complete."
    lines = []
    for name, title in NAMES.items():
        found = by_name[name][:complete]
        steady = median_ratio([_rate(row) for row in ours], [_rate(row) for row in found])
        whole = median_ratio([_all_24_s(row) for row in found], [_all_24_s(row) for row in ours])
        rates = sorted(_rate(row) for row in found)
        rate = rates[len(rates) // 2]
        ratio = f"**{steady[0]:.1f}** ({steady[1]:.1f} to {steady[2]:.1f})"
        trials = sum(len(row["trials"]) for row in found)
        lines.append([title, trials, rate, 3600 / rate, ratio, _median([_all_24_s(r) for r in found]), whole[0]])
    header = [
        "contender",
        "trials measured",
        "trials per hour",
        "s per trial",
        "speedup of sweeper (steady; range)",
        "24 trials from the start of the command, s",
        "speedup (24 trials)",
    ]
    note = (
        f"Dataset {ours[0]['dataset']}; {complete} repetition(s); medians, and medians of the ratios of each "
        "repetition. Start-up is left out of the steady columns and counted in the last two."
    )
    return f"{table(header, lines)}\n\n{note}"


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
