"""A Gaussian process over configurations and rungs, and the configuration that it expects the greatest gain from.

The model is that of `sweeper.statistics.kernel`: a score at a rung is the configuration's score at the highest rung,
plus what is still missing there. So all scores of all trials take part, whether these run, were stopped or are
complete. It knows one thing beforehand: the learning rate, alpha and the rank act together (`effective_rates`), so that
is a coordinate beside the dimensions.

Its parameters are fitted anew for each draw, from the same start. So a draw depends on the trials alone, and a resumed
search proposes what an uninterrupted one would have. Called by `samplers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_ndtr

from sweeper.config.space import Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.search.distributions import from_drawn
from sweeper.search.mirror import is_infeasible, rung_position
from sweeper.search.proposals import trial_seed
from sweeper.statistics.kernel import Data, Kernel, Parameters, log_posterior
from sweeper.statistics.observations import RANK, RATE, RATIO, Encoder, Score, effective_rates
from sweeper.statistics.threads import on_one_thread

__all__ = ["draw"]

_MAX_VALUES = 400
"""Scores that the posterior is conditioned on; with more, only the latest of each trial."""
_MAX_FITTED = 120
"""Scores that the parameters are fitted to; with more, to all scores of some of the trials."""
_MAX_ITERATIONS = 15
_ROW_VARIANCE = 0.001
"""Variance of a standardized score due to the validation rows: little, since all trials are scored on the same ones."""
_MOST_UNITS = 5.0
"""Bound of the parameters, in standard deviations of their prior; far beyond it, the covariance overflows."""
_NUM_RANDOM = 512
_NUM_BEST = 5
_NUM_REFINED = 4
_NUM_NEAR = 20
"""Candidates: random ones; then some near each of the best configurations, and near each of the best candidates."""
_WIDTHS = (0.15, 0.04)
"""How far candidates are from the best configurations, as a share of a dimension."""
_DISTINCT = 0.03
"""Share of a dimension by which a configuration must differ from all others in at least one, or a trial is wasted."""
_LABEL_VARIANCE = 0.1
_LEAST_LABEL = 0.5
_PENALTY = -1e6
"""Where a lower label is expected, a configuration is only proposed if there is no other."""

Array = NDArray[np.float64]
_Params = Mapping[str, ParamValue]


@on_one_thread
def draw(
    space: SearchSpace, trials: Sequence[optuna.trial.FrozenTrial], *, seed: int, number: int, maximize: bool
) -> dict[str, ParamValue]:
    """Draw the configuration of trial ``number``.

    Args:
        space: The search space.
        trials: The trials to learn from, by number; at least one is feasible and scored.
        seed: The study's seed.
        number: Number of the trial.
        maximize: Whether higher values are better.
    """
    rng = np.random.default_rng(trial_seed(seed, number))
    points = _Points(space)
    posterior = _Posterior(points, trials, maximize=maximize)
    units_MD = rng.random((_NUM_RANDOM, len(space)))
    best_BD = posterior.best(_NUM_BEST)
    units_MD = np.concatenate([units_MD, *(points.near(best_BD, width, rng) for width in _WIDTHS)])
    values_M = posterior.log_gain(units_MD)
    for width in _WIDTHS:
        leaders = np.argsort(-values_M, kind="stable")[:_NUM_REFINED]
        more_MD = points.near(units_MD[leaders], width, rng)
        units_MD = np.concatenate([units_MD, more_MD])
        values_M = np.concatenate([values_M, posterior.log_gain(more_MD)])
    return space.point(tuple(float(unit) for unit in units_MD[int(values_M.argmax())]))


class _Points:
    """Configurations as points: the columns of `Encoder`, and one for the effective rate where several keys share it.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._encoder = Encoder(space)
        varies = [d.scale is not Scale.CATEGORICAL and d.num_values != 1 for d in space.dimensions]
        indices = {d.key: index for index, d in enumerate(space.dimensions) if varies[index]}
        self._acting = {key: indices[key] for key in (RANK, RATIO, RATE) if key in indices}
        self.dimension_C, self.is_numeric_C = self._encoder.dimension_of_column, self._encoder.is_numeric_column
        if len(self._acting) > 1:
            self.dimension_C = np.append(self.dimension_C, len(space))
            self.is_numeric_C = np.append(self.is_numeric_C, True)
            bounds = np.repeat([[0.0], [1.0]], len(self._encoder.dimension_of_column), axis=1)
            self._low, self._high = self._log_rate(bounds)

    def encode(self, configurations: Sequence[_Params]) -> Array:
        """Return the points of configurations, one row each."""
        return self._with_rate(self._encoder.encode(configurations))

    def encode_units(self, units_MD: Array) -> Array:
        """Return the points at positions of the unit cube."""
        return self._with_rate(self._encoder.encode_units(units_MD))

    def near(self, units_BD: Array, width: float, rng: np.random.Generator) -> Array:
        """Return positions near others in the unit cube: normal steps in some of the dimensions, reflected inside.

        A step in a discrete dimension is at least to its neighbours; a category is exchanged for any other.
        """
        widths = [_width(d.num_values, d.scale, width) for d in self.space.dimensions]
        base = np.repeat(units_BD, _NUM_NEAR, axis=0)
        steps = rng.standard_normal(base.shape) * widths * (rng.random(base.shape) < 2 / 3)
        # Below 1, where `Dimension.at` ends.
        return np.asarray(np.minimum(np.abs(np.mod(base + steps + 1, 2) - 1), 1 - 1e-9))

    def _with_rate(self, x_MC: Array) -> Array:
        if len(self._acting) <= 1:
            return x_MC
        return np.column_stack([x_MC, (self._log_rate(x_MC) - self._low) / (self._high - self._low)])

    def _log_rate(self, x_MC: Array) -> Array:
        column = {int(index): number for number, index in enumerate(self._encoder.dimension_of_column)}
        numbers = {key: self._encoder.number_of(i, x_MC[:, column[i]]) for key, i in self._acting.items()}
        return np.log(effective_rates(*(numbers.get(key, np.ones(len(x_MC))) for key in (RANK, RATIO, RATE))))


