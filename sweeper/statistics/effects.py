"""How much each key matters, and what the best achievable score over it looks like, as far as the trials tell.

Everything is read from the posterior draws of one `Landscape`, so an interval has both sources of doubt: the function
between the trials, and the parameters of the surrogate. Nothing is claimed if the surrogate's quality is not
sufficient. `sweeper.analysis.effects` makes the values for best.json from the store.

Importance is the total Sobol index (Sobol 1993; estimator of Jansen 1999): the share of the variance over the whole
space, on the scale of the surrogate, that goes away if all keys but one are known. Not functional ANOVA of a random
forest, because a forest has no posterior to take intervals from, and not PED-ANOVA, because it compares values of good
and other trials one key at a time: a ridge, on which the learning rate makes up for alpha, shows in neither key.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc, rankdata

from sweeper.config.space import Dimension, Scale
from sweeper.config.values import ParamValue
from sweeper.statistics.landscape import NUM_GRID, Landscape, interval_of
from sweeper.statistics.observations import RANK, RATE, RATIO, ScoredTrial, effective_rates
from sweeper.statistics.results import Interval
from sweeper.statistics.surrogate import Quality, Surrogate

__all__ = ["EFFECTIVE_RATE", "effective_rate", "interval_json", "quality_json", "study_effects"]

Array = NDArray[np.float64]

EFFECTIVE_RATE = "effective_rate"
"""Name of the profile over learning rate x alpha / r x sqrt(r), the size of the adapter's first steps."""

_NUM_BASE = 256
_NUM_INTERACTING = 5
"""Interactions are computed between the keys that matter most."""
_NEAR = 0.1
"""A value has data if at least two configurations are this near, as a share of the key's range."""
_ROUNDING = 1e-9
"""Relative; a rate that was computed from a candidate must count as that of the candidate."""
_NEAR_CONTOUR = 0.15
_NUM_CONTOUR = 13
_NUM_IMPUTED = 400


def study_effects(
    surrogate: Surrogate,
    *,
    fixed: Mapping[str, ParamValue],
    default: Mapping[str, ParamValue] | None = None,
    best: Mapping[str, ParamValue] | None = None,
    landscape: Landscape | None = None,
) -> dict[str, Any]:
    """Return the effects of a study as JSON-able values.

    Args:
        surrogate: Its surrogate.
        fixed: Values of the keys that are not searched, by dotted key.
        default: The default recipe; without it there is no path.
        best: The best configuration; without it there is no path.
        landscape: A landscape of the surrogate to use; made if None.

    Returns:
        See ``effects`` in docs/effects.md. The lists are empty if the quality is not sufficient.
    """
    empty: dict[str, Any] = {
        name: [] for name in ("importance", "interactions", "profiles", "contours", "rung_correlation", "path")
    }
    found = {"quality": quality_json(surrogate.quality), **empty}
    if not surrogate.quality.is_sufficient:
        return found
    land = landscape or Landscape(surrogate)
    importance, interactions = _importance(land)
    rate = _rate_profile(land, fixed)
    return found | {
        "importance": importance,
        "interactions": interactions,
        "profiles": [*(_profile(land, d) for d in surrogate.space.dimensions), *([rate] if rate else [])],
        "contours": [c for keys in ((RATE, RATIO), (RANK, RATE)) if (c := _contour(land, keys))],
        "rung_correlation": _rung_correlation(surrogate),
        "path": _path(land, default, best) if default and best else [],
    }


def quality_json(quality: Quality) -> dict[str, Any]:
    """Return the quality of a surrogate as JSON-able values."""
    return {
        "rank_correlation": quality.rank_correlation,
        "minimum": quality.minimum,
        "is_sufficient": quality.is_sufficient,
        "num_trials": quality.num_trials,
        "num_values": quality.num_values,
    }


def interval_json(interval: Interval) -> dict[str, float]:
    """Return an interval as JSON-able values."""
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def effective_rate(params: Mapping[str, ParamValue], fixed: Mapping[str, ParamValue]) -> float:
    """Return learning rate x alpha / r x sqrt(r) of a configuration.

    Args:
        params: Searched values by dotted key.
        fixed: Values of the other keys.
    """
    return float(effective_rates(*(np.array(float(params.get(k, fixed.get(k, 1.0)))) for k in (RANK, RATIO, RATE))))


