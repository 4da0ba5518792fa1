"""The settings that a sweep was started with, for commands that name a sweep, with the sections that these may change.

`confirm` and `final` call it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sweeper.config.checks import check_settings
from sweeper.config.compose import compose
from sweeper.config.dimensions import parse_space
from sweeper.config.settings import NotifySettings, SweepSettings
from sweeper.config.trust import check_remote_code
from sweeper.errors import SweeperError
from sweeper.store.serialization import from_jsonable
from sweeper.store.trials import TrialStore

__all__ = ["check_sections", "stored_settings", "with_sections"]


def stored_settings(store: TrialStore) -> SweepSettings:
    """Return the settings of a sweep on disk.

    Raises:
        ConfigError: They ask for code of the model that the user has not confirmed.
    """
    settings: SweepSettings = from_jsonable(SweepSettings, store.read_sweep()["settings"])
    check_remote_code(settings.model, source="the sweep on disk")
    # The outputs folder may have been moved since the sweep started. The addresses on disk are masked, so nobody can be
    # notified without new ones.
    return dataclasses.replace(settings, name=store.root.name, outputs=str(store.root.parent), notify=NotifySettings())


def check_sections(overrides: Sequence[str], *, allowed: Sequence[str], command: str) -> None:
    """Check that overrides are of sections that may differ from those of the sweep.

    Args:
        overrides: Hydra overrides.
        allowed: These sections.
        command: Name of the command, for the error.

    Raises:
        SweeperError: One is not.
    """
    for key, _, value in (override.partition("=") for override in overrides):
        if key == "outputs":
            raise SweeperError(f"outputs={value}: `sweeper {command}` takes it as an option: --outputs {value}")
        if (section := key.partition(".")[0]) not in allowed:
            raise SweeperError(
                f"{section} is part of the sweep, so `sweeper {command}` cannot change it; it takes overrides of "
                f"{', '.join(allowed)}"
            )


def with_sections(settings: SweepSettings, overrides: Sequence[str], *, config_dir: Path | None) -> SweepSettings:
    """Return settings with the sections that the overrides name.

    Args:
        settings: Settings of the sweep.
        overrides: Hydra overrides; see `check_sections`.
        config_dir: A folder with more YAML files, laid out like conf/.

    Raises:
        ConfigError: A value is wrong.
    """
    if not overrides:
        return settings
    keys = [override.partition("=")[0] for override in overrides]
    sections = {key.partition(".")[0] for key in keys}
    given = compose(overrides, config_dir=config_dir).settings
    for section in sections:
        fields = {key.partition(".")[2] for key in keys if key.partition(".")[0] == section}
        # A preset, such as executor=inline, replaces the section; a single key changes only itself.
        own = getattr(given, section)
        if "" not in fields:
            own = dataclasses.replace(getattr(settings, section), **{field: getattr(own, field) for field in fields})
        settings = dataclasses.replace(settings, **{section: own})
    check_settings(settings, parse_space(settings.space.dimensions))
    return settings
