"""A Gaussian process that learns from every scored trial, pruned ones included.

Optuna's `GPSampler` fits complete trials only, so with pruning it never learns that a point was bad: in a toy search of
32 trials it proposed the same pruned point 23 times. Each draw is therefore made in a study in memory that holds pruned
trials as complete with the value they were expected to reach, and infeasible ones with the worst value. Called by
`samplers`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import optuna

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.search.distributions import distributions, from_drawn
from sweeper.search.mirror import is_infeasible, score_of
from sweeper.search.proposals import trial_seed

__all__ = ["MAX_TRIALS", "draw", "expected_value"]

MAX_TRIALS = 250
"""With more trials a Gaussian process costs more time than it saves (the limit of OptunaHub's AutoSampler)."""

_COMPLETE = optuna.trial.TrialState.COMPLETE
_PRUNED = optuna.trial.TrialState.PRUNED
_RUNNING = optuna.trial.TrialState.RUNNING


def draw(
    space: SearchSpace, trials: Sequence[optuna.trial.FrozenTrial], *, seed: int, number: int, maximize: bool
) -> dict[str, ParamValue]:
    """Draw the configuration of trial ``number``.

    Args:
        space: The search space.
        trials: The trials to fit, by number; at least one is feasible and scored.
        seed: The study's seed.
        number: Number of the trial.
        maximize: Whether higher values are better.
    """
    sampler = optuna.samplers.GPSampler(seed=trial_seed(seed, number), n_startup_trials=1)
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    for trial in trials:
        if trial.state is _RUNNING:
            study.add_trial(_copy(trial, None))
    study.add_trials(_scored(trials, maximize=maximize))
    return from_drawn(space, study.ask(distributions(space)).params)


def expected_value(trial: optuna.trial.FrozenTrial, complete: Sequence[optuna.trial.FrozenTrial]) -> float | None:
    """Return a trial's value; if it was pruned, plus the median gain of complete trials after the rung it reached.

    Args:
        trial: A complete or pruned trial.
        complete: Complete, feasible trials.
    """
    value, step = score_of(trial), trial.last_step
    if trial.state is not _PRUNED or value is None:
        return value
    gains = [
        score - t.intermediate_values[step]
        for t in complete
        if (score := score_of(t)) is not None and step is not None and step in t.intermediate_values
    ]
    return value + (statistics.median(gains) if gains else 0.0)


def _scored(trials: Sequence[optuna.trial.FrozenTrial], *, maximize: bool) -> list[optuna.trial.FrozenTrial]:
    """Return all scored or infeasible trials as complete ones."""
    infeasible = [trial for trial in trials if is_infeasible(trial)]
    feasible = [trial for trial in trials if trial.state in (_COMPLETE, _PRUNED) and not is_infeasible(trial)]
    complete = [trial for trial in feasible if trial.state is _COMPLETE]
    values = [(trial, value) for trial in feasible if (value := expected_value(trial, complete)) is not None]
    worst = (min if maximize else max)(value for _, value in values)
    # Optuna requires the constraint on all trials or on none. With no violation there is nothing to fit, so none.
    fine, broken = ({"infeasible": -1.0}, {"infeasible": 1.0}) if infeasible else (None, None)
    return [_copy(t, value, fine) for t, value in values] + [_copy(t, worst, broken) for t in infeasible]


def _copy(
    trial: optuna.trial.FrozenTrial, value: float | None, constraints: dict[str, float] | None = None
) -> optuna.trial.FrozenTrial:
    """Return a trial as the Gaussian process should see it: running without a value, otherwise complete."""
    return optuna.trial.create_trial(
        state=_RUNNING if value is None else _COMPLETE,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        constraints=constraints,
    )
