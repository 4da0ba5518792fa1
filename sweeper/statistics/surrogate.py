"""What the true score of every configuration is, as far as all trials of a study tell: a Gaussian process.

`kernel` has the model. Its parameters are not fixed at their most probable values: with 24 trials several sets of them
explain the scores, and bands from one set are too narrow. So a surrogate is a small ensemble, drawn from the Laplace
approximation of their posterior with importance weights. `effects` and `folklore` ask it for posterior draws,
`probability_best` is what the confirmation chooses its candidates by. Same trials and seed, same answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.stats import spearmanr

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.statistics.kernel import MEAN_VARIANCE, Data, Kernel, Parameters, log_posterior
from sweeper.statistics.observations import Encoder, Score, ScoredTrial, scored_trials
from sweeper.statistics.threads import on_one_thread
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["MIN_TRIALS", "FunctionDraws", "Quality", "Surrogate", "fit_study", "fit_surrogate", "probability_best"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MIN_TRIALS = 12
"""With fewer scored trials nothing is claimed."""
_MIN_CORRELATION = 0.3
_MAX_VALUES = 900
"""Scores that the posterior is conditioned on; see `_thin`."""
_MAX_FITTED = 160
"""Scores that the parameters are fitted to; with more trials, to all scores of some of them."""
_NUM_STARTS = 3
_NUM_PROPOSED = 48
_MEMBERS = 12
_MEMBERS_OF_MANY = 4
"""Members of the ensemble with up to, and with more than, `_MANY` scores: many scores pin the parameters down."""
_MANY = 300
_NUM_FREQUENCIES = 192
_BLOCK = 256
_UNKNOWN_ROW_VARIANCE = 0.02
"""Variance of a standardized score due to the rows if the metric has no known error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How well a surrogate predicts trials that it has not seen."""

    rank_correlation: float
    """Spearman's, between scores and predictions from all other configurations; within rungs, mean over rungs.

    Over rungs together it would be high for any model that knows later scores to be higher. A rung of n trials has
    the weight n - 3, as in Fisher's transformation. 0 if it cannot be computed.
    """
    minimum: float
    num_trials: int
    num_values: int

    @property
    def is_sufficient(self) -> bool:
        """Whether anything may be claimed."""
        return self.num_trials >= MIN_TRIALS and self.rank_correlation >= self.minimum


class _Member:
    """The posterior with one set of parameters."""

    def __init__(self, parameters: Parameters, data: Data) -> None:
        self.kernel = Kernel(parameters)
        self.data = data
        covariance = self.kernel.scores(data, self.kernel.matern(data.x_UC, data.x_UC))
        self.factor: Array = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        self.weights_N: Array = cho_solve((self.factor, True), data.y_N, check_finite=False)

    def mean(self, x_MC: Array) -> Array:
        weights_U = np.bincount(self.data.configuration_N, weights=self.weights_N, minlength=len(self.data.x_UC))
        return np.concatenate([self.kernel.smooth_cross(block, self.data.x_UC) @ weights_U for block in _blocks(x_MC)])

    def posterior(self, x_MC: Array, own: Indices | None) -> tuple[Array, Array]:
        cross_NM = self.kernel.cross(self.data, x_MC, own=own)
        half_NM = solve_triangular(self.factor, cross_NM, lower=True, check_finite=False)
        prior_MM = self.kernel.values(x_MC, with_deviation=own is not None)
        return cross_NM.T @ self.weights_N, prior_MM - half_NM.T @ half_NM

    def draws(self, x_MC: Array, normal_SM: Array, own: Indices | None) -> Array:
        mean_M, covariance_MM = self.posterior(x_MC, own)
        # A jitter of 1e-6 of the unit variance of scores: 0.001 standard deviations, invisible in any result.
        covariance_MM[np.diag_indices_from(covariance_MM)] += 1e-6
        factor = cholesky(covariance_MM, lower=True, overwrite_a=True, check_finite=False)
        return np.asarray(mean_M + normal_SM @ factor.T)


class FunctionDraws:
    """Posterior draws of the true score that can be evaluated anywhere, all at the same functions.

    A draw is a draw from the prior plus the update that makes it agree with the data (Matheron's rule; Wilson et al.
    2020, arXiv:2002.09309). The prior is drawn with random Fourier features: the frequencies of a Matern 5/2 kernel
    follow a t distribution with 5 degrees of freedom. In contrast to `Surrogate.draw_scores`, thousands of points are
    cheap, and everything that is read from the same draws agrees.
    """

    def __init__(self, members: Sequence[_Member], num_each: int, rng: np.random.Generator) -> None:
        self._paths = [_Paths(member, num_each, rng) for member in members]

    @on_one_thread
    def __call__(self, x_MC: Array) -> Array:
        """Return the draws (S x M) at points."""
        return np.concatenate([paths(x_MC) for paths in self._paths])


class _Paths:
    """Function draws of one member."""

    def __init__(self, member: _Member, num_draws: int, rng: np.random.Generator) -> None:
        data, self._kernel = member.data, member.kernel
        num_coordinates = data.x_UC.shape[1] + 1
        normal = rng.standard_normal((num_coordinates, _NUM_FREQUENCIES))
        self._frequencies = normal / np.sqrt(rng.chisquare(5, _NUM_FREQUENCIES) / 5)
        self._prior = rng.standard_normal((2 * _NUM_FREQUENCIES + 1, num_draws))
        matern_UU = self._kernel.matern(data.x_UC, data.x_UC)
        beyond = cholesky(self._kernel.beyond_smooth(data, matern_UU), lower=True, overwrite_a=True)
        drawn_NS = (self._features(data.x_UC) @ self._prior)[data.configuration_N]
        drawn_NS += beyond @ rng.standard_normal((len(data.y_N), num_draws))
        update_NS = cho_solve((member.factor, True), data.y_N[:, None] - drawn_NS, check_finite=False)
        self._x_UC = data.x_UC
        self._update_US = np.zeros((len(data.x_UC), num_draws))
        np.add.at(self._update_US, data.configuration_N, update_NS)

    def __call__(self, x_MC: Array) -> Array:
        return np.concatenate([self._block(block) for block in _blocks(x_MC)], axis=1)

    def _block(self, x_MC: Array) -> Array:
        update_MS = self._kernel.smooth_cross(x_MC, self._x_UC) @ self._update_US
        return np.asarray((self._features(x_MC) @ self._prior + update_MS).T)

    def _features(self, x_MC: Array) -> Array:
        phases = self._kernel.embed(x_MC) @ self._frequencies
        scale = math.sqrt(self._kernel.smooth / _NUM_FREQUENCIES)
        constant = np.full((len(x_MC), 1), math.sqrt(MEAN_VARIANCE))
        return np.hstack([scale * np.cos(phases), scale * np.sin(phases), constant])


class Surrogate:
    """The posterior of the true score over a space; made by `fit_surrogate`."""

    def __init__(
        self, members: Sequence[_Member], trials: Sequence[ScoredTrial], encoder: Encoder, score: _StandardScore
    ) -> None:
        self._members = members
        self._score = score
        self.encoder = encoder
        self.trials = trials
        """All scored trials, also those that were left out to save time."""
        self.quality = _quality(members[0], trials) if members else _no_quality(trials)

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.encoder.space

    @property
    def maximize(self) -> bool:
        """Whether higher values of the metric are better."""
        return self._score.score.maximize

    @property
    def points(self) -> Array:
        """The points of the distinct configurations that the posterior is conditioned on."""
        return self._members[0].data.x_UC

    @on_one_thread
    def mean_scores(self, x_MC: Array) -> Array:
        """Return posterior means of true scores at the full length; higher is better, in standard deviations."""
        return np.asarray(np.mean([member.mean(x_MC) for member in self._members], axis=0))

    @on_one_thread
    def likely_scores(self, x_MC: Array) -> Array:
        """Return posterior means with the most probable parameters: nearly `mean_scores`, in a fraction of the time."""
        return self._members[0].mean(x_MC)

    @on_one_thread
    def draw_scores(self, x_MC: Array, *, num_draws: int, seed: int, own: Indices | None = None) -> Array:
        """Return joint posterior draws (S x M) of true scores at the full length; higher is better.

        Args:
            x_MC: Points of `Encoder`.
            num_draws: Draws; rounded up to a multiple of the members.
            seed: Draws with the same seed are of the same members, and differ only through the points.
            own: See `Kernel.cross`.
        """
        each = math.ceil(num_draws / len(self._members))
        rng = np.random.default_rng(seed)
        normal = rng.standard_normal((len(self._members), each, len(x_MC)))
        return np.concatenate([m.draws(x_MC, z, own) for m, z in zip(self._members, normal, strict=True)])

    @on_one_thread
    def functions(self, *, num_draws: int, seed: int) -> FunctionDraws:
        """Return posterior draws of the true score as functions of the point.

        Args:
            num_draws: Draws; rounded up to a multiple of the members.
            seed: Seed of the draws.
        """
        return FunctionDraws(self._members, math.ceil(num_draws / len(self._members)), np.random.default_rng(seed))

    def values(self, scores: Array) -> Array:
        """Return the values of the metric that have these scores."""
        return self._score.restore(scores)

    def configurations(self) -> list[Mapping[str, ParamValue]]:
        """Return the distinct configurations of `points`, in order."""
        return _distinct(_thin(self.trials, maximize=self.maximize))[0]


@dataclass(frozen=True, slots=True)
class _StandardScore:
    """A `Score` with mean 0 and standard deviation 1 over a study's values."""

    score: Score
    center: float
    width: float

    @classmethod
    def of(cls, values_N: Array, *, maximize: bool) -> _StandardScore:
        score = Score.of(values_N, maximize=maximize)
        scores_N = score.transform(values_N)
        return cls(score, float(scores_N.mean()), max(float(scores_N.std()), 1e-6))

    def transform(self, values: Array) -> Array:
        return (self.score.transform(values) - self.center) / self.width

    def restore(self, scores: Array) -> Array:
        return self.score.restore(self.center + self.width * scores)


