"""Writes the report of a sweep that a command describes, and reads its content. `run` and `jobs` call it.

`sweeper report` describes a sweep by its name and calls `write_reports` itself, also while a session runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sweeper.config.compose import SweepConfig
from sweeper.errors import SweepLocked
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore
from sweeper.sweep.identity import check_identity

__all__ = ["current_best", "write_report"]


def write_report(store: TrialStore, config: SweepConfig) -> Mapping[str, Any]:
    """Write the report; the caller holds the sweep's lock. Return the content of best.json."""
    from sweeper.analysis.report import write_reports

    write_reports(store, space=config.space)
    best: Mapping[str, Any] = json.loads(store.paths.best.read_text())
    return best


def current_best(store: TrialStore, config: SweepConfig) -> Mapping[str, Any]:
    """Return the content of best.json, and write the report unless another session runs, which will write it.

    Args:
        store: The sweep, which may not exist yet.
        config: Its configuration.

    Raises:
        SweepMismatch: The sweep on disk has other settings.
    """
    if not store.exists:
        return {"studies": []}
    try:
        with hold(store):
            check_identity(store, config.settings)
            return write_report(store, config)
    except SweepLocked:
        from sweeper.analysis.best import best_configurations

        check_identity(store, config.settings)
        return best_configurations(store, space=config.space)
