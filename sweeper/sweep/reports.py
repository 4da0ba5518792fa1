"""Writes the report of a sweep that a command describes, and reads its content; writes the model cards.

`run`, `final`, `reconcile` and `jobs` call it.

`sweeper report` describes a sweep by its name and calls `write_reports` itself, also while a session runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sweeper.config.compose import SweepConfig
from sweeper.config.settings import SweepSettings
from sweeper.disk.atomic import remove_unfinished, write_atomic
from sweeper.errors import SweepLocked
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore
from sweeper.sweep.identity import check_identity
from sweeper.types import StudyRecord

__all__ = ["current_best", "write_model_cards", "write_report"]


def write_report(store: TrialStore, config: SweepConfig) -> Mapping[str, Any]:
    """Write the report; the caller holds the sweep's lock. Return the content of best.json."""
    from sweeper.analysis.report import write_reports

    write_reports(store, space=config.space)
    best: Mapping[str, Any] = json.loads(store.paths.best.read_text())
    return best


def write_model_cards(store: TrialStore, study: StudyRecord, settings: SweepSettings) -> None:
    """Write a model card into the adapter of every final training; scores on test rows may have been added since.

    Args:
        store: The sweep.
        study: The study whose configuration was trained.
        settings: Settings of the sweep.
    """
    from sweeper.analysis.final import final_trainings
    from sweeper.analysis.model_card import model_card

    dataset = next((each for each in settings.dataset.values() if each.name == study.dataset), None)
    for found in final_trainings(store, study):
        if found["adapter"]:
            record = store.finals.read_study(found["study"])
            card = model_card(found, record, sweep=store.root.name, dataset=dataset)
            path = store.finals.paths.trial(record.name, found["trial"]).model_card
            remove_unfinished(path.parent)  # of a kill while a card was written
            write_atomic(path, card.encode())


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
