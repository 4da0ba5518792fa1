"""The default sweep (`make sweep`: three datasets, 24 trials each) of this checkout and of an older one, in turn.

The older one is a git worktree, passed as ``--older``; both run in the same environment, and each repetition swaps
their order. Without ``--older``, only this checkout runs. Times come from the records of trials: training begins with
the first trial; an adapter is complete when its trial is; a score exists when the record on disk first has it. The best
adapter of each dataset is scored on held-out rows by stock PEFT (`held_out`), because the best validation score of a
search that tries more or other configurations may be higher by luck alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.arithmetic import median_ratio, table
from benchmarks.commands import ROOT, run_command, run_ours
from benchmarks.context import SEARCH_ONLY, Context
from benchmarks.record import Row
from sweeper.store.provenance import git_state

__all__ = ["SECTION", "milestones", "render", "run"]

SECTION = "make_sweep"
NAMES = {"present": "this checkout", "older": "the older checkout"}
_TIMES = {
    "wall_s": "whole command",
    "training_s": "until training begins",
    "first_score_s": "from there to the first score",
    "first_adapter_s": "from there to the first complete adapter",
}


def run(context: Context) -> None:
    """Run both checkouts as often as asked for, without the runs that this run's rows have already."""
    checkouts = {"present": ROOT} | ({"older": context.older} if context.older is not None else {})
    done = {(row["checkout"], row["repetition"]) for row in context.results.of_run(SECTION)}
    for dataset in context.sizes.sweep_datasets:
        context.prepare(dataset)
    for repetition in range(context.sizes.sweep_repetitions):
        names = list(checkouts) if repetition % 2 == 0 else list(reversed(checkouts))
        for name in names:
            if (name, repetition) not in done:
                _record(context, name, checkouts[name], repetition)


def _record(context: Context, name: str, checkout: Path, repetition: int) -> None:
    sizes, scratch = context.sizes, context.new_scratch(f"sweep-{name}")
    datasets = ",".join(sizes.sweep_datasets)
    shared = [f"dataset=[{datasets}]", f"cache={context.cache}", *sizes.overrides]
    # Earlier checkouts have no confirmation, and do not know its settings.
    ours = (SEARCH_ONLY, *context.ours) if name == "present" else ()
    finished = run_ours(
        [*shared, *ours, f"budget.trials={sizes.sweep_trials}"], scratch=scratch, checkout=checkout.absolute()
    )
    sweep = scratch / "outputs" / "bench"
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sweep.glob("studies/*/trials/*/trial.json")]
    session = json.loads(max(sweep.glob("sessions/*.json")).read_text(encoding="utf-8"))
    row = {
        "checkout": name,
        "repetition": repetition,
        "commit": git_state(checkout / "sweeper"),
        "form": context.form,
        "wall_s": finished.wall_s,
        **milestones(records, finished.trials),
        "session": {key: session[key] for key in ("begun_at", "ended_at", "reason")},
        "studies": _held_out(context, sweep),
        "trials": finished.trials,
    }
    context.results.append(SECTION, row)
    times = ", ".join(f"{title} {row[key]:.0f} s" for key, title in _TIMES.items())
    context.log(f"make sweep {repetition + 1}, {name}: {times}")


def milestones(records: Iterable[Row], trials: Sequence[Row]) -> Row:
    """Return the seconds until training begins, and from there to the first score and the first complete adapter.

    Args:
        records: The trial records of all studies.
        trials: The same trials as `run_ours` saw them, in seconds since the start of the command.
    """
    records = list(records)
    started = min(_moment(record["started_at"]) for record in records)
    finished = min(_moment(record["finished_at"]) for record in records if record["state"] == "complete")
    training_s = min(trial["begun_s"] for trial in trials)
    first_score_s = min(seconds for trial in trials for seconds, _ in trial["scores"])
    return {
        "training_s": training_s,
        "first_score_s": first_score_s - training_s,
        "first_adapter_s": (finished - started).total_seconds(),
    }


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _held_out(context: Context, sweep: Path) -> list[Row]:
    overrides = ["--set", *context.sizes.overrides] if context.sizes.overrides else []
    command = ["-m", "benchmarks.held_out", "--sweep", str(sweep), "--cache", str(context.cache), *overrides]
    lines, _, _ = run_command(command, scratch=context.new_scratch("held-out"))
    return [json.loads(line) for line in lines if line.startswith('{"dataset"')]


def render(rows: Sequence[Row]) -> str:
    """Return times and their ratios, then the scores of each dataset."""
    found = {name: [row for row in rows if row["checkout"] == name] for name in NAMES}
    found = {name: sorted(own, key=lambda row: row["repetition"]) for name, own in found.items() if own}
    return f"{_times_table(found)}\n\n{_scores_table(found)}\n\n{_note(found)}"


def _times_table(found: dict[str, list[Row]]) -> str:
    lines = []
    for key, title in _TIMES.items():
        line: list[object] = [title, *(median(row[key] for row in own) for own in found.values())]
        if len(found) > 1:
            count = min(len(own) for own in found.values())
            present, older = ([row[key] for row in found[name][:count]] for name in NAMES)
            middle, low, high = median_ratio(older, present)
            line.append(f"**{middle:.2f}** ({low:.2f} to {high:.2f})")
        lines.append(line)
    ratio = ["speedup (range)"] if len(found) > 1 else []
    return table(["seconds", *(NAMES[name] for name in found), *ratio], lines)


def _scores_table(found: dict[str, list[Row]]) -> str:
    datasets = [study["dataset"] for study in next(iter(found.values()))[0]["studies"]]
    lines: list[list[object]] = []
    for dataset in datasets:
        line: list[object] = [dataset]
        for own in found.values():
            studies = [study for row in own for study in row["studies"] if study["dataset"] == dataset]
            line += [f"{median(study[part] for study in studies):.4f}" for part in ("validation", "test")]
        lines.append(line)
    header = [f"{NAMES[name]}, {part}" for name in found for part in ("validation (selected)", "test rows")]
    return table(["dataset", *header], lines)


def _note(found: dict[str, list[Row]]) -> str:
    commits = {NAMES[name]: own[0]["commit"].get("commit", "")[:10] for name, own in found.items()}
    text = ", ".join(f"{name}: commit {commit or 'unknown'}" for name, commit in commits.items())
    counts = " and ".join(str(len(own)) for own in found.values())
    return (
        f"Medians of {counts} run(s). {text}. Validation: the score that selected the trial. Test: accuracy of the "
        "same adapter on held-out rows, with stock PEFT in float32."
    )
