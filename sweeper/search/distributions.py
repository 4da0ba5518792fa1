"""Maps the dimensions of a space to Optuna's parameters and back; no other module does.

Optuna stores a parameter under its dotted key: the exponent of a power of two, the index of an ordered choice, the
value itself otherwise. So the rank is an integer with a meaningful distance, and ordered choices are not categories.
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
    """Draw every dimension of a trial, or read it if it was drawn before; return real values by dotted key."""
    for key, distribution in distributions(space).items():
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            trial.suggest_categorical(key, distribution.choices)
        elif isinstance(distribution, optuna.distributions.IntDistribution):
            trial.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
        elif isinstance(distribution, optuna.distributions.FloatDistribution):
            trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
    return from_stored(space, trial.params)


def distributions(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return Optuna's distributions by dotted key."""
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for dimension in space.dimensions:
        is_log = dimension.scale is Scale.LOG
        if dimension.scale is Scale.CATEGORICAL:
            found[dimension.key] = optuna.distributions.CategoricalDistribution(dimension.choices)
        elif dimension.scale is Scale.LOG2:
            found[dimension.key] = optuna.distributions.IntDistribution(*dimension.exponents)
        elif dimension.scale is Scale.ORDERED:
            found[dimension.key] = optuna.distributions.IntDistribution(0, len(dimension.choices) - 1)
        elif dimension.is_integer:
            low, high = round(dimension.low), round(dimension.high)
            found[dimension.key] = optuna.distributions.IntDistribution(low, high, log=is_log)
        else:
            found[dimension.key] = optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=is_log)
    return found


def to_stored(space: SearchSpace, params: Mapping[str, ParamValue]) -> dict[str, Any]:
    """Convert real values to what Optuna stores."""
    return {dimension.key: _to_stored(dimension, params[dimension.key]) for dimension in space.dimensions}


def from_stored(space: SearchSpace, stored: Mapping[str, Any]) -> dict[str, ParamValue]:
    """Convert what Optuna stores to real values; the inverse of `to_stored`."""
    return {dimension.key: _from_stored(dimension, stored[dimension.key]) for dimension in space.dimensions}


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
