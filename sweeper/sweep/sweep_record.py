"""Writes sweep.json, once per sweep, and again if it and its copy are lost. Called under the sweep's lock.

The caller, `run` or `reconcile`, has checked the settings (`identity.check_identity`): against the trials if the record
is lost.
"""

from __future__ import annotations

from pathlib import Path

from sweeper.config.dimensions import parse_space
from sweeper.config.settings import SweepSettings
from sweeper.errors import DamagedFile
from sweeper.store.damage import restore_records, set_aside
from sweeper.store.provenance import collect
from sweeper.store.trials import TrialStore
from sweeper.sweep.identity import settings_to_keep
from sweeper.sweep.plan import reference_recipes, study_name

__all__ = ["has_sweep_record", "restore_sweep", "write_sweep_record"]


def has_sweep_record(store: TrialStore) -> bool:
    """Whether sweep.json or its copy can be read.

    Raises:
        StoreError: It has another schema version.
    """
    try:
        store.read_sweep()
    except DamagedFile:
        return False
    return True


def write_sweep_record(store: TrialStore, settings: SweepSettings) -> None:
    """Write sweep.json and its copy."""
    names = [study_name(settings, dataset) for dataset in settings.dataset.values()]
    num_references = len(reference_recipes(settings, parse_space(settings.space.dimensions)))
    sweep = {"settings": settings_to_keep(settings), "studies": names, "num_references": num_references}
    store.write_sweep({**sweep, "provenance": collect()})


def restore_sweep(store: TrialStore, settings: SweepSettings, stamp: str) -> list[Path]:
    """Restore the damaged records of a sweep that has started: from their copies; sweep.json else from the settings.

    Args:
        store: The sweep.
        settings: Its settings.
        stamp: Name of the folder under ``damaged`` for the damaged files.

    Returns:
        The restored records.
    """
    restored = restore_records(store, stamp) + restore_records(store.finals, stamp)
    has_started = store.exists or any(store.paths.studies())
    if has_started and not has_sweep_record(store):
        for path in (store.paths.sweep, store.paths.sweep_backup):
            if path.exists():
                set_aside(store, path, stamp)
        write_sweep_record(store, settings)
        restored.append(store.paths.sweep)
    return restored