def _width(num_values: int | None, scale: Scale, width: float) -> float:
    if scale is Scale.CATEGORICAL:
        return 1.0
    return max(width, 1 / num_values) if num_values else width


class _Posterior:
    """What is known about scores at the highest rung, given the trials.

    Args:
        points: Makes points of configurations.
        trials: As in `draw`.
        maximize: Whether higher values are better.
    """

    def __init__(self, points: _Points, trials: Sequence[optuna.trial.FrozenTrial], *, maximize: bool) -> None:
        self._points = points
        params = {trial.number: from_drawn(points.space, trial.params) for trial in trials}
        self._known_TC = points.encode(list(params.values()))
        feasible = [trial for trial in trials if not is_infeasible(trial)]
        scored = [trial for trial in feasible if trial.intermediate_values]
        curves = [
            {rung_position(points.space, t, chunk): value for chunk, value in t.intermediate_values.items()}
            for t in scored
        ]
        of_trials = [(params[t.number], curve) for t, curve in zip(scored, curves, strict=True)]
        scores = _Scores(points, of_trials, maximize=maximize)
        self._configurations = scores.configurations
        data = scores.data()
        self._kernel = Kernel(Parameters.of(_most_probable(scores.data(_MAX_FITTED)), data))
        covariance = self._kernel.scores(data, self._kernel.matern(data.x_UC, data.x_UC))
        factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        weights_N = cho_solve((factor, True), data.y_N, check_finite=False)
        self._x_UC = data.x_UC
        self._weights_U = np.bincount(data.configuration_N, weights=weights_N, minlength=len(data.x_UC))
        self._mean_U = self._mean(self._x_UC)
        running = [params[t.number] for t in feasible if t.state is optuna.trial.TrialState.RUNNING]
        self._tried_TC = np.unique(np.concatenate([self._x_UC, points.encode(running)]), axis=0)
        covariance = self._kernel.smooth_cross(self._tried_TC, self._tried_TC)
        covariance[np.diag_indices_from(covariance)] += self._kernel.deviation
        self._tried_factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        self._best = float(self._mean(self._tried_TC).max())
        infeasible = [params[trial.number] for trial in trials if is_infeasible(trial)]
        self._limits = _Limits(points, self._x_UC, infeasible) if infeasible else None

    def best(self, count: int) -> Array:
        """Return the positions, in the unit cube, of the scored configurations with the best means."""
        order = np.argsort(-self._mean_U, kind="stable")[:count]
        chosen = [self._configurations[index] for index in order]
        return np.array([[d.position(params[d.key]) for d in self._points.space.dimensions] for params in chosen])

    def log_gain(self, units_MD: Array) -> Array:
        """Return the logarithm of the expected improvement on the best mean, times the probability of being feasible.

        The mean is that given the scores. The variance is as if the scores of all trials that were started had come out
        as their means (kriging believer, Ginsbourger et al. 2010). So it is small near each of them, whether it runs,
        was stopped or is complete: parallel trials spread out, and no configuration is proposed again and again.
        """
        x_MC = self._points.encode_units(units_MD)
        cross_TM = self._kernel.smooth_cross(self._tried_TC, x_MC)
        half_TM = solve_triangular(self._tried_factor, cross_TM, lower=True, check_finite=False)
        deviation_M = np.sqrt(np.maximum(self._kernel.variance - (half_TM**2).sum(0), 1e-9))
        found = np.log(deviation_M) + _log_improvement((self._mean(x_MC) - self._best) / deviation_M)
        if self._limits:
            found += self._limits.log_feasible(x_MC)
        for known_C in self._known_TC:
            found[np.abs(x_MC - known_C).max(1) < _DISTINCT] = -math.inf
        return np.asarray(found)

    def _mean(self, x_MC: Array) -> Array:
        return np.asarray(self._kernel.smooth_cross(x_MC, self._x_UC) @ self._weights_U)


