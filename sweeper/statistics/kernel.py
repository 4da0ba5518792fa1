"""Covariance of scores over configurations and rungs, and the posterior density of its parameters with gradient.

The score of trial i of configuration c at a rung is modelled as

    mean + f(c) + d(c) + s(i) + gap(p) + g(c, p) + h(i, p) + row noise

f is smooth over the space, d is the configuration's own deviation from that, and s the luck of the trial's seed. p is
the logarithm of the share of training still missing, 0 at the full length and 1 at the first rung. What the missing
training will add (on average, by configuration and by trial) is a Brownian motion in p that starts at 0 at the full
length: the next rung is easier to foresee than the last one. On 240 recorded trials of ten data sets, left-out trials
were better predicted than with terms linear in p (mean log likelihood 3.7 instead of 1.5), and the error of a forecast
of the last score from the first was half as large. So a pruned trial tells about f as far as early scores did for the
trials that went on. A pruner stops trials because of scores that are in the data, which does no harm to a likelihood of
all scores (they are missing at random, Rubin 1976).

f and g are Gaussian processes with a Matern 5/2 kernel, a length scale for each dimension, and one free direction
(the factor analysis distance of Rasmussen and Williams 2006, section 5.1): a ridge along which the learning rate makes
up for alpha is not parallel to an axis. Its prior mean is no direction at all. Used by `surrogate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, lapack

__all__ = ["MEAN_VARIANCE", "Data", "Kernel", "Parameters", "log_posterior"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MEAN_VARIANCE = 4.0
"""Prior variance of the mean and of the mean gap, where scores have a variance of 1."""
_JITTER = 1e-3
"""Variance of every score beyond the other terms, which also keeps the matrix positive definite."""
_VARIANCE_PRIORS = ((0.3, 0.7), (-1.0, 0.5), (-3.5, 1.0), (-3.5, 1.0), (-2.3, 1.0))
"""Mean and standard deviation of the logarithms of the variances of f, g, d, s and h.

With them a first and a last score correlate by about 0.7, as recorded."""
_DIRECTION_SD = 0.7
_LENGTH_SD = 0.8


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Data:
    """N standardized scores of I trials of U configurations, points in C columns."""

    x_UC: Array
    configuration_N: Indices
    """Index of each score's configuration."""
    trial_N: Indices
    """Index of each score's trial."""
    missing_N: Array
    """The training still missing at each score, p above."""
    y_N: Array
    row_variance_N: Array
    """Known variance of each score due to the validation rows; half of it is common to all rungs of a trial."""
    dimension_C: Indices
    is_numeric_C: NDArray[np.bool_]

    @property
    def num_dimensions(self) -> int:
        """Dimensions of the space."""
        return int(self.dimension_C[-1]) + 1


@dataclass(frozen=True, eq=False, slots=True)
class Parameters:
    """Parameters of the covariance, as a vector in units of their prior: standard normal a priori."""

    units_P: Array
    num_dimensions: int
    is_numeric_C: NDArray[np.bool_]
    dimension_C: Indices

    @classmethod
    def size(cls, data: Data) -> int:
        """Return the number of parameters."""
        return data.num_dimensions + int(data.is_numeric_C.sum()) + len(_VARIANCE_PRIORS)

    @classmethod
    def of(cls, units_P: Array, data: Data) -> Parameters:
        """Return the parameters of a vector."""
        return cls(units_P, data.num_dimensions, data.is_numeric_C, data.dimension_C)

    @classmethod
    def typical(cls, dimension_C: Indices, is_numeric_C: NDArray[np.bool_]) -> Parameters:
        """Return the prior medians."""
        num_dimensions = int(dimension_C[-1]) + 1
        size = num_dimensions + int(is_numeric_C.sum()) + len(_VARIANCE_PRIORS)
        return cls(np.zeros(size), num_dimensions, is_numeric_C, dimension_C)

    @property
    def lengths(self) -> Array:
        """Length scales by dimension; long if it has no effect. The prior median grows with the root of D."""
        first = math.log(0.4 * math.sqrt(self.num_dimensions))
        return np.exp(first + _LENGTH_SD * self.units_P[: self.num_dimensions])

    @property
    def direction(self) -> Array:
        """The free direction, 0 in the columns of categories."""
        found = np.zeros(len(self.is_numeric_C))
        found[self.is_numeric_C] = _DIRECTION_SD * self.units_P[self.num_dimensions : -len(_VARIANCE_PRIORS)]
        return found

    @property
    def variances(self) -> Array:
        """Variances of f, g, d, s and h."""
        means, deviations = np.array(_VARIANCE_PRIORS).T
        return np.asarray(np.exp(means + deviations * self.units_P[-len(_VARIANCE_PRIORS) :]))