def fit_study(study: StudyRecord, trials: Sequence[TrialRecord], space: SearchSpace, *, seed: int = 0) -> Surrogate:
    """Fit the surrogate of a study to all of its trials.

    Args:
        study: The study.
        trials: Its trials, of any phase and state.
        space: Its search space.
        seed: Seed of the optimizer's starts and of the ensemble.
    """
    is_accuracy = study.metric.rpartition("/")[2] == "accuracy"
    return fit_surrogate(
        space,
        scored_trials(study, trials, space),
        maximize=study.direction == "maximize",
        num_rows=study.num_rows.get("validation") if is_accuracy else None,
        seed=seed,
    )


@on_one_thread
def fit_surrogate(
    space: SearchSpace,
    trials: Sequence[ScoredTrial],
    *,
    maximize: bool = True,
    num_rows: int | None = None,
    seed: int = 0,
) -> Surrogate:
    """Fit a surrogate by maximum posterior density, with an ensemble around it.

    Args:
        space: The search space.
        trials: Scored trials; without any the surrogate has no members and claims nothing.
        maximize: Whether higher values are better.
        num_rows: Validation rows, if the metric is an accuracy; None if its error is unknown and must be estimated.
        seed: Seed of the starts and of the ensemble.
    """
    encoder = Encoder(space)
    values = np.array([value for trial in trials for value in trial.values])
    if not len(values):
        return Surrogate([], [], encoder, _StandardScore(Score(maximize, False), 0.0, 1.0))
    score = _StandardScore.of(values, maximize=maximize)
    kept = _thin(trials, maximize=maximize)
    data = _data(kept, encoder, score, num_rows)
    rng = np.random.default_rng(seed)
    fitted = _data(_some(kept, rng), encoder, score, num_rows)
    is_small = len(data.y_N) <= _MANY
    ensemble = _ensemble(fitted, rng, _MEMBERS if is_small else _MEMBERS_OF_MANY)
    return Surrogate([_Member(Parameters.of(u, data), data) for u in ensemble], list(trials), encoder, score)


