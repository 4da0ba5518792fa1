"""Core dataclasses to JSON and back, by their type hints."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

__all__ = ["SCHEMA_VERSION", "T", "from_jsonable", "to_jsonable"]

SCHEMA_VERSION = 1
T = TypeVar("T")


def to_jsonable(value: Any) -> Any:
    """Turn a core value into dicts, lists and scalars; the inverse of `from_jsonable`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_jsonable(v) for v in value]
    return value


def from_jsonable(kind: Any, value: Any) -> Any:
    """Rebuild a value of type ``kind`` from what `to_jsonable` made of it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _from_union(args, value)
    if dataclasses.is_dataclass(kind):
        hints = _hints(cast("type", kind))
        return kind(**{name: from_jsonable(hints[name], item) for name, item in value.items()})  # type: ignore[operator]
    if origin in (tuple, list):
        return origin(from_jsonable(args[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {from_jsonable(args[0], k): from_jsonable(args[1], v) for k, v in value.items()}
    if kind in (int, float) or (isinstance(kind, type) and issubclass(kind, str) and kind is not str):
        return kind(value)
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _from_union(args: tuple[Any, ...], value: Any) -> Any:
    if value is None:
        return None
    dataclass_args = [arg for arg in args if dataclasses.is_dataclass(arg)]
    return from_jsonable(dataclass_args[0], value) if dataclass_args else value
