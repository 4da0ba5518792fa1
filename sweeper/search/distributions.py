"""The one place that maps dimensions of a space to Optuna's parameters and back.

Optuna stores a parameter under its dotted key: the exponent of a power of two, the index of an ordered choice, the
value itself otherwise. So rank stays an integer with a meaningful distance, and its choices are not categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue

__all__ = ["distributions", "from_stored", "suggest", "to_stored"]


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, ParamValue]:
    """Draw, or read if already drawn, every dimension of a trial; return real values by dotted key."""
    for dimension in space.dimensions:
        _suggest(trial, dimension)
    return from_stored(space, trial.params)


def distributions(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return Optuna's distributions by dotted key; `suggest` makes the same."""
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for dimension in space.dimensions:
        if dimension.scale is Scale.CATEGORICAL:
            found[dimension.key] = optuna.distributions.CategoricalDistribution(dimension.choices)
        elif _is_whole(dimension):
            low, high, log = _whole_bounds(dimension)
            found[dimension.key] = optuna.distributions.IntDistribution(low, high, log=log)
        else:
            log = dimension.scale is Scale.LOG
            found[dimension.key] = optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=log)
    return found


def to_stored(space: SearchSpace, params: Mapping[str, ParamValue]) -> dict[str, Any]:
    """Return real values as Optuna stores them."""
    return {dimension.key: _to_stored(dimension, params[dimension.key]) for dimension in space.dimensions}


def from_stored(space: SearchSpace, stored: Mapping[str, Any]) -> dict[str, ParamValue]:
    """Return real values of what Optuna stores; the inverse of `to_stored`."""
    return {dimension.key: _from_stored(dimension, stored[dimension.key]) for dimension in space.dimensions}


def _suggest(trial: optuna.Trial, dimension: Dimension) -> None:
    if dimension.scale is Scale.CATEGORICAL:
        trial.suggest_categorical(dimension.key, dimension.choices)
    elif _is_whole(dimension):
        low, high, log = _whole_bounds(dimension)
        trial.suggest_int(dimension.key, low, high, log=log)
    else:
        trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.scale is Scale.LOG)


def _is_whole(dimension: Dimension) -> bool:
    return dimension.scale in (Scale.LOG2, Scale.ORDERED) or dimension.is_integer


def _whole_bounds(dimension: Dimension) -> tuple[int, int, bool]:
    if dimension.scale is Scale.LOG2:
        return *dimension.exponents, False
    if dimension.scale is Scale.ORDERED:
        return 0, len(dimension.choices) - 1, False
    return round(dimension.low), round(dimension.high), dimension.scale is Scale.LOG


def _to_stored(dimension: Dimension, value: ParamValue) -> Any:
    if dimension.scale is Scale.LOG2:
        return round(math.log2(float(value)))
    if dimension.scale is Scale.ORDERED:
        return dimension.choices.index(value)
    return value


def _from_stored(dimension: Dimension, value: Any) -> ParamValue:
    if dimension.scale is Scale.LOG2:
        return int(2 ** int(value))
    if dimension.scale is Scale.ORDERED:
        return dimension.choices[int(value)]
    return value  # type: ignore[no-any-return]
