"""Smooths recorded values over a search space with fixed weights: any curve of the same trials by one small product.

The weights are those of the mean of a Gaussian process (`kernel`), whose parameters are fitted once, to the final
scores. `surrogate` fits an ensemble to the scores of all rungs, to say how uncertain a search still is; this is for
many trials that were trained to the end. Used by `sweeper.simulate.response`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.statistics.kernel import Data, Kernel, Parameters, log_posterior
from sweeper.statistics.observations import Encoder
from sweeper.statistics.threads import on_one_thread

__all__ = ["Smoother"]

Array = NDArray[np.float64]

_MAX_STEPS = 30
_ROW_VARIANCE = 0.01
"""Known part of the variance of a score; the fit adds what it finds."""
_RIDGE = ("lora.r", "train.learning_rate", "lora.alpha_ratio")
"""Keys whose logarithms move a score along one direction: the search for it starts there."""


class Smoother:
    """Weights by which the values of trials are averaged at any configuration.

    Args:
        space: The search space.
        configurations: Configuration of each trial; those with several seeds come several times.
        scores: Final score of each, on a scale on which noise is about the same everywhere.
    """

    @on_one_thread
    def __init__(self, space: SearchSpace, configurations: Sequence[Mapping[str, ParamValue]], scores: Array) -> None:
        self.encoder = Encoder(space)
        data = _data(self.encoder, self.encoder.encode(configurations), scores)
        self._data, self._kernel = data, Kernel(Parameters.of(_most_probable(data, space), data))
        matern_UU = self._kernel.matern(data.x_UC, data.x_UC)
        factor, _ = cho_factor(self._kernel.scores(data, matern_UU), lower=True)
        inverse_NN = cho_solve((factor, True), np.eye(len(data.y_N)))
        self._inverse_NN = inverse_NN
        self._embedded_NE = self._kernel.embed(data.x_UC[data.configuration_N])

    def weights(self, x_MC: Array) -> Array:
        """Return the weight of each trial's value at points (M x N)."""
        cross_MU = self._kernel.smooth_cross(x_MC, self._data.x_UC)
        return np.asarray(cross_MU[:, self._data.configuration_N] @ self._inverse_NN)

    def distances(self, x_MC: Array) -> Array:
        """Return the distances of points to the trials, as the kernel measures them (M x N)."""
        one, other = self._kernel.embed(x_MC), self._embedded_NE
        squared = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))

    @on_one_thread
    def left_out(self) -> Array:
        """Return the prediction of each final score from the trials of all other configurations, standardized.

        All trials of a configuration are left out together (Rasmussen and Williams 2006, section 5.4.2, for blocks).
        """
        data, found = self._data, np.empty(len(self._data.y_N))
        weighted = self._inverse_NN @ data.y_N
        for configuration in range(len(data.x_UC)):
            own = np.flatnonzero(data.configuration_N == configuration)
            found[own] = data.y_N[own] - np.linalg.solve(self._inverse_NN[np.ix_(own, own)], weighted[own])
        return found


def _data(encoder: Encoder, x_NC: Array, scores: Array) -> Data:
    x_UC, configuration_N = np.unique(x_NC, axis=0, return_inverse=True)
    width = float(scores.std()) or 1.0
    return Data(
        x_UC=x_UC,
        configuration_N=configuration_N.reshape(-1),
        trial_N=np.arange(len(scores)),
        missing_N=np.zeros(len(scores)),
        y_N=(scores - scores.mean()) / width,
        row_variance_N=np.full(len(scores), _ROW_VARIANCE),
        dimension_C=encoder.dimension_of_column,
        is_numeric_C=encoder.is_numeric_column,
    )


def _most_probable(data: Data, space: SearchSpace) -> Array:
    """Return the most probable parameters, in units of their prior."""
    start = np.zeros(Parameters.size(data))
    # Not from 0, where the gradient in the free direction vanishes.
    numeric = data.dimension_C[data.is_numeric_C]
    start[data.num_dimensions : data.num_dimensions + len(numeric)] = [
        1.0 if space.keys[dimension] in _RIDGE else 0.2 for dimension in numeric
    ]
    options = {"maxiter": _MAX_STEPS, "ftol": 1e-5}
    found = minimize(_negative, start, args=(data,), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x)


def _negative(units_P: Array, data: Data) -> tuple[float, Array]:
    value, gradient = log_posterior(units_P, data)
    return -value, -gradient
