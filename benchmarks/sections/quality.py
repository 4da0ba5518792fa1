"""Time to quality: the best validation score so far over time, counted from the start of the command.

Only complete trials count, because a trial that is stopped leaves no adapter to use. All train on every training row.
The target is the best score of the default script after its 24 trials. On a few hundred rows that is partly luck, so
the table also has the time to one standard error below it, ``sqrt(p (1 - p) / rows)``.

sweeper (40 trials, with pruning and refilled lanes, three seeds) and the tuned script (24 trials, SuccessiveHalving)
run in `make bench`. The default script's 24 trials (about 20 minutes on two cores) and
Ray's with ASHA run in `make bench-long`, whose rows are committed. `make bench` reads the default script's recorded
scores and scales its recorded times by the ratio of its time per trial in this run's equal-work section to that of the
recording; the table states the factor. Without a recording the target is the tuned script's best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.arithmetic import best_so_far, table, time_to_reach, trials_per_hour
from benchmarks.commands import Finished, run_ours, run_peer
from benchmarks.context import Context
from benchmarks.record import Results, Row, newest
from benchmarks.sections.equal_work import OURS
from benchmarks.sections.layout import tuned_layout
from sweeper.config.compose import compose

__all__ = ["collect", "render", "run"]

SECTION = "quality"
NAMES = {
    OURS: "sweeper",
    "default": "Optuna + Trainer, default, no pruning",
    "tuned": "tuned, SuccessiveHalving",
    "ray": "Ray Tune, ASHA",
}


def run(context: Context) -> None:
    """Run sweeper with each seed, then the peers."""
    settings = compose([f"dataset={context.dataset}", *context.sizes.overrides]).settings
    num_rows = settings.dataset[context.dataset].validation_rows
    for seed in context.sizes.quality_seeds:
        options = context.ours_options(f"budget.trials={context.sizes.quality_ours}", f"seed={seed}")
        _record(context, OURS, seed, num_rows, run_ours(options, scratch=context.new_scratch("quality-ours")))
    for name in context.sizes.quality_peers:
        _record(context, name, 0, num_rows, _peer(context, name))


def _peer(context: Context, name: str) -> Finished:
    count = ["--trials", str(context.sizes.quality_trials), "--all-rows"]
    scratch = context.new_scratch(f"quality-{name}")
    if name == "ray":
        return run_peer("ray_asha", context.peer_options("--prune", *count), scratch=scratch)
    form = [*tuned_layout(context.results), "--prune"] if name == "tuned" else []
    return run_peer("optuna_trainer", context.peer_options(*form, *count), scratch=scratch)


def _record(context: Context, contender: str, seed: int, num_rows: int, finished: Finished) -> None:
    row = {
        "contender": contender,
        "seed": seed,
        "form": context.form,
        "dataset": context.dataset,
        "validation_rows": num_rows,
        "wall_s": finished.wall_s,
        "trials": finished.trials,
    }
    context.results.append(SECTION, row)
    best = best_so_far(finished.trials)
    context.log(f"quality, {contender}, seed {seed}: {finished.wall_s:.0f} s, best {best[-1][1] if best else None}")


def collect(results: Results) -> list[Row]:
    """Return the newest rows, and older recordings of peers that the newest run left out, scaled to its speed."""
    rows = results.latest(SECTION)
    for name in NAMES:
        if rows and all(row["contender"] != name for row in rows):
            older = [row for row in results.all(SECTION) if row["contender"] == name and row["run"] != rows[0]["run"]]
            factor = _stretch(results, newest(older), rows[0]["run"])
            rows += [_stretched(row, factor) for row in newest(older) if row["form"] != "short"]
    return rows


def _stretch(results: Results, recorded: Sequence[Row], run: str) -> float:
    """Return by how much this run's machine is slower than the recording's, by the default script's trials."""
    rates: dict[str, list[float]] = {}
    for row in results.all("equal_work"):
        if row["contender"] == "default":
            rates.setdefault(row["run"], []).append(trials_per_hour(row["trials"], by_process=True))
    then = rates.get(recorded[0]["run"]) if recorded else None
    now = rates.get(run)
    return median(then) / median(now) if then and now else 1.0


def _stretched(row: Row, factor: float) -> Row:
    keys = ("begun_s", "ended_s")
    trials = [{**trial, **{key: trial[key] * factor for key in keys}} for trial in row["trials"]]
    return {**row, "trials": trials, "wall_s": row["wall_s"] * factor, "stretched_by": factor}


def render(rows: Sequence[Row]) -> str:
    """Return times to the target, as shares of the default script's time."""
    by_name: Mapping[str, list[Row]] = {n: [r for r in rows if r["contender"] == n] for n in NAMES}
    reference = next((name for name in ("default", "tuned", "ray") if by_name[name]), None)
    if reference is None:
        return "No peer was run."
    target = best_so_far(by_name[reference][0]["trials"])[-1][1]
    num_rows = next(row["validation_rows"] for row in rows if "validation_rows" in row)  # not in the oldest recordings
    near = target - math.sqrt(target * (1 - target) / num_rows)
    whole_s = median(row["wall_s"] for row in by_name[reference])
    lines = [
        [*_start_of_line(NAMES[name], found), *_to(target, found, whole_s), *_to(near, found, whole_s)]
        for name, found in by_name.items()
        if found
    ]
    header = ["contender", "seeds", "best score (median)", "total time, s"]
    for goal in (f"{target:.4f}", f"{near:.4f}"):
        header += [f"time to {goal}, s", "share", "reached in"]
    text = (
        f"{target:.4f} is the best validation accuracy of 24 trials of '{NAMES[reference]}', which took "
        f"{whole_s:.0f} s; {near:.4f} is its standard error on {num_rows} rows below, since the best of 24 is partly "
        "luck. Times are medians over seeds; shares are relative to those seconds."
    )
    stretched = [row for row in rows if "stretched_by" in row]
    for row in stretched:
        text += f" {NAMES[row['contender']]}: recorded in run {row['run']}, times x {row['stretched_by']:.2f}."
    return f"{table(header, lines)}\n\n{text}"


def _start_of_line(name: str, found: Sequence[Row]) -> list[object]:
    curves = [best_so_far(row["trials"]) for row in found]
    best = median(curve[-1][1] if curve else math.nan for curve in curves)
    return [name, len(found), f"{best:.4f}", median(row["wall_s"] for row in found)]


def _to(goal: float, found: Sequence[Row], whole_s: float) -> list[object]:
    """Return the median time to a score, its share of ``whole_s``, and in how many commands it was reached."""
    times = [time_to_reach(best_so_far(row["trials"]), goal) for row in found]
    middle = median(times)
    share = f"1/{whole_s / middle:.1f}" if math.isfinite(middle) else "never"
    return [middle, share, f"{sum(math.isfinite(value) for value in times)} of {len(found)}"]