class Kernel:
    """The covariance with given parameters."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.smooth, self.gap, self.deviation, self.seed, self.own_gap = parameters.variances
        self.scale_C = 1 / parameters.lengths[parameters.dimension_C]

    @property
    def variance(self) -> float:
        """Prior variance of the mean and f at a point."""
        return float(MEAN_VARIANCE + self.smooth)

    def embed(self, x_MC: Array) -> Array:
        """Return points in coordinates in which the kernel depends on the Euclidean distance."""
        return np.column_stack([x_MC * self.scale_C, x_MC @ self.parameters.direction])

    def matern(self, x_MC: Array, other_LC: Array) -> Array:
        """Return the Matern 5/2 correlation of points (M x L)."""
        root = self._root_distances(x_MC, other_LC)
        found = root / 3
        found += 1
        found *= root
        found += 1
        np.negative(root, out=root)
        found *= np.exp(root, out=root)
        return found

    def matern_slope(self, x_MC: Array, other_LC: Array) -> Array:
        """Return the derivative of `matern` in the squared distance."""
        root = self._root_distances(x_MC, other_LC)
        return np.asarray(-5 / 6 * (1 + root) * np.exp(-root))

    def _root_distances(self, x_MC: Array, other_LC: Array) -> Array:
        """Return the square root of 5 times the distances; in place, since this is where the time goes."""
        one, other = self.embed(x_MC), self.embed(other_LC)
        squared = one @ other.T
        squared *= -2
        squared += (one**2).sum(1)[:, None]
        squared += (other**2).sum(1)[None, :]
        np.maximum(squared, 0.0, out=squared)
        squared *= 5
        return np.asarray(np.sqrt(squared, out=squared))

    def scores(self, data: Data, matern_UU: Array) -> Array:
        """Return the covariance of scores (N x N)."""
        c = data.configuration_N
        found = self.beyond_smooth(data, matern_UU)
        found += MEAN_VARIANCE + self.smooth * matern_UU[np.ix_(c, c)]
        return found

    def beyond_smooth(self, data: Data, matern_UU: Array) -> Array:
        """Return the covariance of scores (N x N) without that of the mean and f."""
        c, p = data.configuration_N, data.missing_N
        same_trial = data.trial_N[:, None] == data.trial_N[None, :]
        same_configuration = c[:, None] == c[None, :]
        missing = np.minimum.outer(p, p)
        deviation = np.sqrt(data.row_variance_N / 2)
        found = missing * (MEAN_VARIANCE + self.gap * matern_UU[np.ix_(c, c)])
        found += self.deviation * same_configuration
        found += (self.seed + self.own_gap * missing + np.outer(deviation, deviation)) * same_trial
        found[np.diag_indices_from(found)] += data.row_variance_N / 2 + _JITTER
        return np.asarray(found)

    def smooth_cross(self, x_MC: Array, other_LC: Array) -> Array:
        """Return the covariance of mean and f between points (M x L)."""
        return np.asarray(MEAN_VARIANCE + self.smooth * self.matern(x_MC, other_LC))

    def cross(self, data: Data, x_MC: Array, *, own: Indices | None = None) -> Array:
        """Return the covariance of scores with true values at the full length (N x M).

        Args:
            data: The scores.
            x_MC: Points.
            own: Index of the configuration of ``data`` that each point is; its own deviation then counts as part of
                its true value. None for points that stand for their neighbourhood.
        """
        found = self.smooth_cross(data.x_UC, x_MC)[data.configuration_N]
        if own is not None:
            found += self.deviation * (data.configuration_N[:, None] == own[None, :])
        return np.asarray(found)

    def values(self, x_MC: Array, *, with_deviation: bool) -> Array:
        """Return the prior covariance of true values at the full length (M x M)."""
        found = self.smooth_cross(x_MC, x_MC)
        if with_deviation:
            found[np.diag_indices_from(found)] += self.deviation
        return np.asarray(found)


def log_posterior(units_P: Array, data: Data) -> tuple[float, Array]:
    """Return the logarithm of the posterior density of parameters, up to a constant, and its gradient.

    The gradient of the marginal likelihood is 1/2 tr((a a' - K^-1) dK) with a = K^-1 y (Rasmussen and Williams 2006,
    equation 5.9). Every dK is a function of pairs of configurations, so the trace is taken over those.
    """
    kernel = Kernel(Parameters.of(units_P, data))
    matern_UU = kernel.matern(data.x_UC, data.x_UC)
    slope_UU = kernel.matern_slope(data.x_UC, data.x_UC)
    covariance = kernel.scores(data, matern_UU)
    factor, _ = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    weights = cho_solve((factor, True), data.y_N, check_finite=False)
    value = -0.5 * float(data.y_N @ weights) - float(np.log(np.diag(factor)).sum()) - 0.5 * float(units_P @ units_P)
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    return value, _gradient(kernel, data, np.outer(weights, weights) - inverse, (matern_UU, slope_UU)) - units_P


def _gradient(kernel: Kernel, data: Data, outer_NN: Array, matern: tuple[Array, Array]) -> Array:
    """Return the gradient of the log likelihood in units of the prior."""
    matern_UU, slope_UU = matern
    member_NU = (data.configuration_N[:, None] == np.arange(len(data.x_UC))[None, :]).astype(np.float64)
    missing_NN = np.minimum.outer(data.missing_N, data.missing_N)
    level_UU = member_NU.T @ outer_NN @ member_NU
    gap_UU = member_NU.T @ (outer_NN * missing_NN) @ member_NU
    same_trial = data.trial_N[:, None] == data.trial_N[None, :]
    own_NN = outer_NN * same_trial
    pairs_UU = (kernel.smooth * level_UU + kernel.gap * gap_UU) * slope_UU
    lengths = np.bincount(
        data.dimension_C, weights=-2 * kernel.scale_C**2 * _squared_differences(pairs_UU, data.x_UC, data.x_UC)
    )
    projected_U1 = (data.x_UC @ kernel.parameters.direction)[:, None]
    direction = 2 * _squared_differences(pairs_UU, projected_U1, data.x_UC)[data.is_numeric_C]
    deviations = np.array(_VARIANCE_PRIORS)[:, 1]
    variances = np.array(
        [
            kernel.smooth * float((level_UU * matern_UU).sum()),
            kernel.gap * float((gap_UU * matern_UU).sum()),
            kernel.deviation * float(np.trace(level_UU)),
            kernel.seed * float(own_NN.sum()),
            kernel.own_gap * float((own_NN * missing_NN).sum()),
        ]
    )
    return 0.5 * np.concatenate([_LENGTH_SD * lengths, _DIRECTION_SD * direction, deviations * variances])


def _squared_differences(pairs_UU: Array, one_UC: Array, other_UC: Array) -> Array:
    """Return the sum over all pairs (u, v) of pairs_uv (one_u - one_v) (other_u - other_v), by column."""
    total = (one_UC * other_UC * pairs_UU.sum(1)[:, None]).sum(0) - (one_UC * (pairs_UU @ other_UC)).sum(0)
    return np.asarray(2 * total)
