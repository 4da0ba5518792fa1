"""Which of a study's trials is best: the one order that retention, terminal, report, sessions and MLflow use."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["best_running_trial", "best_trial", "finite_value", "rank_trials"]


def finite_value(study: StudyRecord, trial: TrialRecord) -> float | None:
    """Return a trial's objective at its latest rung; None before the first rung and if it is not finite."""
    value = study.value(trial)
    return value if value is not None and math.isfinite(value) else None


def rank_trials(study: StudyRecord, trials: Iterable[TrialRecord], limit: int | None = None) -> list[TrialRecord]:
    """Return the complete trials that have a finite objective, best first.

    Ties go to the trial with fewer trainable parameters, then to the lower number. All three are fixed when a trial
    completes, and numbers are unique, so this is a total order in which two complete trials never change places. Trials
    of a confirmation are left out: each is one of several seeds of a candidate, which are only meaningful together.

    Args:
        study: The study; defines which objective is better.
        trials: Its trials, in any state and order.
        limit: Largest number of trials to return; None for all.
    """
    sign = -1.0 if study.direction == "maximize" else 1.0
    keyed = [
        ((sign * value, trial.num_parameters, trial.spec.number), trial)
        for trial in trials
        if trial.state is TrialState.COMPLETE
        and trial.spec.phase is not Phase.CONFIRMATION
        and (value := finite_value(study, trial)) is not None
    ]
    return [trial for _, trial in sorted(keyed, key=lambda entry: entry[0])[:limit]]


def best_trial(study: StudyRecord, trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the first of `rank_trials`; None if no trial is complete."""
    return next(iter(rank_trials(study, trials, 1)), None)


def best_running_trial(study: StudyRecord, trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the unfinished trial with the best objective at its latest rung; None if none was scored yet."""
    sign = -1.0 if study.direction == "maximize" else 1.0
    scored = [
        (sign * value, trial.spec.number, trial)
        for trial in trials
        if not trial.state.is_finished
        and trial.spec.phase is not Phase.CONFIRMATION
        and (value := finite_value(study, trial)) is not None
    ]
    return min(scored, key=lambda entry: entry[:2])[-1] if scored else None
