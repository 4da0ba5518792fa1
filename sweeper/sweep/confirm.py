"""Confirms the best configurations of a sweep that has been searched before. `cli` calls it.

The sweep's stored settings are used, so the command needs only its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sweeper.config.checks import check_settings
from sweeper.config.compose import SweepConfig, compose
from sweeper.config.dimensions import parse_space
from sweeper.config.settings import ConfirmSettings, NotifySettings, SweepSettings
from sweeper.config.trust import check_remote_code
from sweeper.errors import SweeperError
from sweeper.store.discovery import find_sweep
from sweeper.store.serialization import from_jsonable
from sweeper.store.trials import TrialStore
from sweeper.sweep.run import SweepOutcome, run_config

__all__ = ["confirm_sweep"]

_SECTIONS = ("confirm", "budget", "executor", "notify")
"""Sections that may differ from those of the sweep."""


def confirm_sweep(
    sweep: str, overrides: Sequence[str], *, outputs: Path, console: Console, config_dir: Path | None = None
) -> SweepOutcome:
    """Confirm the best configurations of a sweep, or go on with that. Starts no new trial of the search.

    Args:
        sweep: Name of the sweep; the latest if empty.
        overrides: Hydra overrides of the sections confirm, budget, executor and notify.
        outputs: Folder of all sweeps.
        console: Where progress is printed.
        config_dir: A folder with more YAML files, laid out like conf/.

    Raises:
        SweeperError: There is no such sweep, an override is of another section, or the sweep cannot be run.
    """
    store = find_sweep(sweep, outputs)
    settings = _settings(store, overrides, config_dir)
    # The outputs folder may have been moved since the sweep started.
    settings = dataclasses.replace(settings, name=store.root.name, outputs=str(store.root.parent))
    config = SweepConfig(settings, parse_space(settings.space.dimensions))
    return run_config(config, console=console, searches=False)


def _settings(store: TrialStore, overrides: Sequence[str], config_dir: Path | None) -> SweepSettings:
    """Return the stored settings, with the sections that the overrides name, and with a confirmation."""
    settings: SweepSettings = from_jsonable(SweepSettings, store.read_sweep()["settings"])
    check_remote_code(settings.model, source="the sweep on disk")
    keys = [override.partition("=")[0] for override in overrides]
    sections = {key.partition(".")[0] for key in keys}
    if others := sorted(sections - set(_SECTIONS)):
        raise SweeperError(
            f"{others[0]} is part of the sweep, so `sweeper confirm` cannot change it; it takes overrides of "
            f"{', '.join(_SECTIONS)}"
        )
    # The addresses on disk are masked, so nobody can be notified without new ones.
    settings = dataclasses.replace(settings, notify=NotifySettings())
    if not settings.confirm.max_share:
        confirm = dataclasses.replace(settings.confirm, max_share=ConfirmSettings().max_share)
        settings = dataclasses.replace(settings, confirm=confirm)
    if overrides:
        given = compose(overrides, config_dir=config_dir).settings
        for section in sections:
            fields = {key.partition(".")[2] for key in keys if key.partition(".")[0] == section}
            # A preset, such as executor=inline, replaces the section; a single key changes only itself.
            own = getattr(given, section)
            if "" not in fields:
                own = dataclasses.replace(
                    getattr(settings, section), **{field: getattr(own, field) for field in fields}
                )
            settings = dataclasses.replace(settings, **{section: own})
        check_settings(settings, parse_space(settings.space.dimensions))
    return settings
