"""A sweep with a second objective: trained, resumed, reported, and its database compared with the store and rebuilt."""

from __future__ import annotations

import io
import sqlite3

import optuna
from rich.console import Console

import sweeper
from sweeper.recovery.reconcile import reconcile_sweep
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState

STUDY = "tiny-tinybert-lora"


def stored(store):
    """What Optuna's database has of each trial."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{store.root}/optuna.db")
    try:
        trials = optuna.load_study(study_name=f"{store.root.name}/{STUDY}", storage=storage).get_trials()
        return [(t.number, t.state.name, t.values, t.params, t.user_attrs) for t in trials]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def reconcile(store):
    page = io.StringIO()
    return reconcile_sweep(store, console=Console(file=page, width=200)), page.getvalue()


def test_a_sweep_with_a_cost_is_resumed_reported_and_its_database_rebuilt(tiny, tmp_path):
    overrides = [*tiny, "space=cost_constrained", "search.num_startup_trials=2"]
    sweeper.run([*overrides, "budget.trials=4"])
    sweep = sweeper.run([*overrides, "budget.trials=8"])
    store = TrialStore(tmp_path / "outputs" / "tiny")
    complete = {t.spec.number: t for t in store.trials(STUDY) if t.state is TrialState.COMPLETE}
    study = sweep.study()
    assert study["num_trials"] == 8
    assert set(study["pareto"]) <= set(complete)
    assert study["best"]["trial"] == study["pareto"][0]
    assert "tpe" in set(sweep.trials["origin"])
    before = stored(store)
    assert {number: values[1] for number, state, values, *_ in before if state == "COMPLETE"} == {
        number: float(trial.num_parameters) for number, trial in complete.items()
    }
    is_clean, text = reconcile(store)
    assert is_clean
    assert "agree on every trial" in text
    with sqlite3.connect(store.paths.optuna_db) as database:
        database.execute("UPDATE trial_values SET value = value + 1 WHERE objective = 0 AND trial_id = 1")
    database.close()
    assert reconcile(store)[0]
    assert stored(store) == before
    store.paths.optuna_db.unlink()
    assert reconcile(store)[0]
    assert stored(store) == before
