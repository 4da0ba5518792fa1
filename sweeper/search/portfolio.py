"""Chooses the configurations that a study tries before its model takes over, from what other studies have found.

A *ranking* says how good each configuration of a table or of an earlier study was among the others there. A portfolio
is chosen from rankings greedily: each next configuration raises the mean, over all rankings, of the best quantile so
far as much as possible. This is submodular, so greedy choice is within 1 - 1/e of the best portfolio of its size
(Nemhauser, Wolsey and Fisher 1978).

Scores are noisy, and a configuration is rarely in all rankings. So its quantile in a ranking is a weighted mean over
the configurations near it, itself included: one lucky seed among bad neighbours is not chosen. Pure, apart from reading
a file; does not use Optuna. `sweeper.sweep.warm_start` and ``benchmarks/portfolio.py`` call it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sweeper.config.keys import find_key, searchable_keys
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError
from sweeper.types import PortfolioPoint

__all__ = [
    "Portfolio",
    "Ranking",
    "choose_portfolio",
    "fit_points",
    "read_portfolio",
    "shipped_portfolio",
    "to_quantiles",
]

Configuration = Mapping[str, ParamValue]
_Floats = npt.NDArray[np.float64]
_Booleans = npt.NDArray[np.bool_]

_SHIPPED = Path(__file__).parent / "portfolios"
_STRENGTH = {"train.learning_rate": 1.0, "lora.alpha_ratio": 1.0, "lora.r": 0.5}
"""Exponents of a product that alone explains .7 of the variance of scores: how far training moves the weights."""
_STRENGTH_OCTAVES = 1.0
_OCTAVES = 2.0
"""Bandwidths of the product and of each positive value, in factors of two, chosen by leave-one-out on the tables."""
_LINEAR = {"lora.dropout": 0.2, "train.weight_decay": 0.1, "train.warmup_ratio": 0.1}
"""Bandwidths of values that may be 0."""
_PRIOR_WEIGHT = 0.1
"""Weight of the quantile 0.5 that a configuration far from all others gets; a configuration itself has weight 1."""
_MIN_DISTANCE = 1.0
"""Least distance of two configurations of a portfolio, in bandwidths: nearer ones would tell the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """How good each configuration of a table or study was among the others there."""

    source: str
    """Name of the portfolio, or ``<sweep>/<dataset>``."""
    configurations: tuple[Configuration, ...]
    """Values by dotted key; all have the same keys."""
    quantiles: tuple[float, ...]
    """Of each configuration, in (0, 1); higher is better (see `to_quantiles`)."""
    weight: float = 1.0
    """How much it counts in the mean over all rankings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Portfolio:
    """Content of a portfolio file."""

    name: str
    points: tuple[Configuration, ...]
    """Configurations, in the order in which they are tried."""
    rankings: tuple[Ranking, ...]
    """One for each table that they were measured on; may be empty in a file of the user's."""


def to_quantiles(ranks: Sequence[Any]) -> tuple[float, ...]:
    """Return the quantile of each element of a list: the share of elements below it, and half of those equal to it.

    Args:
        ranks: What to compare, e.g. scores; the highest is the best.
    """
    ordered = sorted(ranks)
    first = {rank: position for position, rank in reversed(list(enumerate(ordered)))}
    last = {rank: position for position, rank in enumerate(ordered)}
    return tuple((first[rank] + last[rank] + 1) / (2 * len(ordered)) for rank in ranks)


