"""Paired comparisons of regrets: a bootstrap over the seeds of a table, and over tables and their seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "compare", "compare_over_tables"]

_NUM_RESAMPLES = 4000
_LEVEL = 0.95

Regrets = Mapping[int, float]
"""Regret by seed."""
_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our regret less a peer's, with a 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says of our search: better, worse, or equal if it holds zero."""
        if self.low > 0:
            return "worse"
        return "better" if self.high < 0 else "equal"

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}) {self.verdict}"


def compare(ours: Regrets, peers: Regrets) -> Comparison:
    """Compare on one table, over the seeds that both have."""
    differences = _differences(ours, peers)
    if len(differences) == 1:
        return Comparison(float(differences[0]), -math.inf, math.inf)  # one value has no interval
    return _comparison(differences, _resampled_means(differences, np.random.default_rng(0)))


def compare_over_tables(ours: Mapping[str, Regrets], peers: Mapping[str, Regrets]) -> Comparison:
    """Compare over tables: these are drawn with replacement, then the seeds of each.

    Args:
        ours: Regrets by table.
        peers: The same.
    """
    random = np.random.default_rng(0)
    differences = [_differences(ours[name], peers[name]) for name in ours if name in peers]
    # A table that is drawn twice resamples its seeds twice.
    means = np.zeros(_NUM_RESAMPLES)
    tables = random.integers(len(differences), size=(len(differences), _NUM_RESAMPLES))
    for drawn in tables:
        resampled = np.array([_resampled_means(values, random) for values in differences])
        means += resampled[drawn, np.arange(_NUM_RESAMPLES)] / len(differences)
    return _comparison(np.array([values.mean() for values in differences]), means)


def _differences(ours: Regrets, peers: Regrets) -> _Array:
    return np.array([ours[seed] - peers[seed] for seed in sorted(ours.keys() & peers.keys())])


def _resampled_means(values: _Array, random: np.random.Generator) -> _Array:
    return np.asarray(values[random.integers(len(values), size=(_NUM_RESAMPLES, len(values)))].mean(1))


def _comparison(values: _Array, means: _Array) -> Comparison:
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Comparison(float(values.mean()), float(low), float(high))
