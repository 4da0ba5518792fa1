"""Time to a score: how long each command takes from its start until it has the score that the tuned script ends with.

For each dataset and seed, the contenders run in turn, in an order that rotates with the seed:

- ``tuned``: the script as an expert writes it (bfloat16, batches grouped by length, both cores, successive halving),
  with one learning rate for adapter and head, three epochs, 12 trials;
- ``tuned_head_ratio``: the same script, which also searches the ratio of the head's learning rate to the adapter's, in
  sweeper's interval. It separates what this recipe gains from what the engine gains;
- ``sweeper``: ``sweeper run`` with all its defaults, MLflow and the budget of 24 trials included;
- ``default`` and ``ray``, only if asked for (``--size score_contenders=...``): the script's default form without
  pruning, and Ray Tune with ASHA.

Every command starts cold, as a new process with an empty folder; datasets and model are in the cache. All train on
every training row. The target is the best score of the tuned script's complete trials in that dataset and seed, less
one standard error ``sqrt(p (1 - p) / rows)``, because the best of several scores is partly luck. Two curves are
compared: the scores of complete trials, which have an adapter to use, and those of every evaluation.

A dataset and seed take about four minutes on two cores. Rows are appended as they are measured, and ``--resume`` skips
those that the newest run has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.arithmetic import (
    best_evaluation_so_far,
    best_so_far,
    standard_error_below,
    table,
    time_to_reach,
)
from benchmarks.commands import Finished, run_ours, run_peer
from benchmarks.context import Context
from benchmarks.machine_speed import record_speed
from benchmarks.record import Row
from benchmarks.sections.layout import tuned_layout

__all__ = ["NAMES", "SECTION", "Outcome", "outcomes", "render", "run"]

SECTION = "time_to_score"
OURS, REFERENCE = "sweeper", "tuned"
NAMES = {
    OURS: "sweeper",
    REFERENCE: "Optuna + Trainer + PEFT, tuned, successive halving",
    "tuned_head_ratio": "the same, and it searches the head's learning rate",
    "default": "default form, no pruning",
    "ray": "Ray Tune, ASHA",
}


def run(context: Context) -> None:
    """Measure every dataset, seed and contender that this run does not have yet."""
    done = {_key(row) for row in context.results.of_run(SECTION)}
    contenders = context.sizes.score_contenders
    for seed in context.sizes.score_seeds:
        first = seed % len(contenders)
        for dataset in context.sizes.score_datasets:
            left = [c for c in (*contenders[first:], *contenders[:first]) if (dataset, seed, c) not in done]
            if left and done:
                record_speed(context, SECTION)
            for contender in left:
                _record(context, dataset, seed, contender)
                done.add((dataset, seed, contender))


def _key(row: Row) -> tuple[str, int, str]:
    return row["dataset"], row["seed"], row["contender"]


def _record(context: Context, dataset: str, seed: int, contender: str) -> None:
    num_rows = context.prepare(dataset)["num_rows"]["validation"]
    finished = _contend(context, dataset, seed, contender)
    row = {
        "dataset": dataset,
        "seed": seed,
        "contender": contender,
        "form": context.form,
        "validation_rows": num_rows,
        "wall_s": finished.wall_s,
        "trials": finished.trials,
    }
    context.results.append(SECTION, row)
    best = best_so_far(finished.trials)
    text = f"best {best[-1][1]:.4f} after {best[-1][0]:.0f} s" if best else "no complete trial"
    context.log(f"time to score, {dataset}, seed {seed}, {contender}: {finished.wall_s:.0f} s, {text}")


def _contend(context: Context, dataset: str, seed: int, contender: str) -> Finished:
    sizes, scratch = context.sizes, context.new_scratch(f"score-{dataset}-{contender}")
    if contender == OURS:
        budget = f"budget.trials={sizes.score_ours_trials}"
        return run_ours(context.ours_options(budget, f"seed={seed}", dataset=dataset), scratch=scratch)
    count = ["--trials", str(sizes.score_peer_trials), "--seed", str(seed), "--all-rows"]
    if contender == "ray":
        return run_peer("ray_asha", context.peer_options("--prune", *count, dataset=dataset), scratch=scratch)
    form = [] if contender == "default" else [*tuned_layout(context.results), "--prune"]
    form += ["--head-ratio"] if contender == "tuned_head_ratio" else []
    return run_peer("optuna_trainer", context.peer_options(*form, *count, dataset=dataset), scratch=scratch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How long a contender took to the target on one dataset and seed; infinite if it did not reach it."""

    dataset: str
    seed: int
    contender: str
    target: float
    best: float
    """Best score of a complete trial; not a number if none is complete."""
    wall_s: float
    complete_s: float
    """Seconds until a complete trial had the target."""
    evaluation_s: float
    """Seconds until any evaluation had it."""
    complete_ratio: float
    """The tuned script's seconds relative to this contender's; 0 if it did not reach the target."""
    evaluation_ratio: float


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return the outcome of every row whose dataset and seed have a complete trial of the tuned script."""
    references = {_key(row)[:2]: row for row in rows if row["contender"] == REFERENCE and best_so_far(row["trials"])}
    return [_outcome(row, references[_key(row)[:2]]) for row in rows if _key(row)[:2] in references]


def _outcome(row: Row, reference: Row) -> Outcome:
    goal = standard_error_below(best_so_far(reference["trials"])[-1][1], reference["validation_rows"])

    def seconds(of: Row, curve: Callable[[Sequence[Row]], list[tuple[float, float]]]) -> float:
        return time_to_reach(curve(of["trials"]), goal)

    complete_s, evaluation_s = seconds(row, best_so_far), seconds(row, best_evaluation_so_far)
    best = best_so_far(row["trials"])
    return Outcome(
        dataset=row["dataset"],
        seed=row["seed"],
        contender=row["contender"],
        target=goal,
        best=best[-1][1] if best else math.nan,
        wall_s=row["wall_s"],
        complete_s=complete_s,
        evaluation_s=evaluation_s,
        complete_ratio=seconds(reference, best_so_far) / complete_s,
        evaluation_ratio=seconds(reference, best_evaluation_so_far) / evaluation_s,
    )


def render(rows: Sequence[Row]) -> str:
    """Return the ratios over all datasets and seeds, then the times of each dataset."""
    found = outcomes(rows)
    if not found:
        return "Not complete."
    names = {name: title for name, title in NAMES.items() if any(outcome.contender == name for outcome in found)}
    overall = [_overall([o for o in found if o.contender == name], title) for name, title in names.items()]
    datasets = list(dict.fromkeys(outcome.dataset for outcome in found))
    each = [
        _of_dataset([o for o in found if (o.dataset, o.contender) == (dataset, name)], title)
        for dataset in datasets
        for name, title in names.items()
        if any((o.dataset, o.contender) == (dataset, name) for o in found)
    ]
    trials = {name: sorted({len(row["trials"]) for row in rows if row["contender"] == name}) for name in names}
    counts = ", ".join(f"{names[name]}: {' or '.join(map(str, numbers))}" for name, numbers in trials.items())
    note = (
        "The target of each dataset and seed is the best score of the tuned script's complete trials, less one "
        "standard error. Seconds count from the start of the command and are medians. Speedup: the tuned script's "
        "seconds to the target relative to the contender's, of the same dataset and seed, by the scores of complete "
        "trials and by those of every evaluation; median and range, 0 where the target was not reached. "
        f"Trials: {counts}."
    )
    first = table(["contender", "runs", "reached in", "speedup to the target", "by any evaluation"], overall)
    times = ["s to the target", "by any evaluation", "total s", "speedup"]
    second = table(["dataset", "contender", "seeds", "best score", "target", *times], each)
    return f"{first}\n\n{second}\n\n{note}"


def _overall(found: Sequence[Outcome], title: str) -> list[object]:
    reached = sum(math.isfinite(outcome.complete_s) for outcome in found)
    complete = _spread([outcome.complete_ratio for outcome in found])
    return [title, len(found), reached, f"**{complete}**", _spread([outcome.evaluation_ratio for outcome in found])]


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def _of_dataset(found: Sequence[Outcome], title: str) -> list[object]:
    return [
        found[0].dataset,
        title,
        len(found),
        f"{median(outcome.best for outcome in found):.4f}",
        f"{median(outcome.target for outcome in found):.4f}",
        median(outcome.complete_s for outcome in found),
        median(outcome.evaluation_s for outcome in found),
        median(outcome.wall_s for outcome in found),
        f"{median(outcome.complete_ratio for outcome in found):.1f}",
    ]