def choose_portfolio(
    rankings: Sequence[Ranking],
    space: SearchSpace,
    *,
    fixed: Configuration,
    known: Sequence[Configuration] = (),
    limit: int,
) -> tuple[PortfolioPoint, ...]:
    """Choose configurations of the rankings greedily.

    Args:
        rankings: What other studies have found. A configuration in several has the source of the first.
        space: The space of the new study. A value outside of an interval is moved to the nearest bound, and judged
            there.
        fixed: Values of the keys outside the space.
        known: Configurations that are tried anyway, the recipes: none near them is chosen.
        limit: Most configurations to choose.
    """
    candidates: dict[tuple[ParamValue, ...], tuple[dict[str, ParamValue], str]] = {}
    for ranking in rankings:
        for configuration in ranking.configurations:
            if (params := _fit(configuration, space, fixed)) is not None:
                candidates.setdefault(tuple(params.values()), (params, ranking.source))
    if not candidates:
        return ()
    found = list(candidates.values())
    configurations = [params for params, _ in found]
    quantiles_CR = np.stack([_smoothed(ranking, configurations, fixed) for ranking in rankings], axis=1)
    weights_R = np.array([ranking.weight for ranking in rankings]) / sum(ranking.weight for ranking in rankings)
    near_CC = _distances([*configurations, *known], configurations, space.keys, fixed) < _MIN_DISTANCE
    is_free_C: _Booleans = np.logical_not(near_CC[len(found) :].any(axis=0))
    return tuple(
        PortfolioPoint(params=found[index][0], source=found[index][1])
        for index in _greedy(quantiles_CR, weights_R, near_CC[: len(found)], is_free_C, limit)
    )


def read_portfolio(path: Path) -> Portfolio:
    """Read a portfolio file.

    Raises:
        ConfigError: It cannot be read, or is not a portfolio.
    """
    remedy = "Correct the path or the file, or write search.warm_start=auto."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        rule = f"this file cannot be read ({error.strerror})"
        raise ConfigError("search.warm_start", path, rule, remedy) from error
    except ValueError as error:
        raise ConfigError("search.warm_start", path, f"this file is not JSON ({error})", remedy) from error
    if fault := _fault(content):
        raise ConfigError("search.warm_start", path, fault, remedy)
    return _portfolio(content, name=str(content.get("name") or path.stem))


