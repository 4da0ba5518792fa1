"""Maps the dimensions of a space to Optuna's parameters and back; no other module does.

There are two forms, both under the dotted keys. Samplers draw the exponent of a power of two and the index of an
ordered choice: so the rank is an integer with a meaningful distance, and ordered choices are not categories. The study
database shows the real values, because people read it with Optuna's own tools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import optuna

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue

__all__ = ["distributions", "drawn_value", "from_drawn", "from_shown", "shown_distributions", "to_drawn", "to_shown"]

_Distribution = optuna.distributions.BaseDistribution


def distributions(space: SearchSpace) -> dict[str, _Distribution]:
    """Return the distributions of what samplers draw, by dotted key."""
    found: dict[str, _Distribution] = {}
    for dimension in space.dimensions:
        if dimension.scale is Scale.LOG2:
            found[dimension.key] = optuna.distributions.IntDistribution(*dimension.exponents)
        elif dimension.scale is Scale.ORDERED:
            found[dimension.key] = optuna.distributions.IntDistribution(0, len(dimension.choices) - 1)
        else:
            found[dimension.key] = _real(dimension)
    return found


def to_drawn(space: SearchSpace, params: Mapping[str, ParamValue]) -> dict[str, Any]:
    """Convert real values to what samplers draw."""
    return {dimension.key: _to_drawn(dimension, params[dimension.key]) for dimension in space.dimensions}


def from_drawn(space: SearchSpace, drawn: Mapping[str, Any]) -> dict[str, ParamValue]:
    """Convert what samplers draw to real values; the inverse of `to_drawn`."""
    return {dimension.key: _from_drawn(dimension, drawn[dimension.key]) for dimension in space.dimensions}


def drawn_value(dimension: Dimension, drawn: Mapping[str, Any]) -> ParamValue:
    """Return the real value of one dimension, of what samplers draw."""
    return _from_drawn(dimension, drawn[dimension.key])


def shown_distributions(space: SearchSpace) -> dict[str, _Distribution]:
    """Return the distributions of what the study database shows, by dotted key."""
    return {dimension.key: _real(dimension) for dimension in space.dimensions}


def to_shown(space: SearchSpace, params: Mapping[str, ParamValue]) -> dict[str, Any]:
    """Convert real values to what the study database shows: the same values, of the types of its distributions."""
    return {dimension.key: _to_shown(dimension, params[dimension.key]) for dimension in space.dimensions}


def from_shown(space: SearchSpace, shown: Mapping[str, Any]) -> dict[str, ParamValue]:
    """Convert what the study database shows to real values; the inverse of `to_shown`."""
    return {dimension.key: _from_shown(dimension, shown[dimension.key]) for dimension in space.dimensions}


def _real(dimension: Dimension) -> _Distribution:
    """Return the distribution of a dimension's real values."""
    if dimension.scale is Scale.CATEGORICAL:
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    if dimension.scale is Scale.ORDERED:
        low, high, is_log = float(dimension.choices[0]), float(dimension.choices[-1]), _is_geometric(dimension)
    else:
        low, high, is_log = dimension.low, dimension.high, dimension.scale in (Scale.LOG, Scale.LOG2)
    if _is_integer(dimension):
        return optuna.distributions.IntDistribution(round(low), round(high), log=is_log)
    return optuna.distributions.FloatDistribution(low, high, log=is_log)


def _is_integer(dimension: Dimension) -> bool:
    if dimension.scale is Scale.ORDERED:
        return all(isinstance(choice, int) for choice in dimension.choices)
    return dimension.is_integer


def _is_geometric(dimension: Dimension) -> bool:
    """Whether ordered choices are more evenly spaced by ratios than by differences, e.g. 4, 8, 16 but not 1, 2, 3."""
    choices = [float(choice) for choice in dimension.choices]
    num_gaps = len(choices) - 1
    if choices[0] <= 0 or num_gaps < 2:  # noqa: PLR2004  two choices are evenly spaced either way
        return False
    gaps = [after - before for before, after in pairwise(choices)]
    ratios = [math.log(after / before) for before, after in pairwise(choices)]
    return max(ratios) / min(ratios) < max(gaps) / min(gaps)


def _to_drawn(dimension: Dimension, value: ParamValue) -> Any:
    if dimension.scale is Scale.LOG2:
        return round(math.log2(float(value)))
    if dimension.scale is Scale.ORDERED:
        return dimension.choices.index(value)
    return value


def _from_drawn(dimension: Dimension, value: Any) -> ParamValue:
    if dimension.scale is Scale.LOG2:
        return dimension.power(int(value))
    if dimension.scale is Scale.ORDERED:
        return dimension.choices[int(value)]
    return value  # type: ignore[no-any-return]


def _to_shown(dimension: Dimension, value: ParamValue) -> Any:
    if dimension.scale is Scale.CATEGORICAL:
        return value
    return int(value) if _is_integer(dimension) else float(value)


def _from_shown(dimension: Dimension, value: Any) -> ParamValue:
    if dimension.scale is Scale.ORDERED:
        # The choice itself, since a database server may round and 1 may be a choice among fractions.
        return next((c for c in dimension.choices if math.isclose(float(c), value, rel_tol=1e-9)), value)
    return value  # type: ignore[no-any-return]
