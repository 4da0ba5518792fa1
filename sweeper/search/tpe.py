"""Optuna's tree-structured Parzen estimator on a bounded number of trials, compared at one rung (see `rung_view`).

With a cost, it is the multi-objective one (MOTPE, Ozaki et al. 2020, doi:10.1145/3377930.3389817).

Each trial is drawn by a new sampler, seeded with the study's seed and the trial's number: Optuna does not store a
sampler's state, so a long-lived one would repeat its draws after a resume. Called by `samplers`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import optuna

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.search.distributions import distributions, from_drawn
from sweeper.search.proposals import trial_seed
from sweeper.search.rung_view import compared_at_one_rung

__all__ = ["MAX_TRIALS", "draw"]

MAX_TRIALS = 300
"""Number of trials that ended which a draw reads: 2 ms. All of 10,000 would take 176 ms."""


def draw(
    space: SearchSpace,
    trials: Sequence[optuna.trial.FrozenTrial],
    *,
    seed: int,
    number: int,
    maximize: bool,
    has_cost: bool = False,
    rungs: Sequence[int] = (),
) -> dict[str, ParamValue]:
    """Draw the configuration of trial ``number``.

    Args:
        space: The search space.
        trials: The trials to fit, by number; at least one is feasible and scored.
        seed: The study's seed.
        number: Number of the trial.
        maximize: Whether higher values are better.
        has_cost: Whether the trials have a cost, which is minimised.
        rungs: Rungs of the longest trial; only read if trials have different lengths.
    """
    # Joint draws; trials without a score count as bad ones (constant liar), so that parallel trials spread out.
    sampler = optuna.samplers.TPESampler(
        seed=trial_seed(seed, number), multivariate=True, constant_liar=True, n_startup_trials=1
    )
    minimize = optuna.study.StudyDirection.MINIMIZE
    directions = [optuna.study.StudyDirection.MAXIMIZE if maximize else minimize, *([minimize] if has_cost else [])]
    seen = compared_at_one_rung(trials, space, maximize=maximize, has_cost=has_cost, rungs=rungs)
    study = optuna.create_study(storage=_Snapshot(seen, number), sampler=sampler, directions=directions)
    return from_drawn(space, study.ask(distributions(space)).params)


class _Snapshot(optuna.storages.InMemoryStorage):
    """A study in memory in which one trial is drawn. The others are given: to add each would copy it.

    Args:
        trials: The other trials.
        number: Number of the trial to draw.
    """

    def __init__(self, trials: Sequence[optuna.trial.FrozenTrial], number: int) -> None:
        super().__init__()
        self._trials, self._number = trials, number

    def create_new_trial(self, study_id: int, template_trial: optuna.trial.FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number = self._number
        return trial_id

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[optuna.trial.TrialState] | None = None,
    ) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]