def _importance(land: Landscape) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return total indices of all keys, largest first, and pure second-order indices of pairs of the first keys."""
    keys = land.surrogate.space.keys
    num = len(keys)
    units = qmc.Sobol(2 * num, rng=np.random.default_rng(0)).random(_NUM_BASE)
    one, other = units[:, :num], units[:, num:]

    def draws(replaced: Sequence[int]) -> Array:
        mixed = one.copy()
        mixed[:, list(replaced)] = other[:, list(replaced)]
        return land.draws(land.encoder.encode_units(mixed))

    first, last = draws(()), draws(range(num))
    variance_S = np.maximum(np.concatenate([first, last], axis=1).var(axis=1), 1e-12)

    def explained(drawn: Array) -> Array:
        """Return the share of the variance that the replaced keys explain alone."""
        return np.asarray(1 - ((last - drawn) ** 2).mean(axis=1) / (2 * variance_S))

    single = [draws((index,)) for index in range(num)]
    totals = [((first - drawn) ** 2).mean(axis=1) / (2 * variance_S) for drawn in single]
    mains = [explained(drawn) for drawn in single]
    order = sorted(range(num), key=lambda index: -float(np.median(totals[index])))
    importance = [{"key": keys[i], "share": interval_json(interval_of(totals[i]))} for i in order]
    pairs: list[tuple[list[str], Interval]] = []
    for i, j in itertools.combinations(sorted(order[:_NUM_INTERACTING]), 2):
        share_S = explained(draws((i, j))) - mains[i] - mains[j]
        pairs.append(([keys[i], keys[j]], interval_of(share_S)))
    pairs.sort(key=lambda pair: -pair[1].estimate)
    return importance, [{"keys": pair, "share": interval_json(share)} for pair, share in pairs]


def _profile(land: Landscape, dimension: Dimension) -> dict[str, Any]:
    key = dimension.key
    index = land.surrogate.space.keys.index(key)
    values = land.grid(index)
    positions_U = land.surrogate.points[:, land.encoder.columns_of(index)]
    near_G = []
    for value in values:
        distances = np.linalg.norm(positions_U - land.encoder.column_values(index, value), axis=1)
        near_G.append(int((distances <= _NEAR).sum()) > 1)
    points = [[trial.params[key], trial.values[-1], trial.is_complete] for trial in land.surrogate.trials]
    return _profile_json(
        land,
        key,
        label=key,
        scale=_scale(dimension),
        x=values,
        draws=land.profile(key, values),
        near=near_G,
        points=points,
    )


def _scale(dimension: Dimension) -> str:
    if dimension.scale is Scale.CATEGORICAL:
        return "category"
    return "log" if dimension.is_ratio_scaled else "linear"


def _profile_json(
    land: Landscape,
    key: str,
    *,
    label: str,
    scale: str,
    x: Sequence[ParamValue],
    draws: Array,
    near: Sequence[bool],
    points: list[list[Any]],
) -> dict[str, Any]:
    bands = [interval_of(column) for column in land.surrogate.values(draws).T]
    return {
        "key": key,
        "label": label,
        "scale": scale,
        "x": list(x),
        "best": [band.estimate for band in bands],
        "low": [band.low for band in bands],
        "high": [band.high for band in bands],
        "has_data": list(near),
        "points": points,
    }


def _rate_profile(land: Landscape, fixed: Mapping[str, ParamValue]) -> dict[str, Any] | None:
    """Return the profile over the effective rate; None if the learning rate, which follows from it, is fixed."""
    index = land.index(RATE)
    if index is None:
        return None
    others_K = np.sqrt(_numbers(land, RANK, fixed)) * _numbers(land, RATIO, fixed)
    pool_K = _numbers(land, RATE, fixed) * others_K
    ends = np.log(np.quantile(pool_K, [0.02, 0.98]))
    grid_G = np.exp(np.linspace(ends[0], ends[1], NUM_GRID))
    dimension = land.surrogate.space.dimensions[index]
    wanted_GK = grid_G[:, None] / others_K[None, :]
    bounds = (min(map(float, dimension.choices)), max(map(float, dimension.choices))) if dimension.choices else ()
    low, high = bounds or (dimension.low, dimension.high)
    is_allowed_GK = (wanted_GK >= low * (1 - _ROUNDING)) & (wanted_GK <= high * (1 + _ROUNDING))
    # Between two ranks or alpha ratios, a narrow range of learning rates may leave rates that no configuration has.
    exists_G = is_allowed_GK.any(axis=1)
    rates_G, wanted_GK, is_allowed_GK = grid_G[exists_G], wanted_GK[exists_G], is_allowed_GK[exists_G]
    points_GKC = np.repeat(land.pool_KC[None], len(rates_G), axis=0)
    column = int(land.encoder.columns_of(index)[0])
    points_GKC[:, :, column] = np.vectorize(
        lambda rate: land.encoder.column_values(index, min(max(rate, low), high))[0]
    )(wanted_GK)
    trials = [(effective_rate(trial.params, fixed), trial) for trial in land.surrogate.trials]
    logs = np.log([rate for rate, _ in trials])
    width = _NEAR * (ends[1] - ends[0])
    return _profile_json(
        land,
        EFFECTIVE_RATE,
        label="learning rate x alpha/r x sqrt(r)",
        scale="log",
        x=[float(rate) for rate in rates_G],
        draws=land.best_scores(points_GKC, is_allowed_GK),
        near=[int((np.abs(logs - math.log(rate)) <= width).sum()) > 1 for rate in rates_G],
        points=[[rate, trial.values[-1], trial.is_complete] for rate, trial in trials],
    )


def _numbers(land: Landscape, key: str, fixed: Mapping[str, ParamValue]) -> Array:
    """Return a key's numbers at all candidates."""
    index = land.index(key)
    if index is None:
        return np.full(len(land.pool_KC), float(fixed.get(key, 1.0)))
    return land.encoder.number_of(index, land.pool_KC[:, land.encoder.columns_of(index)[0]])


