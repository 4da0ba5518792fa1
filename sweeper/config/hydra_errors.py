"""Translates errors of Hydra and OmegaConf into a `ConfigError` with key, value, rule and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from omegaconf.errors import OmegaConfBaseException, ValidationError

from sweeper.config.keys import all_keys
from sweeper.config.overrides import SECRET, described_key, near_key, pattern_of, shown_override
from sweeper.errors import ConfigError, did_you_mean

__all__ = ["translate_error", "translate_unresolved"]

_MAY_BE_NULL = ("experiment", "debug")
"""Groups for which no option need be chosen."""
_HIDDEN_RULE = "the value is not valid"
"""Instead of a message that would quote a notification address."""
_NOT_CHOSEN = ("not in struct", "Could not override", "is not a subclass of DatasetSettings")
"""OmegaConf's messages about keys of a dataset that was not chosen."""


def translate_error(
    error: Exception, overrides: Sequence[str], options_of: Callable[[str], Sequence[str]]
) -> ConfigError:
    """Return a `ConfigError` that names the mistake and its remedy.

    Args:
        error: The error that Hydra or OmegaConf raised.
        overrides: The overrides that were composed.
        options_of: Returns the options of a group, e.g. the datasets; nothing for a key that is not a group.
    """
    causes = [error]
    while causes[-1].__cause__ is not None and isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    message = " ".join(str(cause) for cause in causes)
    for text in map(shown_override, overrides):
        key, _, value = text.partition("=")
        options = options_of(key)
        if options and value == "null" and key not in _MAY_BE_NULL:
            return ConfigError(key, value, f"a {key} is needed", f"Choose one of: {', '.join(options)}.")
        if options and f"'{key}/" in message:
            wrong = [item for item in re.split(r"[\[\],\s]+", value) if item and item not in options]
            if wrong:
                remedy = did_you_mean(wrong[0], options) or f"Choose one of: {', '.join(options)}."
                return ConfigError(key, value, f"there is no {key} '{wrong[0]}'", remedy)
        if not options and re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", message):
            return _key_error(key, value, str(causes[-1]))
    shown = " ".join(map(shown_override, overrides))
    in_file = re.search(r"In '([^']+)'.*\n(.+)\n\s+full_key: (\S+)", message)
    if in_file:
        rule = _HIDDEN_RULE if _is_notification(in_file[3]) else in_file[2]
        return ConfigError(in_file[3], shown, rule, f"Check {in_file[1]}.yaml.")
    rule = _HIDDEN_RULE if f"={SECRET}" in shown else str(error).splitlines()[0].rstrip(".")
    return ConfigError("configuration", shown, rule, "Check the overrides.")


def translate_unresolved(error: OmegaConfBaseException) -> ConfigError:
    """Return a `ConfigError` for a value of the composed configuration that is missing or cannot be resolved."""
    key = str(error.full_key or "")
    quotes_address = _is_notification(key) and isinstance(error, ValidationError)
    rule = _HIDDEN_RULE if quotes_address else str(error.msg or error).splitlines()[0]
    return ConfigError(key, "", rule, "See `sweeper config --help-keys`.")


def _is_notification(key: str) -> bool:
    return key.partition(".")[0] == "notify"


def _key_error(name: str, value: str, message: str) -> ConfigError:
    key = described_key(name)
    if key is None:
        dataset = name.split(".")[1] if "." in name else "<name>"
        near = near_key(pattern_of(name), all_keys()).replace("<name>", dataset)
        return ConfigError(name, value, "there is no such key", near or "`sweeper config --help-keys` lists all keys.")
    rule = _HIDDEN_RULE if value == SECRET else message.splitlines()[0].rstrip(".")
    if "not Optional" in message:
        rule = "a value is needed"
    elif any(part in message for part in _NOT_CHOSEN):
        rule = "this dataset is not one of those chosen"
    return ConfigError(name, value, rule, key.doc)
