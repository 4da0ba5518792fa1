"""Configurations that depend on a trial's number alone: recipes, Sobol points, random points and grids.

Nothing here looks at results, so a resumed search proposes what an uninterrupted one would have. Does not use Optuna.
Called by `samplers`, which decides when a model takes over.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sweeper.config.settings import Recipe
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError
from sweeper.search.sobol import unit_point
from sweeper.types import PortfolioPoint

__all__ = ["Grid", "Proposal", "fit_recipes", "portfolio_origin", "random_point", "sobol_point", "trial_seed"]

MAX_GRID = 100_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A configuration to train next."""

    number: int
    """Number of the trial in its study."""
    params: Mapping[str, ParamValue]
    """Searched values by dotted key."""
    origin: str
    """``recipe:<name>``, ``portfolio:<source>``, ``sobol``, ``grid``, ``random`` or the sampler's name."""
    notes: Mapping[str, object] = field(default_factory=dict)
    """What later proposals must know about this one; kept in the trial's record."""


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of trial ``number``, a 32-bit number that does not depend on what ran before."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def portfolio_origin(point: PortfolioPoint) -> str:
    """Return `TrialSpec.origin` of the trial of a portfolio's point."""
    return f"portfolio:{point.source}"


def fit_recipes(
    recipes: Sequence[Recipe], space: SearchSpace, fixed: Mapping[str, ParamValue]
) -> list[tuple[str, dict[str, ParamValue]]]:
    """Return the recipes that lie in the space, without duplicates, in their order.

    Args:
        recipes: Known configurations.
        space: The search space. A dimension that a recipe leaves out gets its value from ``fixed``.
        fixed: Values by dotted key. A recipe that sets a key outside the space must set it to this value.

    Returns:
        Name and configuration of each recipe that fits. The others are logged with the reason.
    """
    fitting: list[tuple[str, dict[str, ParamValue]]] = []
    for recipe in recipes:
        params, reason = _fit(recipe, space, fixed)
        if not reason and any(params == known for _, known in fitting):
            reason = "it equals an earlier recipe in this space"
        if reason:
            logger.info("recipe %s is skipped: %s", recipe.name, reason)
        else:
            fitting.append((recipe.name, params))
    return fitting


def _fit(recipe: Recipe, space: SearchSpace, fixed: Mapping[str, ParamValue]) -> tuple[dict[str, ParamValue], str]:
    for key, value in recipe.params.items():
        if key not in space.keys and fixed.get(key) != value:
            return {}, f"{key}={value} is not the fixed value {fixed.get(key)}"
    params = {}
    for dimension in space.dimensions:
        value = recipe.params.get(dimension.key, fixed.get(dimension.key))
        if value is None:
            return {}, f"it has no value for {dimension.key}"
        if not dimension.contains(value):
            return {}, f"{dimension.key}={value} is outside {dimension.text}"
        params[dimension.key] = _as_kind(dimension, value)
    return params, ""


def _as_kind(dimension: Dimension, value: ParamValue) -> ParamValue:
    """Return the value as the type that the dimension draws, e.g. 8 for 8.0."""
    if dimension.choices:
        return dimension.choices[dimension.choices.index(value)]
    return int(value) if dimension.is_integer else float(value)


def sobol_point(space: SearchSpace, seed: int, index: int) -> dict[str, ParamValue]:
    """Return point ``index`` of a scrambled Sobol sequence over the space."""
    return space.point(unit_point(len(space), seed, index))


def random_point(space: SearchSpace, seed: int, number: int) -> dict[str, ParamValue]:
    """Return the random point of trial ``number``."""
    rng = np.random.default_rng(trial_seed(seed, number))
    return space.point(tuple(float(unit) for unit in rng.random(len(space))))


class Grid:
    """Every combination of a few values of each dimension, in random order, so that a part of it covers the space.

    Args:
        space: The search space.
        points: Values per numeric dimension. Choices and powers of two are all used.
        seed: Seed of the order.

    Raises:
        ConfigError: The grid has more than `MAX_GRID` combinations.
    """

    def __init__(self, space: SearchSpace, points: int, *, seed: int) -> None:
        self._axes = {dimension.key: _axis(dimension, points) for dimension in space.dimensions}
        self.size = math.prod(len(axis) for axis in self._axes.values())
        if self.size > MAX_GRID:
            rule = f"the grid has {self.size} combinations; at most {MAX_GRID} are allowed"
            raise ConfigError("search.sampler", "grid", rule, "Lower search.grid_points, or fix a dimension.")
        self._order = np.random.default_rng(seed).permutation(self.size)

    def point(self, number: int) -> dict[str, ParamValue]:
        """Return the combination of trial ``number``, which is below ``size``."""
        rest = int(self._order[number])
        params = {}
        for key, axis in self._axes.items():
            rest, position = divmod(rest, len(axis))
            params[key] = axis[position]
        return params


def _axis(dimension: Dimension, points: int) -> list[ParamValue]:
    if dimension.num_values is not None and (dimension.choices or dimension.scale is Scale.LOG2):
        count = dimension.num_values
        return [dimension.at((position + 0.5) / count) for position in range(count)]
    units = [0.5] if points == 1 else [position / (points - 1) for position in range(points)]
    return list(dict.fromkeys(dimension.at(unit) for unit in units))