def _contour(land: Landscape, keys: tuple[str, str]) -> dict[str, Any] | None:
    """Return the best posterior mean over two keys; None if one of them is not searched."""
    indices = [land.index(key) for key in keys]
    if indices[0] is None or indices[1] is None:
        return None
    x, y = (land.grid(index, _NUM_CONTOUR) for index in (indices[0], indices[1]))
    values = [{keys[0]: a, keys[1]: b} for b in y for a in x]
    mean = land.best_mean(land.at(values)[:, ::3]).reshape(len(y), len(x))
    positions = [land.surrogate.points[:, land.encoder.columns_of(index)[0]] for index in (indices[0], indices[1])]
    grids = [
        [land.encoder.column_values(index, value)[0] for value in axis]
        for index, axis in zip((indices[0], indices[1]), (x, y), strict=True)
    ]
    distance_YXU = np.hypot(
        np.array(grids[0])[None, :, None] - positions[0], np.array(grids[1])[:, None, None] - positions[1]
    )
    has_data = distance_YXU.min(axis=2) <= _NEAR_CONTOUR
    return {"keys": list(keys), "x": x, "y": y, "mean_YX": mean.tolist(), "has_data_YX": has_data.tolist()}


def _rung_correlation(surrogate: Surrogate) -> list[dict[str, Any]]:
    """Return the rank correlation of the score at each early rung with the true score at the full length.

    Trials that were stopped have no last score, and those that were not are a selection, among which the correlation
    is too low. So the last score of every trial is a posterior draw of its true value (multiple imputation, Rubin
    1987), which corrects for the selection as far as the surrogate is right. In each draw the trials are resampled:
    the interval has the error of a sample of trials, too. At a later rung it is about the trials that got there.
    """
    kept = {tuple(c.items()): number for number, c in enumerate(map(_sorted, surrogate.configurations()))}
    own = np.arange(len(kept))
    finals_SU = surrogate.draw_scores(surrogate.points, num_draws=_NUM_IMPUTED, seed=1, own=own)
    rng = np.random.default_rng(1)
    found = []
    for share in sorted({share for trial in surrogate.trials for share in trial.shares if share < 1}):
        trials = [trial for trial in surrogate.trials if share in trial.shares and _key(trial) in kept]
        if len(trials) <= 3:  # noqa: PLR2004  no correlation to speak of
            continue
        scores = np.array([trial.values[trial.shares.index(share)] for trial in trials])
        early = scores if surrogate.maximize else -scores
        columns = np.array([kept[_key(trial)] for trial in trials])
        draws = [_resampled(early, final[columns], rng) for final in finals_SU]
        correlation = interval_of(np.array([draw for draw in draws if math.isfinite(draw)] or [math.nan]))
        if math.isfinite(correlation.estimate):
            found.append({"share": share, "correlation": interval_json(correlation), "num_trials": len(trials)})
    return found


def _resampled(early: Array, final: Array, rng: np.random.Generator) -> float:
    chosen = rng.integers(len(early), size=len(early))
    ranks = rankdata(early[chosen]), rankdata(final[chosen])
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _sorted(params: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
    return dict(sorted(params.items()))


def _key(trial: ScoredTrial) -> tuple[tuple[str, ParamValue], ...]:
    return tuple(sorted(trial.params.items()))


def _path(land: Landscape, default: Mapping[str, ParamValue], best: Mapping[str, ParamValue]) -> list[dict[str, Any]]:
    """Return the steps from the default to the best, one key at a time, each with the largest predicted gain."""
    keys = land.surrogate.space.keys
    now = {key: default[key] for key in keys}
    steps: list[dict[str, Any]] = [{"key": None, "params": dict(now)}]
    configurations = [dict(now)]
    remaining = [key for key in keys if default[key] != best[key]]
    while remaining:
        choices = [{**now, key: best[key]} for key in remaining]
        means = land.surrogate.mean_scores(land.encoder.encode(choices))
        chosen = remaining.pop(int(np.argmax(means)))
        steps.append({"key": chosen, "from": now[chosen], "to": best[chosen]})
        now[chosen] = best[chosen]
        configurations.append(dict(now))
    draws = land.surrogate.values(land.draws(land.encoder.encode(configurations)))
    return [{**step, "value": interval_json(interval_of(d))} for step, d in zip(steps, draws.T, strict=True)]
