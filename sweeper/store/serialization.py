"""Converts core dataclasses to JSON files and back, by their type hints, with a schema version."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from sweeper.errors import DamagedFile, StoreError

__all__ = ["SCHEMA_VERSION", "from_bytes", "from_jsonable", "to_bytes", "to_jsonable"]

SCHEMA_VERSION = 2
"""Version of every record in a sweep's folder; raised when records of the version before can no longer be read."""
_VERSION_KEY = "schema_version"
T = TypeVar("T")


def to_bytes(value: Any) -> bytes:
    """Return the JSON file of a record, which is a dataclass or a mapping."""
    return json.dumps({_VERSION_KEY: SCHEMA_VERSION, **to_jsonable(value)}, indent=1).encode()


def from_bytes(kind: type[T], content: bytes, *, name: str, remedy: str = "") -> T:
    """Rebuild a record from the output of `to_bytes`.

    Args:
        kind: Type of the record.
        content: Content of the file.
        name: Name of the file, for errors.
        remedy: What the user can do if it is damaged, for errors.

    Raises:
        DamagedFile: The content is damaged.
        StoreError: It has another schema version.
    """
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise DamagedFile(f"{name} cannot be read ({error}). {remedy}".strip()) from error
    version = fields.pop(_VERSION_KEY, None) if isinstance(fields, dict) else None
    if not isinstance(version, int):
        raise DamagedFile(f"{name} is damaged (it has no {_VERSION_KEY}). {remedy}".strip())
    if version != SCHEMA_VERSION:
        age = "an earlier" if version < SCHEMA_VERSION else "a later"
        raise StoreError(
            f"{name} was written by {age} version of sweeper ({_VERSION_KEY}={version}; this version reads "
            f"{SCHEMA_VERSION}). Use a new sweep name, e.g. name=second"
        )
    try:
        record: T = from_jsonable(kind, fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFile(f"{name} is damaged ({error!r}). {remedy}".strip()) from error
    return record


def to_jsonable(value: Any) -> Any:
    """Convert a core value to dictionaries, lists and scalars; the inverse of `from_jsonable`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_jsonable(v) for v in value]
    return value


def from_jsonable(kind: Any, value: Any) -> Any:
    """Rebuild a value of type ``kind`` from the output of `to_jsonable`."""
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
