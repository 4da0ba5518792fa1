"""Reads overrides as the user typed them: those that set a value, and those that add a search dimension."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from sweeper.config.keys import Key, all_keys, searchable_keys
from sweeper.errors import ConfigError, SpaceError, did_you_mean
from sweeper.urls import redact_urls

__all__ = ["SECRET", "described_key", "keys_set_by", "near_key", "pattern_of", "shown_override", "split_overrides"]

SECRET = "***"  # noqa: S105 - a placeholder
_ALIASES = {
    "lr": "train.learning_rate",
    "rank": "lora.r",
    "alpha": "lora.alpha_ratio",
    "lora_alpha": "lora.alpha_ratio",
}
"""Names of our keys in other libraries, for suggestions."""


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split overrides into plain ones and search dimensions; the last override of a key wins.

    Returns:
        The overrides for Hydra to compose, and the dimensions by key, in Hydra's sweep grammar.

    Raises:
        ConfigError: A text is not an override, or not one that sweeper supports.
        SpaceError: A key has several values but cannot be searched.
    """
    plain: list[str] = []
    dimensions: dict[str, str] = {}
    for text in overrides:
        override, value = _parse_supported(text), text.partition("=")[2]
        key = override.key_or_group
        if not override.is_sweep_override():
            dimensions.pop(key, None)
            plain.append(text)
        elif key == "dataset":
            plain.append(f"dataset=[{value}]")
        elif key in searchable_keys():
            dimensions[key] = value
        else:
            near = "" if key in all_keys() else near_key(key, searchable_keys())
            remedy = near or f"Searchable keys are: {', '.join(searchable_keys())}."
            raise SpaceError(key, value, "this key cannot be searched", remedy)
    return plain, dimensions


def keys_set_by(text: str) -> list[str]:
    """Return the dotted keys that a plain override sets; ``lora={r: 4, dropout: 0}`` sets two."""
    override = _parse(text)
    key, value = override.key_or_group, override.value()
    return [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]


def described_key(name: str) -> Key | None:
    """Return the documented key of this name, or the mapping that has it as an entry; None if there is neither."""
    known, pattern = all_keys(), pattern_of(name)
    parent = known.get(pattern.rpartition(".")[0])
    return known.get(pattern) or (parent if parent is not None and parent.kind.startswith("dict[str, str]") else None)


def shown_override(text: str) -> str:
    """Return an override as error messages may quote it: without passwords, and without notification URLs."""
    key, _, value = text.partition("=")
    section, _, field = key.lstrip("+~'\"").partition(".")
    is_address = section == "notify" and (field or "://" in value)
    return f"{key}={SECRET}" if is_address else redact_urls(text)


def pattern_of(name: str) -> str:
    """Return the documented form of a key, e.g. ``dataset.<name>.path`` for ``dataset.trec.path``."""
    return re.sub(r"^dataset\.[^.]+\.", "dataset.<name>.", name)


def near_key(name: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean ...?"`` for a misspelt key or one of another library; empty without a match."""
    other = _ALIASES.get(name.rpartition(".")[2])
    return f"Did you mean '{other}'?" if other else did_you_mean(name, known)


def _parse_supported(text: str) -> Override:
    """Parse an override; reject added or deleted keys and Hydra's own settings, which sweeper does not support."""
    override = _parse(text)
    key, value = override.key_or_group, shown_override(text).partition("=")[2]
    if override.type is not OverrideType.CHANGE:
        rule = "keys can be changed, not added or deleted"
        raise ConfigError(text.partition("=")[0], value, rule, near_key(key, all_keys()) or f"Write {key}=value.")
    if key.partition(".")[0] == "hydra":
        remedy = "To add YAML files, pass their folder with --config-dir."
        raise ConfigError(key, value, "Hydra's own settings have no effect here", remedy)
    return override


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        shown = shown_override(text)
        key, _, value = shown.partition("=")
        # The parser quotes pieces of the text, in which a password can no longer be recognised.
        cause = "" if shown != text else f" ({str(error).splitlines()[0]})"
        remedy = "Write key=value, e.g. budget.trials=40; quote values that contain spaces or brackets."
        raise ConfigError(key, value, f"this is not an override{cause}", remedy) from None
