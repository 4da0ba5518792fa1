"""Damages a finished sweep in several ways at once, for `crash_session`; `crash_points` interrupts its repair.

Every damage can be repaired without loss: the records and adapters from MLflow's copies, the rest from the records.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from chaos.crash_session import STUDY
from sweeper.store.trials import TrialStore

__all__ = ["damage_sweep", "damaged_contents"]


def damage_sweep(folder: Path) -> None:
    """Damage a record, an adapter, the ledger, a study's record, Optuna and MLflow; leave an unfinished file."""
    store = TrialStore(folder)
    first, second = (paths for paths in store.paths.trials(STUDY) if paths.number < 2)
    for path in _torn(store):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (second.folder / ".checkpoint-1.safetensors.0123abcd.tmp").write_bytes(b"torn")
    _execute(store.paths.optuna_db, "UPDATE trial_values SET value = 0.125 WHERE trial_id = 1")
    runs = "SELECT run_uuid FROM tags WHERE key = 'trial' AND value = ?"
    database = folder.parent / "mlflow.db"
    _execute(database, f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid IN ({runs})", str(second.number))  # noqa: S608
    assert first.number == 0


def damaged_contents(folder: Path) -> dict[str, bytes]:
    """Return the damaged files of a sweep, which a repair must move aside and not destroy."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in _torn(TrialStore(folder))}


def _torn(store: TrialStore) -> list[Path]:
    adapters = [path for path in store.paths.trials(STUDY) if path.adapter.exists()]
    weights = adapters[-1].adapter / "adapter_model.safetensors"
    return [store.paths.trial(STUDY, 0).record, weights, store.paths.ledger, store.paths.study_record(STUDY)]


def _execute(path: Path, statement: str, *values: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute(statement, values).rowcount >= 1
        database.commit()
