"""Finds the module that a setting names, such as ``model.source`` or ``task.name``.

A module of the package is a choice if it has certain attributes, so a new choice is a new file that need not be
registered. `sweeper.data`, `sweeper.models` and `sweeper.tasks` use this.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection
from types import ModuleType

from sweeper.errors import ConfigError, did_you_mean

__all__ = ["choices_of", "find_module"]


def find_module(package: str, name: str, *, attributes: Collection[str], key: str) -> ModuleType:
    """Return the module of a package that a setting names.

    Unless the name is wrong, no other module is imported: some import torch.

    Args:
        package: Full name of the package.
        name: Value of the setting.
        attributes: Attributes that a module needs to be a choice.
        key: Dotted key of the setting, for the error message.

    Raises:
        ConfigError: The package has no such module, or the module is not a choice.
    """
    if name in _module_names(package):
        module = importlib.import_module(f"{package}.{name}")
        if all(hasattr(module, attribute) for attribute in attributes):
            return module
    known = choices_of(package, attributes)
    raise ConfigError(
        key, name, f"must be one of {', '.join(known)}", did_you_mean(name, known) or "Choose one of these."
    )


def choices_of(package: str, attributes: Collection[str]) -> list[str]:
    """Return the names of the modules of a package that have all the attributes; imports every module."""
    modules = {name: importlib.import_module(f"{package}.{name}") for name in _module_names(package)}
    return [name for name, module in modules.items() if all(hasattr(module, attribute) for attribute in attributes)]


def _module_names(package: str) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
