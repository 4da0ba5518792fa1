"""Chooses what proposes trial ``number``: a recipe, the Sobol sequence, or a model fitted to the trials so far.

Called by `study`. Each trial gets a new model, seeded with the study's seed and the trial's number: Optuna does not
store a sampler's state, so a long-lived sampler would repeat its draws after a resume.
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
from sweeper.search.frozen_trials import is_infeasible
from sweeper.search.proposals import Grid, fit_recipes, random_point, sobol_point, trial_seed

__all__ = ["Draft", "Proposer"]

_AUTO_GP_TRIALS = 250
"""With more trials a Gaussian process costs more time than it saves (the limit of OptunaHub's AutoSampler)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What proposes a trial, and the configuration unless an Optuna sampler draws it."""

    origin: str
    """As in `Proposal`."""
    params: Mapping[str, ParamValue] | None
    """None if an Optuna sampler draws the configuration."""
    notes: Mapping[str, object] = field(default_factory=dict)
    """User attributes to store with the trial, which a later draw needs."""


class Proposer:
    """Chooses what proposes each trial of one study.

    Args:
        space: The search space.
        settings: Sampler, startup trials and recipes.
        seed: The study's seed.
        fixed: Values of the keys outside the space, and of dimensions that a recipe leaves out.
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
        self.space, self.seed = space, seed
        self._settings, self._maximize = settings, maximize
        self._grid = Grid(space, settings.grid_points, seed=seed) if settings.sampler == "grid" else None
        self._recipes = [] if self._grid else fit_recipes(settings.recipes, space, fixed)

    @property
    def size(self) -> int | None:
        """Number of configurations in the grid; None for samplers without an end."""
        return self._grid.size if self._grid else None

    @property
    def num_recipes(self) -> int:
        """Number of recipes that lie in the space; 0 for a grid."""
        return len(self._recipes)

    @property
    def default_origin(self) -> str:
        """Origin of the default recipe; empty if there are no recipes."""
        recipe = default_recipe(self._settings)
        return recipe_origin(recipe.name) if recipe else ""

    def draft(self, number: int, trials: Sequence[optuna.trial.FrozenTrial]) -> Draft:
        """Return the proposal for trial ``number``, given the trials so far."""
        if self._grid:
            return Draft(origin="grid", params=self._grid.point(number))
        if number < len(self._recipes):
            name, params = self._recipes[number]
            return Draft(origin=recipe_origin(name), params=params)
        index = number - len(self._recipes)
        model = self._model(number)
        if index < self._settings.num_startup_trials or model == "qmc" or not self._is_ready(model, trials):
            return Draft(origin="sobol", params=sobol_point(self.space, self.seed, index))
        return self._draw_from_model(model, number, trials)

    def sampler(self, origin: str, number: int) -> optuna.samplers.BaseSampler:
        """Return the Optuna sampler for trial ``number``; only trials of origin ``tpe`` are drawn by it."""
        seed = trial_seed(self.seed, number)
        if origin == "tpe":
            # Joint draws; running trials count as bad ones (constant liar), so that parallel trials spread out.
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)
        return optuna.samplers.RandomSampler(seed=seed)

    def _draw_from_model(self, model: str, number: int, trials: Sequence[optuna.trial.FrozenTrial]) -> Draft:
        if model == "random":
            return Draft(origin=model, params=random_point(self.space, self.seed, number))
        if model == "gp":
            drawn = gp.draw(self.space, trials, seed=self.seed, number=number, maximize=self._maximize)
            return Draft(origin=model, params=drawn)
        if model == "cmaes":
            drawn, note = cma.draw(self.space, trials, seed=self.seed, number=number, maximize=self._maximize)
            return Draft(origin=model, params=drawn, notes={cma.ATTRIBUTE: note})
        return Draft(origin=model, params=None)

    def _model(self, number: int) -> str:
        if self._settings.sampler != "auto":
            return self._settings.sampler
        is_numeric = all(dimension.scale is not Scale.CATEGORICAL for dimension in self.space.dimensions)
        return "gp" if is_numeric and number < _AUTO_GP_TRIALS else "tpe"

    def _is_ready(self, model: str, trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
        """Whether enough trials are scored to fit a model: many lanes start all startup trials before one is scored."""
        if model not in ("tpe", "gp"):
            return True
        scored = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        num_scored = sum(trial.state in scored and not is_infeasible(trial) for trial in trials)
        return num_scored >= max(2, self._settings.num_startup_trials // 2)
