"""The best achievable score under conditions, as posterior draws: profiles over a key, ridges, rules of thumb.

Marginal means over a space say little about tuning: a high learning rate looks bad on average because it fails with a
high alpha. So everything here is a maximum over the other keys. Used by `effects` and `folklore`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from sweeper.config.space import Scale
from sweeper.config.values import ParamValue
from sweeper.statistics.results import Interval
from sweeper.statistics.surrogate import Surrogate

__all__ = ["NUM_GRID", "Landscape", "interval_of"]

Array = NDArray[np.float64]

NUM_GRID = 15
"""Values at which a continuous key is looked at."""
_NUM_SPREAD = 128
_NUM_NEAR = 48
_NEAR_SD = 0.12
_NUM_BEST = 16
"""Configurations of the other keys that compete at a value: those with the best posterior means."""


def interval_of(draws_S: Array, confidence: float = 0.95) -> Interval:
    """Return median and central interval of draws."""
    tail = (1 - confidence) / 2
    low, estimate, high = np.quantile(draws_S, [tail, 0.5, 1 - tail])
    return Interval(estimate=float(estimate), low=float(low), high=float(high))


class Landscape:
    """Posterior draws of a study's true score, and the candidates that maxima are taken over.

    A maximum over the other keys is one over a set of candidates: points spread over the space, the configurations
    that were trained, and points near the best one. At each value the sixteen with the best posterior means compete in
    every draw.

    Args:
        surrogate: A surrogate of sufficient quality.
        num_draws: Posterior draws.
        seed: Seed of draws and candidates.
    """

    def __init__(self, surrogate: Surrogate, *, num_draws: int = 240, seed: int = 0) -> None:
        self.surrogate = surrogate
        self.encoder = surrogate.encoder
        self.draws = surrogate.functions(num_draws=num_draws, seed=seed)
        rng = np.random.default_rng(seed)
        spread = self.encoder.encode_units(qmc.Sobol(len(surrogate.space), rng=rng).random(_NUM_SPREAD))
        trained = np.clip(surrogate.points, 0, 1)
        order = np.argsort(-surrogate.mean_scores(trained))
        pool = np.concatenate([spread, trained[order[:_NUM_NEAR]]])
        best = pool[int(np.argmax(surrogate.mean_scores(pool)))]
        self.pool_KC = np.concatenate([pool, self._near(best, rng)])
        self.best_C: Array = self.pool_KC[int(np.argmax(surrogate.mean_scores(self.pool_KC)))]
        """The candidate with the best posterior mean."""

    def index(self, key: str) -> int | None:
        """Return the index of a dimension; None if the key is not searched."""
        return self.surrogate.space.keys.index(key) if key in self.surrogate.space.keys else None

    def grid(self, index: int, num: int = NUM_GRID) -> list[ParamValue]:
        """Return at most ``num`` values of a dimension, evenly spaced on its scale."""
        levels = self.encoder.levels(index)
        if levels is None:
            return [float(value) for value in self.encoder.number_of(index, np.linspace(0, 1, num))]
        if len(levels) <= num:
            return levels
        return [levels[round(at)] for at in np.linspace(0, len(levels) - 1, num)]

    def at(self, values: Sequence[Mapping[str, ParamValue]]) -> Array:
        """Return the candidates with some keys set to given values (G x K x C).

        Args:
            values: For each of G conditions, values by dotted key, the same keys in all.
        """
        found = np.repeat(self.pool_KC[None], len(values), axis=0)
        for row, condition in zip(found, values, strict=True):
            for key, value in condition.items():
                index = self.surrogate.space.keys.index(key)
                row[:, self.encoder.columns_of(index)] = self.encoder.column_values(index, value)
        return found

    def best_scores(self, points_GKC: Array, is_allowed_GK: NDArray[np.bool_] | None = None) -> Array:
        """Return draws (S x G) of the best score among each condition's candidates.

        Args:
            points_GKC: Candidates for each of G conditions.
            is_allowed_GK: Candidates that count; all if None. At least one of every condition.
        """
        mean_GK = self._means(points_GKC)
        if is_allowed_GK is not None:
            mean_GK = np.where(is_allowed_GK, mean_GK, -np.inf)
        order_GT = np.argsort(-mean_GK, axis=1)[:, :_NUM_BEST]
        chosen = np.take_along_axis(points_GKC, order_GT[:, :, None], axis=1)
        draws = self.draws(chosen.reshape(-1, points_GKC.shape[2])).reshape(-1, *order_GT.shape)
        if is_allowed_GK is not None:
            draws = np.where(np.take_along_axis(is_allowed_GK, order_GT, axis=1), draws, -np.inf)
        return np.asarray(draws.max(axis=2))

    def best_mean(self, points_GKC: Array) -> Array:
        """Return the best likely score among each condition's candidates, as values of the metric."""
        return self.surrogate.values(self._means(points_GKC).max(axis=1))

    def profile(self, key: str, values: Sequence[ParamValue]) -> Array:
        """Return draws (S x G) of the best score at each value of a key."""
        return self.best_scores(self.at([{key: value} for value in values]))

    def _means(self, points_GKC: Array) -> Array:
        flat = points_GKC.reshape(-1, points_GKC.shape[2])
        return self.surrogate.likely_scores(flat).reshape(points_GKC.shape[:2])

    def _near(self, best_C: Array, rng: np.random.Generator) -> Array:
        """Return points near the best one; categories stay, and discrete values move to others in a part of them."""
        near = np.repeat(best_C[None], _NUM_NEAR, axis=0)
        for index, dimension in enumerate(self.surrogate.space.dimensions):
            if dimension.scale is Scale.CATEGORICAL:
                continue
            column = int(self.encoder.columns_of(index)[0])
            moved = np.clip(near[:, column] + _NEAR_SD * rng.standard_normal(_NUM_NEAR), 0, 1)
            levels = self.encoder.levels(index)
            if levels is not None:
                known = np.array([self.encoder.column_values(index, level)[0] for level in levels])
                moved = known[np.abs(moved[:, None] - known[None, :]).argmin(axis=1)]
            near[:, column] = moved
        return near
