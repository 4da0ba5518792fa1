"""Chooses what proposes trial ``number``: a recipe, a portfolio, the Sobol sequence, or a fitted model.

Called by `study`. Each trial gets a new model, seeded with the study's seed and the trial's number, so a resumed search
proposes what an uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.config.settings import SearchSettings
from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.figures.recipes import default_recipe, recipe_origin
from sweeper.search import cma, tpe
from sweeper.search.mirror import StudyMirror
from sweeper.search.proposals import Grid, Proposal, fit_recipes, portfolio_origin, random_point, sobol_point
from sweeper.types import PortfolioPoint

__all__ = ["Proposer"]

_LEAST_SCORED = 2
"""Scored trials that a model needs; the recipes are scored first."""

_MAX_TRIALS_OF_GP = 250
"""Number of trials that ended which a Gaussian process reads; with more, it costs more time than it saves."""


class Proposer:
    """Chooses what proposes each trial of one study.

    Args:
        space: The search space.
        settings: Sampler, startup trials and recipes.
        seed: The study's seed.
        fixed: Values of the keys outside the space, and of dimensions that a recipe leaves out.
        maximize: Whether higher values are better.
        portfolio: What to propose after the recipes, as the first of the startup trials.
        rungs: Rungs of the longest trial, at which TPE compares trials of different lengths.

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
        portfolio: Sequence[PortfolioPoint] = (),
        rungs: Sequence[int] = (),
    ) -> None:
        if settings.sampler == "cmaes":
            cma.check_space(space)
        self.space, self.seed = space, seed
        self._settings, self._maximize = settings, maximize
        self.has_cost = settings.cost != "none"
        """Whether trials have a cost, which is minimised beside the objective."""
        self._grid = Grid(space, settings.grid_points, seed=seed) if settings.sampler == "grid" else None
        self._recipes = [] if self._grid else fit_recipes(settings.recipes, space, fixed)
        self._portfolio, self._rungs = portfolio, rungs

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

    def propose(self, mirror: StudyMirror) -> Proposal:
        """Return the proposal for the next trial, given the trials so far."""
        number = len(mirror)
        if self._grid:
            return Proposal(number=number, params=self._grid.point(number), origin="grid")
        if number < len(self._recipes):
            name, params = self._recipes[number]
            return Proposal(number=number, params=params, origin=recipe_origin(name))
        startup_index = number - len(self._recipes)
        if startup_index < len(self._portfolio):
            point = self._portfolio[startup_index]
            return Proposal(number=number, params=point.params, origin=portfolio_origin(point))
        model = self._model(number)
        if startup_index < self._settings.num_startup_trials or model == "qmc" or not self._is_ready(model, mirror):
            sobol_index = startup_index - len(self._portfolio)
            return Proposal(number=number, params=sobol_point(self.space, self.seed, sobol_index), origin="sobol")
        return self._draw_from_model(model, mirror)

    def _draw_from_model(self, model: str, mirror: StudyMirror) -> Proposal:
        space, seed, number, maximize = self.space, self.seed, len(mirror), self._maximize
        notes: Mapping[str, object] = {}
        if model == "random":
            params = random_point(space, seed, number)
        elif model == "cmaes":
            params, note = cma.draw(space, mirror.trials, seed=seed, number=number, maximize=maximize)
            notes = {cma.ATTRIBUTE: note}
        elif model == "gp":
            from sweeper.search import gp  # imports SciPy's linear algebra, which takes 40 MB, in every search

            trials = mirror.for_model(_MAX_TRIALS_OF_GP)
            params = gp.draw(space, trials, seed=seed, number=number, maximize=maximize)
        else:
            trials = mirror.for_model(tpe.MAX_TRIALS)
            params = tpe.draw(
                space,
                trials,
                seed=seed,
                number=number,
                maximize=maximize,
                has_cost=self.has_cost,
                rungs=self._rungs,
            )
        return Proposal(number=number, params=params, origin=model, notes=notes)

    def _model(self, number: int) -> str:
        if self._settings.sampler != "auto":
            return self._settings.sampler
        return "gp" if not self.has_cost and number < _MAX_TRIALS_OF_GP else "tpe"

    def _is_ready(self, model: str, mirror: StudyMirror) -> bool:
        """Whether enough trials are scored to fit a model: many lanes start all startup trials before one is scored."""
        return model not in ("tpe", "gp") or mirror.num_scored >= _LEAST_SCORED
