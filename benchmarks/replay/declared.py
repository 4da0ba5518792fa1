"""A search space as every library can declare it: floats and integers, on a linear or log scale, and choices.

A power of two is declared by its exponent, as somebody would who knows their library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sweeper.config.keys import find_key
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue

__all__ = ["declare", "default_recipe", "to_params", "to_values"]

_RECIPES = Path(__file__).resolve().parents[2] / "conf" / "recipes" / "encoder.yaml"

Declaration = dict[str, Any]


def declare(space: SearchSpace) -> list[Declaration]:
    """Return the declarations of a space, in JSON's types."""
    return [_declare(dimension) for dimension in space.dimensions]


def to_params(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, ParamValue]:
    """Return the configuration that declared values stand for."""
    return {d.key: _to_param(d, values[d.key]) for d in space.dimensions}


def to_values(space: SearchSpace, params: Mapping[str, ParamValue]) -> dict[str, Any]:
    """Return the declared values of a configuration."""
    return {d.key: _to_value(d, params[d.key]) for d in space.dimensions}


def default_recipe(space: SearchSpace) -> dict[str, ParamValue]:
    """Return the default recipe, moved to the nearest point of the space."""
    recipe = yaml.safe_load(_RECIPES.read_text(encoding="utf-8"))["recipes"][0]["params"]
    return {d.key: _nearest(d, recipe.get(d.key, find_key(d.key).default)) for d in space.dimensions}


def _declare(dimension: Dimension) -> Declaration:
    if dimension.choices:
        return {"key": dimension.key, "kind": "choice", "choices": list(dimension.choices)}
    if dimension.scale is Scale.LOG2:
        first, last = dimension.exponents
        return {"key": dimension.key, "kind": "int", "low": first, "high": last, "log": False}
    bounds = (dimension.low, dimension.high)
    low, high = (round(bound) if dimension.is_integer else bound for bound in bounds)
    kind = "int" if dimension.is_integer else "float"
    return {"key": dimension.key, "kind": kind, "low": low, "high": high, "log": dimension.scale is Scale.LOG}


def _to_param(dimension: Dimension, value: Any) -> ParamValue:
    if dimension.choices:
        return next(choice for choice in dimension.choices if choice == value)
    if dimension.scale is Scale.LOG2:
        return int(2 ** int(value))
    # A library's logarithm may leave the bounds by a rounding error.
    number = min(max(float(value), dimension.low), dimension.high)
    return round(number) if dimension.is_integer else number


def _to_value(dimension: Dimension, value: ParamValue) -> Any:
    return round(math.log2(float(value))) if dimension.scale is Scale.LOG2 else value


def _nearest(dimension: Dimension, value: Any) -> ParamValue:
    if dimension.scale is Scale.CATEGORICAL:
        return next((c for c in dimension.choices if str(c) == str(value)), dimension.choices[0])
    if dimension.choices:
        return min(dimension.choices, key=lambda choice: abs(float(choice) - float(value)))
    if dimension.scale is Scale.LOG2:
        low, high = dimension.exponents
        return int(2 ** min(max(round(math.log2(float(value))), low), high))
    number = min(max(float(value), dimension.low), dimension.high)
    return round(number) if dimension.is_integer else number
