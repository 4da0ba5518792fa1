"""The search space: which hyperparameters vary, over which values, on which scale.

Depends on neither Hydra (`dimensions` parses its grammar) nor Optuna (`search` samples). A dimension maps the unit
interval to values and back, so Sobol points, grids and the distance of a result to the bounds need no sampler.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.config.keys import find_key, searchable_keys
from sweeper.config.values import ParamValue
from sweeper.errors import SpaceError

__all__ = ["EPOCHS", "Dimension", "Scale", "SearchSpace"]

EPOCHS = "train.epochs"
"""The dimension that makes trials differ in length."""


class Scale(enum.StrEnum):
    """How a dimension's values are spaced."""

    LINEAR = "linear"
    LOG = "log"
    LOG2 = "log2"
    """Powers of two; the sampler sees the exponent, an integer."""
    ORDERED = "ordered"
    """A list of numbers; the sampler sees the index."""
    CATEGORICAL = "categorical"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """One hyperparameter that varies.

    Args:
        key: Dotted key.
        scale: How values are spaced.
        text: The dimension as the user wrote it.
        low: Lowest value of an interval.
        high: Highest value of an interval.
        choices: The values of a list, ascending if ordered; empty for an interval.

    Raises:
        SpaceError: The key cannot be searched, or a value is not allowed.
    """

    key: str
    scale: Scale
    text: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[ParamValue, ...] = ()

    def __post_init__(self) -> None:
        if self.key not in searchable_keys():
            remedy = f"Searchable keys are: {', '.join(searchable_keys())}."
            raise SpaceError(self.key, self.text, "this key cannot be searched", remedy)
        if self.choices:
            self._check_choices()
        else:
            self._check_interval()

    @property
    def is_integer(self) -> bool:
        """Whether values are integers."""
        return find_key(self.key).is_integer

    @property
    def num_values(self) -> int | None:
        """How many values there are; None for a continuous dimension."""
        if self.choices:
            return len(self.choices)
        if self.scale is Scale.LOG2:
            return self.exponents[1] - self.exponents[0] + 1
        return int(self.high - self.low) + 1 if self.is_integer else None

    @property
    def exponents(self) -> tuple[int, int]:
        """Lowest and highest exponent of a LOG2 dimension."""
        return round(math.log2(self.low)), round(math.log2(self.high))

    @property
    def lowest(self) -> float:
        """The lowest number of a numeric dimension."""
        return float(self.choices[0]) if self.choices else self.low

    @property
    def highest(self) -> float:
        """The highest number of a numeric dimension."""
        return float(self.choices[-1]) if self.choices else self.high

    @property
    def is_ratio_scaled(self) -> bool:
        """Whether models see equal ratios as equal steps: on logarithmic scales, and of numbers of epochs on any.

        From one epoch to two is as far as from two to four, however the values are drawn.
        """
        return self.scale in (Scale.LOG, Scale.LOG2) or self.key == EPOCHS

    def at(self, unit: float) -> ParamValue:
        """Return the value at ``unit`` in [0, 1); every discrete value gets an equal share."""
        if self.choices:
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if self.scale is Scale.LOG2:
            first, last = self.exponents
            return self.power(min(first + int(unit * (last - first + 1)), last))
        # An integer covers all that rounds to it, so the bounds get an equal share, too.
        half = 0.5 if self.is_integer else 0.0
        low, high = self.low - half, self.high + half
        if self.scale is Scale.LOG:
            value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
        else:
            value = low + unit * (high - low)
        value = min(max(math.floor(value + half) if self.is_integer else value, self.low), self.high)
        return int(value) if self.is_integer else value

    def power(self, exponent: int) -> ParamValue:
        """Return the value of a LOG2 dimension with an exponent."""
        value = 2.0**exponent
        return int(value) if self.is_integer else value

    def position(self, value: ParamValue) -> float:
        """Return the ``unit`` in [0, 1) at which `at` returns ``value``; the middle of those of a discrete value."""
        number = 0.0 if isinstance(value, str) else float(value)
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        if self.scale is Scale.LOG2:
            first, last = self.exponents
            return (round(math.log2(number)) - first + 0.5) / (last - first + 1)
        half = 0.5 if self.is_integer else 0.0
        low, high = self.low - half, self.high + half
        if self.scale is Scale.LOG:
            found = math.log(number / low) / math.log(high / low)
        else:
            found = (number - low) / (high - low)
        return min(max(found, 0.0), 1 - 1e-9)

    def unit(self, value: ParamValue) -> float:
        """Return the position of ``value`` in [0, 1], where 0 and 1 are the bounds; 0.5 for a category."""
        if self.scale is Scale.CATEGORICAL:
            return 0.5
        number = float(value)
        if self.is_ratio_scaled and self.lowest < self.highest:
            return math.log(number / self.lowest) / math.log(self.highest / self.lowest)
        if self.choices:
            last = len(self.choices) - 1
            return self.choices.index(value) / last if last else 0.5
        if self.low == self.high:
            return 0.5
        return (number - self.low) / (self.high - self.low)

    def contains(self, value: ParamValue) -> bool:
        """Whether the dimension can take ``value``."""
        if self.choices:
            return value in self.choices
        if isinstance(value, str) or not self.low <= value <= self.high:
            return False
        if self.scale is Scale.LOG2:
            return bool(float(value) == 2 ** round(math.log2(value)))
        return not self.is_integer or float(value).is_integer()

    def _check_choices(self) -> None:
        if len(set(self.choices)) != len(self.choices):
            raise SpaceError(self.key, self.text, "a choice is repeated", "List each value once.")
        for value in self.choices:
            find_key(self.key).as_dimension.check(value, shown=self.text, error=SpaceError)

    def _check_interval(self) -> None:
        if find_key(self.key).takes_choices_only:
            raise SpaceError(self.key, self.text, "this key only takes choices", f"Write {self.key}=choice(...).")
        if not self.low < self.high:
            raise SpaceError(self.key, self.text, "the lower bound must be below the upper", "Swap or widen them.")
        for bound in (self.low, self.high):
            find_key(self.key).as_dimension.check(bound, shown=self.text, error=SpaceError)
        if self.scale in (Scale.LOG, Scale.LOG2) and self.low <= 0:
            raise SpaceError(
                self.key, self.text, "a logarithmic interval must start above 0", "Raise the lower bound, e.g. to 1e-4."
            )
        if self.scale is Scale.LOG2 and any(2 ** round(math.log2(b)) != b for b in (self.low, self.high)):
            raise SpaceError(
                self.key, self.text, "log2 bounds must be powers of two", "Write e.g. tag(log2,interval(1,64))."
            )


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The dimensions of a search, by key."""

    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        if not self.dimensions:
            raise SpaceError("space", "", "there is no dimension", "Add at least one, e.g. lora.r=choice(4,8,16).")

    def __len__(self) -> int:
        return len(self.dimensions)

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys that vary."""
        return tuple(dimension.key for dimension in self.dimensions)

    @property
    def texts(self) -> dict[str, str]:
        """The dimensions as the user wrote them, by key."""
        return {dimension.key: dimension.text for dimension in self.dimensions}

    def point(self, units: tuple[float, ...]) -> dict[str, ParamValue]:
        """Return the configuration at a point of the unit cube."""
        return {d.key: d.at(unit) for d, unit in zip(self.dimensions, units, strict=True)}

    def dimension(self, key: str) -> Dimension | None:
        """Return the dimension of a key; None if it does not vary."""
        return next((dimension for dimension in self.dimensions if dimension.key == key), None)

    def contains(self, params: Mapping[str, ParamValue]) -> bool:
        """Whether ``params`` gives each dimension a value that it can take."""
        return set(params) == set(self.keys) and all(d.contains(params[d.key]) for d in self.dimensions)

    def at_bounds(self, params: Mapping[str, ParamValue], tolerance: float = 0.02) -> dict[str, str]:
        """Return the bounds that a configuration lies at: the space may be too small there.

        Args:
            params: A configuration of this space.
            tolerance: Share of the dimension's width that counts as at the bound.

        Returns:
            ``low`` or ``high``, by dotted key; without the dimensions that are at neither bound.
        """
        found = {}
        for dimension in self.dimensions:
            unit = dimension.unit(params[dimension.key])
            if unit <= tolerance:
                found[dimension.key] = "low"
            elif unit >= 1 - tolerance:
                found[dimension.key] = "high"
        return found