def probability_best(
    surrogate: Surrogate, configurations: Sequence[Mapping[str, ParamValue]], *, num_draws: int = 4000, seed: int = 0
) -> list[float]:
    """Return each configuration's posterior probability of having the best true score at the full length.

    A configuration that was trained has a deviation of its own from the smooth surface, about which its scores tell;
    one that was not trained (a recipe that is only planned) has an unknown one. Equal configurations share their
    probability.

    Args:
        surrogate: The study's surrogate.
        configurations: Values of the space's keys, by dotted key; further keys are ignored.
        num_draws: Joint posterior draws; the error of a probability p is sqrt(p (1 - p) / num_draws).
        seed: Seed of the draws.

    Returns:
        A probability for each configuration, in order; their sum over distinct configurations is 1.
    """
    keys = surrogate.space.keys
    names = [tuple(params[key] for key in keys) for params in configurations]
    distinct = list(dict.fromkeys(names))
    if not surrogate._members:
        shares = np.full(len(distinct), 1 / max(1, len(distinct)))
    else:
        index = {tuple(c[key] for key in keys): number for number, c in enumerate(surrogate.configurations())}
        own = np.array([index.get(name, -1) for name in distinct])
        points = surrogate.encoder.encode([dict(zip(keys, name, strict=True)) for name in distinct])
        draws = surrogate.draw_scores(points, num_draws=num_draws, seed=seed, own=own)
        shares = np.bincount(draws.argmax(axis=1), minlength=len(distinct)) / len(draws)
    of = dict(zip(distinct, shares, strict=True))
    return [float(of[name]) / names.count(name) for name in names]


