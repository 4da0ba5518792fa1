"""Where the trials of a search came from, and what became of them, for best.json and the reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sweeper.figures.ranking import finite_value
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["RECIPES", "OriginCount", "count_origins"]

RECIPES = "recipes"
"""The one origin of all recipes in `count_origins`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginCount:
    """Trials of a search that one origin proposed."""

    origin: str
    """`TrialSpec.origin`, or `RECIPES`."""
    num_trials: int
    num_complete: int
    num_stopped: int
    """Trials that were pruned."""
    best: float | None
    """Best score of its complete trials; None without one."""


def count_origins(study: StudyRecord, trials: Iterable[TrialRecord]) -> list[OriginCount]:
    """Count the trials of the search by origin, in the order of each origin's first trial.

    Args:
        study: Their study.
        trials: Any trials of the study; those of other phases are left out.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(trials, key=lambda trial: trial.spec.number):
        if trial.spec.phase is Phase.SEARCH:
            groups.setdefault(RECIPES if trial.spec.is_recipe else trial.spec.origin, []).append(trial)
    return [_count(study, origin, members) for origin, members in groups.items()]


def _count(study: StudyRecord, origin: str, trials: list[TrialRecord]) -> OriginCount:
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    scores = [score for trial in complete if (score := finite_value(study, trial)) is not None]
    best = max if study.direction == "maximize" else min
    return OriginCount(
        origin=origin,
        num_trials=len(trials),
        num_complete=len(complete),
        num_stopped=sum(trial.state is TrialState.PRUNED for trial in trials),
        best=best(scores, default=None),
    )