def shipped_portfolio(architecture: Mapping[str, Any], task: str) -> Portfolio | None:
    """Return the portfolio that sweeper has for a model and a task; None if it has none.

    Args:
        architecture: Content of the model's config.json.
        task: Name of the task.
    """
    for path in sorted(_SHIPPED.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        is_same = all(architecture.get(key) == value for key, value in content["architecture"].items())
        if is_same and content["task"] == task:
            return read_portfolio(path)
    return None


def fit_points(
    portfolio: Portfolio, space: SearchSpace, *, fixed: Configuration, known: Sequence[Configuration] = (), limit: int
) -> tuple[PortfolioPoint, ...]:
    """Return the points of a portfolio that fit a space, in their order, without those that are tried anyway."""
    tried = [dict(params) for params in known]
    chosen = []
    for point in portfolio.points:
        params = _fit(point, space, fixed)
        if params is not None and params not in tried:
            tried.append(params)
            chosen.append(PortfolioPoint(params=params, source=portfolio.name))
    return tuple(chosen[:limit])


def _greedy(
    quantiles_CR: _Floats,
    weights_R: _Floats,
    near_CC: _Booleans,
    is_free_C: _Booleans,
    limit: int,
) -> Iterator[int]:
    """Yield the chosen candidates; among those of equal gain, the one with the best mean quantile."""
    means_C = quantiles_CR @ weights_R
    best_R = np.zeros(len(weights_R))
    for _ in range(limit):
        if not is_free_C.any():
            return
        values_C = np.maximum(quantiles_CR, best_R) @ weights_R
        # Rounded, so that the order of additions decides nothing.
        ranks = [(round(values_C[c], 9), round(means_C[c], 9), -c) for c in np.flatnonzero(is_free_C).tolist()]
        chosen = -max(ranks)[2]
        yield chosen
        best_R = np.maximum(best_R, quantiles_CR[chosen])
        is_free_C = is_free_C & ~near_CC[chosen]


def _smoothed(ranking: Ranking, configurations: Sequence[Configuration], fixed: Configuration) -> _Floats:
    """Return the quantile of each configuration in a ranking: a mean over those near it (Nadaraya and Watson 1964)."""
    keys = tuple(key for key in searchable_keys() if key in ranking.configurations[0])
    distances_KC = _distances(ranking.configurations, configurations, keys, fixed)
    weights_KC = np.exp(-0.5 * distances_KC**2)
    total_C = np.array(ranking.quantiles) @ weights_KC + 0.5 * _PRIOR_WEIGHT
    smoothed_C: _Floats = total_C / (weights_KC.sum(axis=0) + _PRIOR_WEIGHT)
    return smoothed_C


def _distances(
    ones: Sequence[Configuration], others: Sequence[Configuration], keys: Sequence[str], fixed: Configuration
) -> _Floats:
    """Return the distances between two lists of configurations, in bandwidths."""
    complete = [{**fixed, **configuration} for configuration in (*ones, *others)]
    columns = [_column(key, [configuration.get(key, 0) for configuration in complete]) for key in keys]
    if all(key in configuration for configuration in complete for key in _STRENGTH):
        logs = [sum(power * np.log2(float(c[key])) for key, power in _STRENGTH.items()) for c in complete]
        columns.append(np.array(logs)[:, None] / _STRENGTH_OCTAVES)
    points = np.concatenate(columns, axis=1)
    one, other = points[: len(ones)], points[len(ones) :]
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * one @ other.T
    distances: _Floats = np.sqrt(np.maximum(squares, 0.0))
    return distances


def _column(key: str, values: Sequence[ParamValue]) -> _Floats:
    """Return the coordinates of a key's values: one column for numbers, one for each value of a category."""
    if any(isinstance(value, str | bool) for value in values):
        # Two different categories are one bandwidth apart.
        categories = sorted(set(values), key=str)
        is_same: _Booleans = np.array([[value == each for each in categories] for value in values])
        indicators: _Floats = is_same / np.sqrt(2)
        return indicators
    numbers = np.array(values, dtype=float)[:, None]
    if key in _LINEAR or (numbers <= 0).any():
        return numbers / _LINEAR.get(key, 1.0)
    coordinates: _Floats = np.log2(numbers) / _OCTAVES
    return coordinates


def _fit(configuration: Configuration, space: SearchSpace, fixed: Configuration) -> dict[str, ParamValue] | None:
    """Return a configuration in a space, each value moved to the nearest that is possible; None if there is none."""
    params = {}
    for dimension in space.dimensions:
        value = configuration.get(dimension.key, fixed.get(dimension.key))
        moved = None if value is None else _nearest(dimension, value)
        if moved is None:
            return None
        params[dimension.key] = moved
    return params


def _nearest(dimension: Dimension, value: ParamValue) -> ParamValue | None:
    """Return the value of a dimension that is nearest to ``value``; None if it is no number and no choice."""
    if dimension.scale is Scale.CATEGORICAL or isinstance(value, str | bool):
        return value if dimension.contains(value) else None
    if dimension.choices:
        return min(dimension.choices, key=lambda choice: abs(float(choice) - float(value)))
    number = min(max(float(value), dimension.low), dimension.high)
    if dimension.scale is Scale.LOG2:
        number = 2.0 ** round(np.log2(number))
    return round(number) if dimension.is_integer else number


def _fault(content: Any) -> str:
    """Return why the content of a file is no portfolio; empty if it is one."""
    points = content.get("points") if isinstance(content, dict) else None
    if not isinstance(points, list) or not points:
        return "a portfolio has a list of points"
    for number, point in enumerate(points, start=1):
        params = point.get("params") if isinstance(point, dict) else None
        if not isinstance(params, dict) or not params:
            return f"point {number} has no params, the values by dotted key"
        for key, value in params.items():
            if key not in searchable_keys():
                return f"point {number} has the key {key}, which cannot be searched"
            rules = find_key(key).as_dimension
            if not rules.allows(value):
                return f"point {number}: {key}={value} must be {rules.rule}"
        quantiles = point.get("quantiles", {})
        if not all(isinstance(q, int | float) and 0 <= q <= 1 for q in quantiles.values()):
            return f"point {number}: a quantile is from 0 to 1"
    return ""


def _portfolio(content: Mapping[str, Any], *, name: str) -> Portfolio:
    points = [dict(point["params"]) for point in content["points"]]
    tables = list(dict.fromkeys(table for point in content["points"] for table in point.get("quantiles", {})))
    rankings = []
    for table in tables:
        measured = [point for point in content["points"] if table in point.get("quantiles", {})]
        rankings.append(
            Ranking(
                source=name,
                configurations=tuple(dict(point["params"]) for point in measured),
                quantiles=tuple(float(point["quantiles"][table]) for point in measured),
            )
        )
    return Portfolio(name=name, points=tuple(points), rankings=tuple(rankings))
