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

__all__ = ["stored_settings", "with_sections"]


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


def with_sections(
    settings: SweepSettings,
    overrides: Sequence[str],
    *,
    allowed: Sequence[str],
    command: str,
    config_dir: Path | None,
) -> SweepSettings:
    """Return settings with the sections that the overrides name.

    Args:
        settings: Settings of the sweep.
        overrides: Hydra overrides.
        allowed: Sections that may differ from those of the sweep.
        command: Name of the command, for the error.
        config_dir: A folder with more YAML files, laid out like conf/.

    Raises:
        SweeperError: An override is of another section.
        ConfigError: A value is wrong.
    """
    keys = [override.partition("=")[0] for override in overrides]
    sections = {key.partition(".")[0] for key in keys}
    if others := sorted(sections - set(allowed)):
        raise SweeperError(
            f"{others[0]} is part of the sweep, so `sweeper {command}` cannot change it; it takes overrides of "
            f"{', '.join(allowed)}"
        )
    if not overrides:
        return settings
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