class _Scores:
    """The scores of some trials as data of the kernel.

    Args:
        points: Makes points of configurations.
        trials: Configuration of each trial, and its scores by chunk of the longest trial (`rung_position`).
        maximize: Whether higher values are better.
    """

    def __init__(
        self, points: _Points, trials: Sequence[tuple[_Params, Mapping[float, float]]], *, maximize: bool
    ) -> None:
        self._points = points
        index: dict[tuple[ParamValue, ...], int] = {}
        self._configuration_I = [index.setdefault(tuple(p.values()), len(index)) for p, _ in trials]
        keys = points.space.keys
        self.configurations: list[_Params] = [dict(zip(keys, values, strict=True)) for values in index]
        """The distinct ones, in the order of `data`."""
        rungs = [sorted(scores.items()) for _, scores in trials]
        if sum(map(len, rungs)) > _MAX_VALUES:
            rungs = [scores[-1:] for scores in rungs]
        self._lengths = [len(scores) for scores in rungs]
        values_N = np.array([value for scores in rungs for _, value in scores])
        scores_N = Score.of(values_N, maximize=maximize).transform(values_N)
        self._y_N = (scores_N - scores_N.mean()) / max(float(scores_N.std()), 1e-6)
        chunks_N = np.array([chunk for scores in rungs for chunk, _ in scores])
        shares_N = chunks_N / chunks_N.max()
        self._missing_N = np.log(shares_N) / math.log(min(0.5, float(shares_N.min())))

    def data(self, limit: int | None = None) -> Data:
        """Return all scores; with a limit those of as many whole trials as have at most that many, spread evenly."""
        lengths = np.array(self._lengths)
        total = int(lengths.sum())
        step = 1 if limit is None else max(1, math.ceil(total / limit))
        chosen_I = np.arange(len(lengths)) % step == 0
        chosen_N = np.repeat(chosen_I, lengths)
        of_trial = np.array(self._configuration_I)[chosen_I]
        used, configuration_I = np.unique(of_trial, return_inverse=True)
        return Data(
            x_UC=self._points.encode([self.configurations[index] for index in used]),
            configuration_N=np.repeat(configuration_I, lengths[chosen_I]),
            trial_N=np.repeat(np.arange(len(of_trial)), lengths[chosen_I]),
            missing_N=self._missing_N[chosen_N],
            y_N=self._y_N[chosen_N],
            row_variance_N=np.full(int(chosen_N.sum()), _ROW_VARIANCE),
            dimension_C=self._points.dimension_C,
            is_numeric_C=self._points.is_numeric_C,
        )


