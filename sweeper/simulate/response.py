"""Answers any configuration of a space with a curve, from the trials of a table.

A curve is a smooth surface plus the noise of a recorded trial nearby (its donor), chunk by chunk, so that noise keeps
its autocorrelation, its size at this place of the space, and how score and loss vary together. All values of all chunks
are smoothed with the same weights (`sweeper.statistics.smoother`), as normal scores (`_Ranks`): most settings lie on a
plateau with a cliff beside it, and on any other scale a smooth surface overshoots there. On TREC the best settings were
predicted 0.006 too high on the scale -log(1.02 - score), and ranked among each other by 0.23 instead of 0.54 (settings
left out). Where the donor scores at most the majority share, its score stands as it was: a
model that predicts one label has no noise, and ties are what a pruning rule must cope with.

The mean score, from which regret is counted, is the mean over all donors, whose noise has mean 0: the best is no lucky
trial.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.search.sobol import unit_point
from sweeper.simulate.base import Curve
from sweeper.simulate.table import Table, TableTrial, own_chunks, places
from sweeper.statistics.observations import Score
from sweeper.statistics.smoother import Smoother

__all__ = ["GOOD_SHARE", "Agreement", "TableResponse"]

Array = NDArray[np.float64]

GOOD_SHARE = 0.4
"""Share of the space that is the good zone."""
_NUM_POINTS = 1024
"""Sobol points over which the best mean and the good zone are taken."""
_NUM_DONORS = 8
"""Trials near a configuration, of which one lends its noise."""
_LEAST_REPEATED = 4
"""Configurations with several seeds that are needed to measure the noise between seeds."""
_LARGEST_FACTOR = 1.5
"""Most that noise is scaled up, so that a few seeds that differ much do not blow it up everywhere."""
_CURVES = ("score", "loss", "half_score", "half_loss")
_S, _L, _HS, _HL = range(len(_CURVES))
_NORMAL = NormalDist()
_REACH = 3.0
"""How far normal scores beyond the recorded ones are told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far a response is what its table says."""

    rank_correlation: float
    """Spearman's, of each setting's final score with what all other settings predict."""
    noise: float
    """Standard deviation over seeds of the response's final scores, mean over the repeated settings; NaN without."""
    recorded_noise: float
    """The same of the recorded scores."""
    ties: float
    """Share of the scores at the majority share or below, over the table's settings and chunks, in the response."""
    recorded_ties: float
    """The same of the recorded scores."""


