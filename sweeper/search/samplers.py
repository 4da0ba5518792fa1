"""Who proposes trial ``number``: a recipe, the Sobol start, or a model of what was learnt so far.

Called by `study`. A model is made anew for every trial, seeded by study seed and trial number: Optuna does not store
a sampler's state, so a long-lived one would repeat its draws after a resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from sweeper.config.settings import SearchSettings
from sweeper.config.space import Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.figures.recipes import default_recipe, recipe_origin
from sweeper.search import cma, gp
from sweeper.search.proposals import Grid, fit_recipes, random_point, sobol_point, trial_seed
from sweeper.search.reading import is_infeasible

__all__ = ["Draft", "Proposer", "make_sampler"]

_AUTO_GP_TRIALS = 250
"""Above this a Gaussian process takes longer than it gains (the rule of OptunaHub's AutoSampler)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Who proposes a trial, and its setting unless an Optuna sampler draws it."""

    origin: str
    params: Mapping[str, ParamValue] | None
    notes: Mapping[str, object] = field(default_factory=dict)
    """User attributes that the proposer needs later."""


def make_sampler(name: str, *, seed: int) -> optuna.samplers.BaseSampler:
    """Return the Optuna sampler that draws one trial.

    Args:
        name: ``tpe``; every other origin brings its own setting, so its sampler is never asked.
        seed: Seed of the trial.
    """
    if name == "tpe":
        # Joint draws, and running trials count as bad ones (constant liar), so that lanes spread out.
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)
    return optuna.samplers.RandomSampler(seed=seed)


class Proposer:
    """The plan of one study.

    Args:
        space: The search space.
        settings: Sampler, start and recipes.
        seed: The study's seed.
        fixed: Values of the keys that do not vary.
        maximize: Whether higher values are better.

    Raises:
        ConfigError: The sampler cannot search this space.
    """

    def __init__(
        self,
        space: SearchSpace,
        settings: SearchSettings,
        *,
        seed: int,
        fixed: Mapping[str, ParamValue],
        maximize: bool,
    ) -> None:
        if settings.sampler == "cmaes":
            cma.check_space(space)
        self._space, self._settings, self._seed, self._maximize = space, settings, seed, maximize
        self._grid = Grid(space, settings.grid_points, seed=seed) if settings.sampler == "grid" else None
        self._recipes = [] if self._grid else fit_recipes(settings.recipes, space, fixed)

    @property
    def size(self) -> int | None:
        """How many different trials there are; None if there is no end."""
        return self._grid.size if self._grid else None

    @property
    def default_origin(self) -> str:
        """Origin of the recipe that all are compared with."""
        recipe = default_recipe(self._settings)
        return recipe_origin(recipe.name) if recipe else ""

    def draft(self, number: int, trials: Sequence[optuna.trial.FrozenTrial]) -> Draft:
        """Return who proposes trial ``number``, given the trials so far."""
        if self._grid:
            return Draft(origin="grid", params=self._grid.point(number))
        if number < len(self._recipes):
            name, params = self._recipes[number]
            return Draft(origin=recipe_origin(name), params=params)
        index = number - len(self._recipes)
        model = self._model(number)
        if index < self._settings.num_startup_trials or model == "qmc" or not self._is_ready(model, trials):
            return Draft(origin="sobol", params=sobol_point(self._space, self._seed, index))
        return self._learn(model, number, trials)

    def sampler(self, origin: str, number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler that draws trial ``number`` of this origin."""
        return make_sampler(origin, seed=trial_seed(self._seed, number))

    def _learn(self, model: str, number: int, trials: Sequence[optuna.trial.FrozenTrial]) -> Draft:
        if model == "random":
            return Draft(origin=model, params=random_point(self._space, self._seed, number))
        if model == "gp":
            drawn = gp.draw(self._space, trials, seed=self._seed, number=number, maximize=self._maximize)
            return Draft(origin=model, params=drawn)
        if model == "cmaes":
            drawn, note = cma.draw(self._space, trials, seed=self._seed, number=number, maximize=self._maximize)
            return Draft(origin=model, params=drawn, notes={cma.ATTRIBUTE: note})
        return Draft(origin=model, params=None)

    def _model(self, number: int) -> str:
        if self._settings.sampler != "auto":
            return self._settings.sampler
        is_numeric = all(dimension.scale is not Scale.CATEGORICAL for dimension in self._space.dimensions)
        return "gp" if is_numeric and number < _AUTO_GP_TRIALS else "tpe"

    def _is_ready(self, model: str, trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
        """Whether a model has enough to learn from; with many lanes the start is long over before a trial ends."""
        if model not in ("tpe", "gp"):
            return True
        scored = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        num_scored = sum(trial.state in scored and not is_infeasible(trial) for trial in trials)
        return num_scored >= max(2, self._settings.num_startup_trials // 2)
