"""The error model: seeds and rows are both random and crossed, since every seed is scored on the same rows.

A value of seed s on row n is mean + seed effect + row effect + residual, the two-way random-effects model without
replication (Searle, Casella and McCulloch 1992, chapter 4). Its mean squares give the variance of the mean,

    seed / S + row / N + residual / (S N),

and Satterthwaite's formula (1946) the degrees of freedom. A pigeonhole bootstrap (Owen 2007) needs no model, but
counts the residual three times, and here the residual is large: trained twice, a model errs on other rows.

Shapes: S seeds, N rows, P quantities (differences of two candidates, or candidates), D random draws.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

__all__ = ["Crossed", "MaxStatistic", "SeedVariance", "StandardError"]

Floats = NDArray[np.float64]

_DRAWS = 4096
"""Sobol points, so a power of two."""
_SMALLEST_ROOT = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class StandardError:
    """Standard error of a mean, and its degrees of freedom."""

    error: float
    degrees: float

    def half_width(self, level: float) -> float:
        """Return half the width of the interval that misses the truth with probability ``level``."""
        return -float(special.stdtrit(self.degrees, level / 2)) * self.error


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedVariance:
    """Variance between seeds, and the degrees of freedom of its estimate.

    Three seeds alone say little about it, so it is pooled over what is comparable.
    """

    variance: float
    degrees: float

    @staticmethod
    def pooled(parts: Sequence[Crossed], degrees: float) -> SeedVariance:
        """Return the mean of the parts' variances, weighted by their seeds."""
        if not parts:
            return SeedVariance(variance=0.0, degrees=1.0)
        weights = [part.num_seeds - 1 for part in parts]
        mean = float(np.average([part.seed for part in parts], weights=weights))
        return SeedVariance(variance=max(0.0, mean), degrees=degrees)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossed:
    """Mean of values over seeds and rows, and their variance components."""

    mean: float
    num_seeds: int
    num_rows: int
    seed: float
    """Unbiased, so it may be negative."""
    row: float
    residual: float
    step: float = 0.0
    """Change of a value when one row changes its label; 0 if values are continuous."""

    @staticmethod
    def of(values_SN: Floats, step: float = 0.0) -> Crossed:
        """Return the components of values of at least two seeds and two rows."""
        num_seeds, num_rows = values_SN.shape
        mean = values_SN.mean()
        seed_S, row_N = values_SN.mean(axis=1) - mean, values_SN.mean(axis=0) - mean
        between_seeds = num_rows * (seed_S @ seed_S) / (num_seeds - 1)
        between_rows = num_seeds * (row_N @ row_N) / (num_rows - 1)
        squares = ((values_SN - mean) ** 2).sum() - num_rows * (seed_S @ seed_S) - num_seeds * (row_N @ row_N)
        residual = max(0.0, squares / ((num_seeds - 1) * (num_rows - 1)))
        return Crossed(
            mean=float(mean),
            num_seeds=num_seeds,
            num_rows=num_rows,
            seed=float((between_seeds - residual) / num_rows),
            row=max(0.0, float((between_rows - residual) / num_seeds)),
            residual=float(residual),
            step=step,
        )

    def error(self, seeds: SeedVariance, *, num_seeds: int | None = None, num_rows: int | None = None) -> StandardError:
        """Return the standard error of the mean, also for other numbers of seeds and rows.

        Args:
            seeds: The variance between seeds.
            num_seeds: S; that of the values if None.
            num_rows: N; that of the values if None.
        """
        s, n = num_seeds or self.num_seeds, num_rows or self.num_rows
        residual = self.residual / (s * n)
        # Agresti and Min (2005): as if one more row had changed sides. Where all rows agree, the error is not 0.
        row_part = self.row / n + residual + (self.step / n) ** 2
        seed_part = seeds.variance / s + residual
        variance = row_part + seed_part - residual
        degrees_s = seeds.degrees * (s - 1) / (self.num_seeds - 1)
        square = seed_part**2 / degrees_s + row_part**2 / (n - 1)
        return StandardError(error=math.sqrt(variance), degrees=variance**2 / square if square > 0 else n - 1.0)


@functools.lru_cache(maxsize=32)
def _normal(dimensions: int, seed: int) -> Floats:
    """Return normal draws that cover the space evenly, ``[D, dimensions]``."""
    points = stats.qmc.Sobol(dimensions, rng=seed).random(_DRAWS)
    normal: Floats = special.ndtri(np.clip(points, 1e-12, 1 - 1e-12))
    return normal


class MaxStatistic:
    """Distribution of the largest of P correlated statistics: single-step max-T (Hothorn, Bretz and Westfall 2008).

    Args:
        values_PN: Means over seeds for each row. Their correlation over rows is that of the estimates.
        seed: Of the random draws.
    """

    def __init__(self, values_PN: Floats, seed: int) -> None:
        varying = values_PN[np.ptp(values_PN, axis=1) > 0]
        self._largest_D = np.empty(0)
        if len(varying) > 1:
            roots, vectors = np.linalg.eigh(np.corrcoef(varying))
            # Differences of C candidates span C - 1 dimensions at most.
            used = roots > _SMALLEST_ROOT * roots[-1]
            z_DP = (_normal(int(used.sum()), seed) * np.sqrt(roots[used])) @ vectors[:, used].T
            self._largest_D = np.sort(np.abs(z_DP).max(axis=1))

    def level(self, level: float) -> float:
        """Return the error level of each of P intervals with which all hold at once with probability 1 - level."""
        if not self._largest_D.size:
            return level  # one quantity needs no correction
        index = min(len(self._largest_D) - 1, int(len(self._largest_D) * (1 - level)))
        return float(2 * special.ndtr(-self._largest_D[index]))