class _Limits:
    """Where configurations are feasible: a Gaussian process on labels, 1 and -1, that expects 1 where nothing is known.

    Args:
        points: Makes points of configurations.
        feasible_UC: Points that are.
        infeasible: Configurations that are not.
    """

    def __init__(self, points: _Points, feasible_UC: Array, infeasible: Sequence[_Params]) -> None:
        infeasible_VC = points.encode(infeasible)
        self._x_LC = np.concatenate([feasible_UC, infeasible_VC])
        parameters = Parameters.typical(points.dimension_C, points.is_numeric_C)
        self._kernel = Kernel(parameters)
        covariance = self._kernel.matern(self._x_LC, self._x_LC)
        covariance[np.diag_indices_from(covariance)] += _LABEL_VARIANCE
        self._factor = cholesky(covariance, lower=True, check_finite=False)
        shifts_L = np.concatenate([np.zeros(len(feasible_UC)), np.full(len(infeasible_VC), -2.0)])
        self._weights_L = cho_solve((self._factor, True), shifts_L, check_finite=False)

    def log_feasible(self, x_MC: Array) -> Array:
        """Return the logarithm of the probability that points are feasible, with a penalty where that is doubtful.

        Otherwise a bound behind which scores would be best is crossed whenever little is to be gained on this side.
        """
        cross_LM = self._kernel.matern(self._x_LC, x_MC)
        half_LM = solve_triangular(self._factor, cross_LM, lower=True, check_finite=False)
        mean_M = 1 + cross_LM.T @ self._weights_L
        found_M = log_ndtr(mean_M / np.sqrt(1 - (half_LM**2).sum(0) + _LABEL_VARIANCE))
        return np.asarray(np.where(mean_M < _LEAST_LABEL, _PENALTY + found_M, found_M))


def _most_probable(data: Data) -> Array:
    """Return the parameters at which the optimizer stops, from a fixed start."""
    start = np.zeros(Parameters.size(data))
    # Not from 0 in the free direction, where its gradient vanishes.
    numeric = int(data.is_numeric_C.sum())
    start[data.num_dimensions : data.num_dimensions + numeric] = 0.1
    options = {"maxiter": _MAX_ITERATIONS, "ftol": 1e-4}
    bounds = [(-_MOST_UNITS, _MOST_UNITS)] * len(start)
    found: Array = minimize(
        _negative, start, args=(data,), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x
    return found


def _negative(units_P: Array, data: Data) -> tuple[float, Array]:
    value, gradient = log_posterior(units_P, data)
    return -value, -gradient


def _log_improvement(z_M: Array) -> Array:
    """Return log(z Phi(z) + phi(z)): of the expected improvement in standard deviations (Ament et al. 2023).

    Far below 0, both terms are tiny and nearly cancel; their sum is then phi(z) / z^2.
    """
    log_density_M = -0.5 * z_M**2 - 0.5 * math.log(2 * math.pi)
    ratio_M = np.exp(log_ndtr(z_M) - log_density_M)
    inner_M = np.where(z_M > -5, 1 + z_M * ratio_M, 1 / np.maximum(z_M**2, 1.0))  # noqa: PLR2004  near enough there
    return np.asarray(log_density_M + np.log(np.maximum(inner_M, 1e-300)))