def _ensemble(data: Data, rng: np.random.Generator, num_members: int) -> list[Array]:
    """Return vectors of parameters: the most probable one, then draws around it by importance resampling."""
    size = Parameters.size(data)
    # Not from 0, where the gradient in the free direction vanishes.
    starts = 0.5 * rng.standard_normal((_NUM_STARTS, size))
    found = [
        minimize(_negative, start, args=(data,), jac=True, method="L-BFGS-B", options={"maxiter": 40, "ftol": 1e-5})
        for start in starts
    ]
    best = min(found, key=lambda result: float(result.fun))
    # Nothing is wider than the prior, whose precision is 1 in every direction.
    precisions, axes = np.linalg.eigh(_hessian(best.x, data))
    widths = 1 / np.sqrt(np.maximum(precisions, 1.0))
    normal = rng.standard_normal((_NUM_PROPOSED, size))
    proposed = best.x + (normal * widths) @ axes.T
    log_weights = np.array([log_posterior(u, data)[0] for u in proposed]) + 0.5 * (normal**2).sum(1)
    weights = np.exp(log_weights - log_weights.max())
    # Truncated importance sampling (Ionides 2008): no draw counts more than sqrt(n) times the mean.
    weights = np.minimum(weights, weights.mean() * math.sqrt(len(weights)))
    # Systematic resampling: one random number, so the members are spread evenly over the weights.
    positions = (rng.random() + np.arange(num_members - 1)) / (num_members - 1)
    chosen = np.minimum(np.searchsorted(np.cumsum(weights) / weights.sum(), positions), len(weights) - 1)
    return [best.x, *proposed[chosen]]


def _blocks(x_MC: Array) -> list[Array]:
    """Return points in blocks for which a covariance with the data fits into the processor's cache."""
    return np.array_split(x_MC, max(1, math.ceil(len(x_MC) / _BLOCK)))


def _negative(units_P: Array, data: Data) -> tuple[float, Array]:
    value, gradient = log_posterior(units_P, data)
    return -value, -gradient


def _hessian(units_P: Array, data: Data, step: float = 1e-3) -> Array:
    """Return the Hessian of the negative log posterior by central differences of the gradient."""
    rows = [
        (_negative(units_P + step * unit, data)[1] - _negative(units_P - step * unit, data)[1]) / (2 * step)
        for unit in np.eye(len(units_P))
    ]
    return (np.array(rows) + np.array(rows).T) / 2


def _thin(trials: Sequence[ScoredTrial], *, maximize: bool) -> list[ScoredTrial]:
    """Return trials with at most about `_MAX_VALUES` scores.

    First the rungs between the first and the last score of each trial are left out. If that is not enough, every k-th
    trial stays, and the fifty complete ones with the best last scores, since one of them is probably the best.
    """
    if sum(len(trial.values) for trial in trials) <= _MAX_VALUES:
        return list(trials)
    short = [_ends(trial) for trial in trials]
    num_values = sum(len(trial.values) for trial in short)
    if num_values <= _MAX_VALUES:
        return short
    step = math.ceil(num_values / (_MAX_VALUES - 100))
    complete = sorted((t for t in short if t.is_complete), key=lambda t: t.values[-1], reverse=maximize)[:50]
    chosen = {trial.number for trial in [*short[::step], *complete]}
    return [trial for trial in short if trial.number in chosen]