class TableResponse:
    """The response of a table.

    Args:
        table: Recorded trials.
    """

    def __init__(self, table: Table) -> None:
        self.name, self.space, self.fixed = table.name, table.space, table.fixed
        self.num_chunks, self.maximize, self.num_rows = table.num_chunks, table.maximize, table.num_rows
        self.majority, self.half_majority = table.majority, table.half_majority
        self._is_share, self.table = table.is_share, table
        self._params = [_clip(self.space, trial.params) for trial in table.trials]
        raw_VNT = _without_failures(np.array([[getattr(t, name) for t in table.trials] for name in _CURVES]), table)
        raw_VNT = np.array([_filled(raw, maximize=table.maximize) for raw in raw_VNT])
        self._recorded_VNT = raw_VNT
        first = [trials[0] for trials in self._settings()]
        self._ranks = [[_Ranks(raw_NT[first, chunk]) for chunk in range(self.num_chunks)] for raw_NT in raw_VNT]
        y_VTN = np.array(
            [
                [r.normal(raw_NT[:, t]) for t, r in enumerate(row)]
                for row, raw_NT in zip(self._ranks, raw_VNT, strict=True)
            ]
        )
        self._center_VT = y_VTN.mean(2)
        self._y_NVT = (y_VTN - self._center_VT[:, :, None]).transpose(2, 0, 1)
        self._smoother = Smoother(self.space, self._params, y_VTN[_S, -1])
        x_NC = self._smoother.encoder.encode(self._params)
        score, loss = (Score.of(raw_VNT[v], maximize=self.maximize and v == _S) for v in (_S, _L))
        self._scales = (score, loss, score, loss)
        self._level_N = self._levels(x_NC)
        self._noise_NVT = self._noise(x_NC)
        self._is_tied_NVT = self._ties()
        self._train_s, self._score_s = _Seconds(table.trials, x_NC), _score_s(table)
        units = np.array([unit_point(len(self.space), 0, index) for index in range(_NUM_POINTS)])
        points = self._smoother.encoder.encode_units(units)
        means = self._mean_scores(points)
        own = self._mean_scores(x_NC)
        best = np.max if self.maximize else np.min
        self.best_mean = float(best(np.concatenate([means, own])))
        self._good_from = float(np.quantile(means, 1 - GOOD_SHARE if self.maximize else GOOD_SHARE))

    def curve(self, params: Mapping[str, ParamValue], seed: int) -> Curve:
        """Return the curve of a configuration, trained with a seed; outside of the space, that of the nearest point."""
        found = self._long_curve(params, seed)
        own = own_chunks(self.space, self.num_chunks, _clip(self.space, params))
        if own == self.num_chunks:
            return found
        at = places(own, self.num_chunks).tolist()
        return Curve(
            score=tuple(found.score[i] for i in at),
            loss=tuple(found.loss[i] for i in at),
            half_score=tuple(found.half_score[i] for i in at),
            half_loss=tuple(found.half_loss[i] for i in at),
            train_s=tuple(found.train_s[i] for i in at),
            score_s=found.score_s,
        )

    def _long_curve(self, params: Mapping[str, ParamValue], seed: int) -> Curve:
        """Return the curve of a configuration over the chunks of the longest trial."""
        params = _clip(self.space, params)
        x_1C = self._smoother.encoder.encode([params])
        surface_VT = self._center_VT + np.tensordot(self._smoother.weights(x_1C)[0], self._y_NVT, axes=1)
        near = self._donors(x_1C, surface_VT[None, _S, -1])[0]
        lot = _hash(params, seed) % len(near)
        donor, noise_VT = near[lot], _centered(self._noise_NVT[near])[lot]
        value_VT = self._add(self._values(surface_VT), noise_VT)
        is_tied = self._is_tied_NVT[donor]
        value_VT[is_tied] = self._recorded_VNT[:, donor][is_tied]
        score, half = self._rounded(value_VT[_S], value_VT[_HS])
        return Curve(
            score=_floats(score),
            loss=_floats(value_VT[_L]),
            half_score=_floats(half),
            half_loss=_floats(value_VT[_HL]),
            train_s=_floats(self._train_s.at(x_1C[0])),
            score_s=self._score_s,
        )

    def mean_score(self, params: Mapping[str, ParamValue]) -> float:
        """Return a configuration's mean score at the full length, over all seeds."""
        return float(self._mean_scores(self._smoother.encoder.encode([_clip(self.space, params)]))[0])

    def is_good(self, params: Mapping[str, ParamValue]) -> bool:
        """Whether a configuration lies in the good zone: the best 40 % of the space, by mean score."""
        mean = self.mean_score(params)
        return mean >= self._good_from if self.maximize else mean <= self._good_from

    @cached_property
    def trial_s(self) -> float:
        """Device seconds of a trial that is scored at its end only, mean over the table."""
        share = np.mean([own_chunks(self.space, self.num_chunks, p) / self.num_chunks for p in self._params])
        return float(self._train_s.mean.sum()) * float(share) + self._score_s

    def agreement(self, num_seeds: int = 16) -> Agreement:
        """Compare the response with its table.

        Args:
            num_seeds: Seeds that each of the table's settings is asked with.
        """
        left_out, y_N = self._smoother.left_out(), self._y_NVT[:, _S, -1]
        curves = [[self._long_curve(p, seed) for seed in range(num_seeds)] for p in self._params]
        score_NKT = np.array([[curve.score for curve in row] for row in curves])
        repeated = self._repeated
        recorded_NT = self._recorded_VNT[_S]
        recorded = [recorded_NT[trials, -1].std(ddof=1) for trials in repeated]
        return Agreement(
            rank_correlation=_rank_correlation(left_out, y_N),
            noise=float(np.mean([score_NKT[t[0], :, -1].std(ddof=1) for t in repeated])) if repeated else math.nan,
            recorded_noise=float(np.mean(recorded)) if repeated else math.nan,
            ties=float(self._is_majority(score_NKT).mean()),
            recorded_ties=float(self._is_majority(recorded_NT).mean()),
        )

    def _mean_scores(self, x_MC: Array) -> Array:
        """Return the mean final score of points over all their donors, which is that over all seeds (M)."""
        level_M = self._levels(x_MC)
        near_DM = self._donors(x_MC, level_M).T
        scale, noise_DM = self._scales[_S], _centered(self._noise_NVT[near_DM, _S, -1])
        value_DM = scale.restore(scale.transform(self._clipped(self._ranks[_S][-1].value(level_M))) + noise_DM)
        is_tied_DM = self._is_tied_NVT[near_DM, _S, -1]
        return np.asarray(np.where(is_tied_DM, self._recorded_VNT[_S, near_DM, -1], value_DM).mean(0))

    def _levels(self, x_MC: Array) -> Array:
        """Return the normal score of the surface at points, at the full length (M)."""
        return np.asarray(self._center_VT[_S, -1] + self._smoother.weights(x_MC) @ self._y_NVT[:, _S, -1])

    def _donors(self, x_MC: Array, level_M: Array) -> NDArray[np.int64]:
        """Return the trials near points, of which one lends its noise (M x D).

        Near in the space and in the height of the surface: on the two sides of a cliff, noise differs.
        """
        squared = self._smoother.distances(x_MC) ** 2 + (level_M[:, None] - self._level_N[None]) ** 2
        return np.argsort(squared, axis=1, kind="stable")[:, :_NUM_DONORS]

    def _add(self, value_VT: Array, noise_VT: Array) -> Array:
        """Return values with noise, which is on the scales of `Score`."""
        scales = zip(self._scales, value_VT, noise_VT, strict=True)
        return np.array([scale.restore(scale.transform(value_T) + noise_T) for scale, value_T, noise_T in scales])

    def _values(self, y_VT: Array) -> Array:
        """Return the values that normal scores stand for."""
        value_VT: Array = np.array(
            [[r.value(y) for r, y in zip(row, y_T, strict=True)] for row, y_T in zip(self._ranks, y_VT, strict=True)]
        )
        value_VT[[_S, _HS]] = self._clipped(value_VT[[_S, _HS]])
        return value_VT

    def _clipped(self, scores: Array) -> Array:
        return np.asarray(np.clip(scores, 0.0, 1.0)) if self._is_share else scores

    def _settings(self) -> list[list[int]]:
        """Return the indices of the trials of each setting."""
        of: dict[tuple[ParamValue, ...], list[int]] = {}
        for index, params in enumerate(self._params):
            of.setdefault(tuple(params.values()), []).append(index)
        return list(of.values())

    @property
    def _repeated(self) -> list[list[int]]:
        """The indices of the trials of each setting with several seeds."""
        groups = self._settings()
        return [trials for trials in groups if len({self.table.trials[trial].seed for trial in trials}) > 1]

    def _noise(self, x_NC: Array) -> Array:
        """Return the noise of each trial, which a donor lends, on the scales of `Score`.

        Of a setting with several seeds, these are the deviations from its own mean, scaled for their degrees of
        freedom. Of the others, it is what the surface leaves over, which is partly the surface's own error. So it is
        scaled to the noise that the repeated settings have.
        """
        surface_NVT = self._center_VT + np.tensordot(self._smoother.weights(x_NC), self._y_NVT, axes=1)
        value_NVT = np.array([self._values(surface_VT) for surface_VT in surface_NVT])
        recorded_NVT = self._recorded_VNT.transpose(1, 0, 2)
        on_scale = [
            np.stack([s.transform(a[:, v]) for v, s in enumerate(self._scales)], 1) for a in (recorded_NVT, value_NVT)
        ]
        left_NVT = on_scale[0] - on_scale[1]
        repeated = self._repeated
        if len(repeated) < _LEAST_REPEATED:
            return np.asarray(left_NVT)
        own_NVT, among = np.zeros_like(left_NVT), np.concatenate(repeated)
        for trials in repeated:
            own = on_scale[0][trials]
            own_NVT[trials] = (own - own.mean(0)) * math.sqrt(len(trials) / (len(trials) - 1))
        noise_VT, left_VT = own_NVT[among].std(0), left_NVT[among].std(0)
        noise_NVT = left_NVT * np.minimum(noise_VT / np.maximum(left_VT, 1e-9), _LARGEST_FACTOR)
        noise_NVT[among] = own_NVT[among]
        return np.asarray(noise_NVT)

    def _is_majority(self, scores: Array) -> NDArray[np.bool_]:
        if math.isnan(self.majority):
            return np.zeros(scores.shape, dtype=bool)
        return scores <= self.majority + 1e-9 if self.maximize else np.zeros(scores.shape, dtype=bool)

    def _ties(self) -> NDArray[np.bool_]:
        """Return which values of a donor stand as recorded: both scores where the model predicts one label."""
        found = np.zeros(self._y_NVT.shape, dtype=bool)
        found[:, [_S, _HS]] = self._is_majority(self._recorded_VNT[_S])[:, None]
        return found

    def _rounded(self, score: Array, half: Array) -> tuple[Array, Array]:
        """Return scores that so many rows can have: whole numbers of right rows, no more of a half than of all."""
        if not (self._is_share and self.num_rows):
            return score, half
        num_half = max(1, self.num_rows // 2)
        right = np.rint(score * self.num_rows)
        right_half = np.clip(np.rint(half * num_half), right - (self.num_rows - num_half), right)
        return right / self.num_rows, np.clip(right_half, 0, num_half) / num_half


def _centered(noise: Array) -> Array:
    """Return the noise of a point's donors (first axis) with mean 0, so that the mean over seeds is the surface.

    Their number corrects the variance.
    """
    number = len(noise)
    return np.asarray((noise - noise.mean(0)) * math.sqrt(number / max(1, number - 1)))


class _Ranks:
    """Maps recorded values to normal scores, the normal quantiles of their ranks, and back.

    Equal values share a score. Beyond the recorded values, the line through the outer tenth goes on.

    Args:
        values: One of each setting.
    """

    def __init__(self, values: Array) -> None:
        found, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        normal = np.array([_NORMAL.inv_cdf((rank + 0.5) / len(values)) for rank in range(len(values))])
        scores: Array = np.zeros(len(found))
        order = np.argsort(values, kind="stable")
        np.add.at(scores, inverse.reshape(-1)[order], normal)
        scores /= counts
        outer = max(1, len(found) // 10)
        low, high = _slope(scores[: outer + 1], found[: outer + 1]), _slope(scores[-outer - 1 :], found[-outer - 1 :])
        self._scores = np.concatenate([[scores[0] - _REACH], scores, [scores[-1] + _REACH]])
        self._values = np.concatenate([[found[0] - low * _REACH], found, [found[-1] + high * _REACH]])

    def normal(self, values: Array) -> Array:
        """Return the normal scores of values."""
        return np.asarray(np.interp(values, self._values, self._scores))

    def value(self, scores: Array | float) -> Array:
        """Return the values that normal scores stand for."""
        return np.asarray(np.interp(scores, self._scores, self._values))


def _slope(scores: Array, values: Array) -> float:
    """Return the rise from the first to the last; tiny if there is none, so that the map has an inverse."""
    return max(float((values[-1] - values[0]) / (scores[-1] - scores[0])) if len(scores) > 1 else 0.0, 1e-9)


class _Seconds:
    """Device seconds of training by chunk: log-linear in the point, with the mean shape over chunks.

    Recorded seconds are noisy, since machines do other things, too; a straight line leaves that out.
    """

    def __init__(self, trials: Sequence[TableTrial], x_NC: Array) -> None:
        seconds_NT = np.array([trial.train_s for trial in trials])
        self.mean = np.array(
            [float(np.median(c[np.isfinite(c)])) if np.isfinite(c).any() else 0.0 for c in seconds_NT.T]
        )
        known = np.isfinite(seconds_NT)
        expected = np.where(known, self.mean, 0.0).sum(1)
        total = np.where(known, seconds_NT, 0.0).sum(1)
        usable = (expected > 0) & (total > 0)
        # The ridge keeps a few trials from making a steep line.
        design = np.column_stack([np.ones(usable.sum()), x_NC[usable]])
        target = np.log(total[usable] / expected[usable])
        ridge = np.diag([0.0, *[1.0] * x_NC.shape[1]])
        self._slopes = np.linalg.lstsq(design.T @ design + ridge, design.T @ target, rcond=None)[0]

    def at(self, x_C: Array) -> Array:
        """Return the seconds of each chunk at a point."""
        return np.asarray(self.mean * math.exp(float(self._slopes[0] + x_C @ self._slopes[1:])))


def _score_s(table: Table) -> float:
    known = [trial.score_s for trial in table.trials if math.isfinite(trial.score_s)]
    return float(np.median(known)) if known else 0.0


def _without_failures(raw_VNT: Array, table: Table) -> Array:
    """Give the chunks that a failed trial did not reach the worst recorded values."""
    found = raw_VNT.copy()
    for index, name in enumerate(_CURVES):
        worst = np.nanmin if name.endswith("score") and table.maximize else np.nanmax
        for at, trial in enumerate(table.trials):
            if trial.has_failed:
                missing = ~np.isfinite(found[index, at])
                found[index, at, missing] = worst(raw_VNT[index])
    return found


def _filled(raw_NT: Array, *, maximize: bool) -> Array:
    """Return the values of all trials, those filled in that were not measured."""
    known = np.isfinite(raw_NT)
    if known.all():
        return raw_NT
    scale = Score.of(raw_NT[known], maximize=maximize)
    return np.where(known, raw_NT, scale.restore(_extended(scale.transform(raw_NT))))


def _extended(y_NT: Array) -> Array:
    """Fill what was not measured: between rungs linearly, after the last one by how the other trials went on.

    That is the regression, over the trials that have both, of the missing value on the latest known one.
    """
    found, chunks = y_NT.copy(), np.arange(y_NT.shape[1])
    last_N = np.array([np.flatnonzero(np.isfinite(row))[-1] if np.isfinite(row).any() else -1 for row in y_NT])
    for index, row in enumerate(y_NT):
        known = np.isfinite(row)
        if known.any():
            found[index, : last_N[index] + 1] = np.interp(chunks[: last_N[index] + 1], chunks[known], row[known])
    mean_T = np.nanmean(found, axis=0)
    for index, last in enumerate(last_N):
        if last < 0:
            found[index] = mean_T
        for chunk in chunks[last + 1 :] if last >= 0 else ():
            both = last_N >= chunk
            found[index, chunk] = _regressed(found[both, last], found[both, chunk], float(found[index, last]))
    return found


def _regressed(known: Array, later: Array, value: float) -> float:
    """Return the later value that a known one leads to; at least as far from the mean as half the known one."""
    if len(known) < 3 or known.std() == 0:  # noqa: PLR2004  a line through two points is no regression
        return value + float((later - known).mean()) if len(known) else value
    slope = float(np.cov(known, later, bias=True)[0, 1] / known.var())
    return float(later.mean()) + min(max(slope, 0.0), 1.5) * (value - float(known.mean()))


def _clip(space: SearchSpace, params: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
    """Return the values of the space's keys, moved to the nearest bound if they lie outside."""
    return {dimension.key: _clip_value(dimension, params[dimension.key]) for dimension in space.dimensions}


def _clip_value(dimension: Dimension, value: ParamValue) -> ParamValue:
    if dimension.scale is Scale.CATEGORICAL or dimension.choices or isinstance(value, str):
        return value
    return min(max(value, type(value)(dimension.low)), type(value)(dimension.high))


def _hash(params: Mapping[str, ParamValue], seed: int) -> int:
    """Return a number that is the same wherever the configuration comes from."""
    text = json.dumps([[key, f"{value:.6g}" if isinstance(value, float) else value] for key, value in params.items()])
    return int.from_bytes(hashlib.sha256(f"{text}/{seed}".encode()).digest()[:8], "big")


def _rank_correlation(one: Array, other: Array) -> float:
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(values.tolist())
