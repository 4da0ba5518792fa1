"""The meaning and the allowed values of every key, read from the dataclasses of `settings`.

One `Key` serves the check of values, ``sweeper config --help-keys`` and the error messages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, get_args, get_type_hints

from sweeper.config.settings import Recipe, SweepSettings
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError, did_you_mean

__all__ = ["Key", "all_keys", "find_key", "searchable_keys"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A documented key with its rules."""

    name: str
    """Dotted name, in which ``<name>`` stands for the name of a dataset."""
    kind: str
    """Its type as text, e.g. ``float`` or ``list[str]``."""
    default: str
    doc: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None
    is_searchable: bool = False
    searched_from: float | None = None
    """Lower bound of a dimension, where a lower value means that the value is chosen."""

    @property
    def as_dimension(self) -> Key:
        """The rules for the values of a dimension."""
        return self if self.searched_from is None else replace(self, at_least=self.searched_from)

    @property
    def is_integer(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind == "int"

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, true and false excluded."""
        return self.kind in ("int", "float")

    @property
    def takes_choices_only(self) -> bool:
        """Whether a search can only choose from a list of its values."""
        return not self.is_number

    @property
    def rule(self) -> str:
        """The allowed values, to complete "must be ..."; empty if any value is allowed."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind == "bool":
            return "true or false"
        noun = "a whole number" if self.is_integer else "a number"
        low = "" if self.at_least is None else _shown(self.at_least)
        if self.at_most is not None:
            return f"{noun} from {low} to {_shown(self.at_most)}"
        if self.below is not None:
            return f"{noun} of at least {low} and below {_shown(self.below)}"
        return f"{noun} of at least {low}" if low else ""

    @property
    def help(self) -> str:
        """Its documentation, followed by its rule."""
        return f"{self.doc} Must be {self.rule}." if self.rule and self.kind != "bool" else self.doc

    def allows(self, value: object) -> bool:
        """Whether ``value`` follows the rules."""
        if self.choices:
            return value in self.choices
        if self.kind == "bool":
            return isinstance(value, bool)
        if not self.is_number:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        is_whole = not self.is_integer or float(value).is_integer()
        is_high = self.at_least is None or value >= self.at_least
        is_low = (self.at_most is None or value <= self.at_most) and (self.below is None or value < self.below)
        return is_whole and is_high and is_low

    def check(
        self, value: object, *, shown: object = None, key: str = "", error: type[ConfigError] = ConfigError
    ) -> None:
        """Check a value.

        Args:
            value: The value.
            shown: The text that the error quotes instead, e.g. the dimension with the value; ``value`` if None.
            key: The key as the user writes it, e.g. ``dataset.trec.seed``; `name` if empty.
            error: Class of the error.

        Raises:
            ConfigError: The value breaks a rule.
        """
        if self.allows(value):
            return
        given = value if shown is None else shown
        found = f", not {value!r}" if shown is not None and shown != value else ""
        remedy = did_you_mean(str(value), self.choices) or self.doc
        raise error(key or self.name, given, f"must be {self.rule}{found}", remedy)

    def cast(self, value: ParamValue) -> ParamValue:
        """Return an equal value of the key's type: 8 for 8.0 if it is an int, 1.0 for 1 if a float."""
        if self.is_integer:
            return int(value)
        return float(value) if self.kind == "float" else value


@cache
def all_keys() -> Mapping[str, Key]:
    """Return every key by its dotted name."""
    return _keys_of(SweepSettings, "")


def searchable_keys() -> tuple[str, ...]:
    """Return the dotted keys that may be dimensions of a search space."""
    return tuple(key.name for key in all_keys().values() if key.is_searchable)


def find_key(name: str) -> Key:
    """Return a key by its dotted name.

    Raises:
        KeyError: There is no such key.
    """
    return all_keys()[name]


def _shown(bound: float) -> str:
    """Return a bound in full: ``{:g}`` would round 4294967295."""
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


def _keys_of(kind: type, prefix: str) -> dict[str, Key]:
    found: dict[str, Key] = {}
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        inner = next((arg for arg in (*get_args(hint), hint) if is_dataclass(arg) and arg is not Recipe), None)
        if inner is None:
            found[f"{prefix}{entry.name}"] = _key(f"{prefix}{entry.name}", entry, hint)
        else:
            name = entry.name if inner is hint else f"{entry.name}.<name>"
            found |= _keys_of(inner, f"{prefix}{name}.")  # type: ignore[arg-type]
    return found


def _key(name: str, entry: Field[Any], hint: Any) -> Key:
    default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    rules = dict(entry.metadata)
    is_searchable = rules.pop("searchable")
    return Key(name=name, kind=kind, default=str(default), is_searchable=is_searchable, **rules)
