"""Reads a dimension of the search space from Hydra's sweep grammar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import SpaceError

__all__ = ["parse_dimension", "parse_space"]

_SCALES = {frozenset(): Scale.LINEAR, frozenset({"log"}): Scale.LOG, frozenset({"log2"}): Scale.LOG2}
"""Scales by the tags of an interval."""


def parse_space(texts: Mapping[str, str | None]) -> SearchSpace:
    """Return the search space.

    Args:
        texts: Dimensions in Hydra's sweep grammar, by dotted key; None removes the dimension.

    Raises:
        SpaceError: A text does not follow the grammar, a key cannot be searched, or no dimension is left.
    """
    return SearchSpace(tuple(parse_dimension(key, text) for key, text in texts.items() if text is not None))


def parse_dimension(key: str, text: str) -> Dimension:
    """Return the dimension that ``key=text`` describes.

    Args:
        key: Dotted key, e.g. ``lora.r``.
        text: ``choice(...)``, ``range(...)`` or ``interval(...)``; a ``tag`` sets the scale of an interval.

    Raises:
        SpaceError: The text does not follow the grammar, or the key cannot be searched.
    """
    try:
        value = OverridesParser.create().parse_override(f"{key}={text}").value()
    except HydraException as error:
        raise SpaceError(key, text, "this is not Hydra's sweep grammar", str(error).splitlines()[0]) from error
    if isinstance(value, ChoiceSweep | RangeSweep):
        items = value.list if isinstance(value, ChoiceSweep) else value.range()
        return _choices(key, text, [_scalar(key, text, item) for item in items])
    if isinstance(value, IntervalSweep):
        tags = frozenset(value.tags)
        if tags not in _SCALES:
            remedy = f"Use tag(log,...) or tag(log2,...), not {', '.join(sorted(tags))}."
            raise SpaceError(key, text, "a scale is log or log2", remedy)
        low, high = float(value.start or 0), float(value.end or 0)
        return Dimension(key=key, text=text, scale=_SCALES[tags], low=low, high=high)
    raise SpaceError(key, text, "this is one value, not a dimension", "Use choice(...), interval(...) or range(...).")


def _choices(key: str, text: str, values: list[ParamValue]) -> Dimension:
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    scale = Scale.ORDERED if are_numbers else Scale.CATEGORICAL
    ordered = sorted(values, key=float) if are_numbers else values
    return Dimension(key=key, text=text, scale=scale, choices=tuple(ordered))


def _scalar(key: str, text: str, value: Any) -> ParamValue:
    item = getattr(value, "text", value)
    if isinstance(item, bool | int | float | str):
        return item
    raise SpaceError(key, text, "a choice is a number, a word, true or false", "Write e.g. choice(4,8,16).")
