"""Confirms the best configurations of a sweep that has been searched before. `cli` calls it.

The sweep's stored settings are used, so the command needs only its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sweeper.config.compose import SweepConfig
from sweeper.config.dimensions import parse_space
from sweeper.config.settings import ConfirmSettings
from sweeper.store.discovery import find_sweep
from sweeper.sweep.run import SweepOutcome, run_config
from sweeper.sweep.stored_settings import check_sections, stored_settings, with_sections

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
    check_sections(overrides, allowed=_SECTIONS, command="confirm")
    store = find_sweep(sweep, outputs)
    settings = stored_settings(store)
    if not settings.confirm.max_share:
        confirm = dataclasses.replace(settings.confirm, max_share=ConfirmSettings().max_share)
        settings = dataclasses.replace(settings, confirm=confirm)
    settings = with_sections(settings, overrides, config_dir=config_dir)
    config = SweepConfig(settings, parse_space(settings.space.dimensions))
    return run_config(config, console=console, searches=False)