def _ends(trial: ScoredTrial) -> ScoredTrial:
    if len(trial.values) <= 2:  # noqa: PLR2004  first and last
        return trial
    return ScoredTrial(
        number=trial.number,
        params=trial.params,
        shares=(trial.shares[0], trial.shares[-1]),
        values=(trial.values[0], trial.values[-1]),
    )


def _some(trials: Sequence[ScoredTrial], rng: np.random.Generator) -> list[ScoredTrial]:
    """Return as many whole trials as have `_MAX_FITTED` scores, at random."""
    order = rng.permutation(len(trials))
    ends = np.cumsum([len(trials[index].values) for index in order])
    chosen = sorted(order[: max(1, int((ends <= _MAX_FITTED).sum()))])
    return [trials[index] for index in chosen]


def _distinct(trials: Sequence[ScoredTrial]) -> tuple[list[Mapping[str, ParamValue]], list[int]]:
    """Return the distinct configurations of trials, and the index of each trial's."""
    index: dict[tuple[tuple[str, ParamValue], ...], int] = {}
    of_trial = [index.setdefault(tuple(sorted(trial.params.items())), len(index)) for trial in trials]
    return [dict(items) for items in index], of_trial


def _data(trials: Sequence[ScoredTrial], encoder: Encoder, score: _StandardScore, num_rows: int | None) -> Data:
    configurations, of_trial = _distinct(trials)
    lengths = [len(trial.values) for trial in trials]
    values_N = np.array([value for trial in trials for value in trial.values])
    shares_N = np.array([share for trial in trials for share in trial.shares])
    first = min(0.5, float(shares_N.min()))
    if num_rows:
        row_variance_N = score.score.row_variance(values_N, num_rows) / score.width**2
    else:
        row_variance_N = np.full(len(values_N), _UNKNOWN_ROW_VARIANCE)
    return Data(
        x_UC=encoder.encode(configurations),
        configuration_N=np.repeat(of_trial, lengths),
        trial_N=np.repeat(np.arange(len(trials)), lengths),
        missing_N=np.log(shares_N) / math.log(first),
        y_N=score.transform(values_N),
        row_variance_N=row_variance_N,
        dimension_C=encoder.dimension_of_column,
        is_numeric_C=encoder.is_numeric_column,
    )


def _quality(member: _Member, trials: Sequence[ScoredTrial]) -> Quality:
    data, predicted_N = member.data, _left_out(member)
    found = [
        (correlation, int(at.sum()) - 3)
        for level in np.unique(data.missing_N)
        if (at := data.missing_N == level).sum() > 3  # noqa: PLR2004  n - 3 must be positive
        and (correlation := _spearman(data.y_N[at], predicted_N[at])) is not None
    ]
    total = sum(weight for _, weight in found)
    return _no_quality(trials, sum(c * weight for c, weight in found) / total if total else 0.0)


def _left_out(member: _Member) -> Array:
    """Return the prediction of each score from the trials of all other configurations.

    All scores of a configuration are left out together, in closed form (Rasmussen and Williams 2006, section 5.4.2,
    for blocks): the residual of block B is ([K^-1]_BB)^-1 [K^-1 y]_B. The parameters are not fitted anew.
    """
    data = member.data
    inverse_NN = cho_solve((member.factor, True), np.eye(len(data.y_N)), check_finite=False)
    predicted_N = np.empty(len(data.y_N))
    for configuration in range(len(data.x_UC)):
        block = np.flatnonzero(data.configuration_N == configuration)
        residual = cho_solve(cho_factor(inverse_NN[np.ix_(block, block)]), member.weights_N[block])
        predicted_N[block] = data.y_N[block] - residual
    return predicted_N


def _spearman(one: Array, other: Array) -> float | None:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def _no_quality(trials: Sequence[ScoredTrial], correlation: float = 0.0) -> Quality:
    # The second term is the 95 % point of Spearman's coefficient without any correlation.
    minimum = max(_MIN_CORRELATION, 1.645 / math.sqrt(max(1, len(trials) - 1)))
    return Quality(
        rank_correlation=correlation,
        minimum=minimum,
        num_trials=len(trials),
        num_values=sum(len(trial.values) for trial in trials),
    )
