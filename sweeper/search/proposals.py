"""Settings that follow from a trial's number alone: known recipes, Sobol points, random points and grids.

Nothing here looks at results, so a resumed search proposes what an uninterrupted one would have. Knows nothing of
Optuna; `samplers` decides when a model takes over.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from sweeper.config.settings import Recipe
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError

__all__ = ["Grid", "Proposal", "fit_recipes", "random_point", "sobol_point", "trial_seed"]

MAX_GRID = 100_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A setting to train next."""

    number: int
    """Number of the trial in its study."""
    params: Mapping[str, ParamValue]
    """Searched values by dotted key."""
    origin: str
    """``recipe:<name>``, ``sobol``, ``grid``, ``random`` or the model's name."""


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of trial ``number``, a 32-bit number that does not depend on what ran before."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def fit_recipes(
    recipes: Sequence[Recipe], space: SearchSpace, fixed: Mapping[str, ParamValue]
) -> list[tuple[str, dict[str, ParamValue]]]:
    """Return those recipes that lie in the space, each once, in their order.

    Args:
        recipes: Known settings by dotted key.
        space: The search space. A dimension that a recipe leaves out takes its fixed value.
        fixed: Values of all keys that do not vary. A recipe's key outside the space must have this value.

    Returns:
        Name and setting of each recipe that fits; the others are logged with the reason.
    """
    fitting: list[tuple[str, dict[str, ParamValue]]] = []
    for recipe in recipes:
        params, reason = _fit(recipe, space, fixed)
        if not reason and any(params == known for _, known in fitting):
            reason = "it equals an earlier recipe"
        if reason:
            logger.info("recipe %s is left out: %s", recipe.name, reason)
        else:
            fitting.append((recipe.name, params))
    return fitting


def _fit(recipe: Recipe, space: SearchSpace, fixed: Mapping[str, ParamValue]) -> tuple[dict[str, ParamValue], str]:
    for key, value in recipe.params.items():
        if key not in space.keys and (key not in fixed or fixed[key] != value):
            return {}, f"{key}={value} is fixed at {fixed.get(key, 'nothing')}"
    params = {}
    for dimension in space.dimensions:
        value = recipe.params.get(dimension.key, fixed.get(dimension.key))
        if value is None or not dimension.contains(value):
            return {}, f"{dimension.key}={value} is outside {dimension.text}"
        params[dimension.key] = _as_kind(dimension, value)
    return params, ""


def _as_kind(dimension: Dimension, value: ParamValue) -> ParamValue:
    """Return an equal value of the type that the dimension gives, e.g. 8 for 8.0."""
    if dimension.choices:
        return dimension.choices[dimension.choices.index(value)]
    return int(value) if dimension.is_integer else float(value)


def sobol_point(space: SearchSpace, seed: int, index: int) -> dict[str, ParamValue]:
    """Return point ``index`` of a scrambled Sobol sequence (Owen 1998) over the space."""
    engine = qmc.Sobol(d=len(space), scramble=True, rng=np.random.default_rng(seed))
    if index:
        engine.fast_forward(index)
    return space.point(tuple(float(unit) for unit in engine.random(1)[0]))


def random_point(space: SearchSpace, seed: int, number: int) -> dict[str, ParamValue]:
    """Return the random point that belongs to trial ``number``."""
    rng = np.random.default_rng(trial_seed(seed, number))
    return space.point(tuple(float(unit) for unit in rng.random(len(space))))


class Grid:
    """Every combination of a few values of each dimension, in a random order, so that a part of it covers the space.

    Args:
        space: The search space.
        points: Values taken of each dimension that has more than that many; choices and powers of two are all taken.
        seed: Seed of the order.

    Raises:
        ConfigError: The grid is too large to be meant.
    """

    def __init__(self, space: SearchSpace, points: int, *, seed: int) -> None:
        self._axes = {dimension.key: _axis(dimension, points) for dimension in space.dimensions}
        self.size = math.prod(len(axis) for axis in self._axes.values())
        if self.size > MAX_GRID:
            remedy = "Lower search.grid_points, or fix a dimension."
            raise ConfigError("search.sampler", "grid", f"{self.size} combinations are more than {MAX_GRID}", remedy)
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
