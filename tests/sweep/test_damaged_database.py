"""A damaged study database: the sweep's own is replaced, any other one is left as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import optuna
import pytest

from sweeper.config.compose import compose
from sweeper.errors import ConfigError
from sweeper.store.trials import TrialStore
from sweeper.sweep.factory import open_search
from sweeper.types import TrialState
from tests.builders import make_measurement, make_spec, make_study, make_trial


@pytest.fixture
def store(tmp_path):
    return TrialStore(tmp_path / "sweep")


def config_of(store, *overrides):
    return compose([f"outputs={store.root.parent}", "name=sweep", *overrides])


def start(store, *overrides):
    """Write a trial, or restore it, as at a start."""
    config = config_of(store, *overrides)
    study = make_study(name="toy", space=config.space.texts)
    with open_search(study, config, store) as search:
        search.sync(trials(search, study), study.value)


def trials(search, study):
    params = search._proposer.propose(search._mirror).params
    rung = make_measurement(study.rungs[0], 0.5)
    spec = make_spec(0, params=params, study="toy", origin="sobol")
    return [make_trial(spec=spec, state=TrialState.PRUNED, measurements=(rung,))]


def states(path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        return [trial.state.name for trial in optuna.load_study(study_name="sweep/toy", storage=storage).get_trials()]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def overwrite_page(path):
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 4 * 4096] = b"\x07" * 4096
    path.write_bytes(content)


def overwrite_header(path):
    path.write_bytes(b"no database" * 1000)


def truncate(path):
    path.write_bytes(path.read_bytes()[: 5 * 4096 + 100])


@pytest.mark.parametrize("damage", [overwrite_page, overwrite_header, truncate])
def test_a_damaged_database_of_the_sweep_is_moved_aside_and_rebuilt(store, damage, caplog):
    start(store)
    path = store.paths.optuna_db
    damage(path)
    damaged = path.read_bytes()
    start(store)
    assert states(path) == ["PRUNED"]
    (moved,) = store.root.glob("damaged/*/optuna.db")
    assert moved.read_bytes() == damaged
    assert f"it is rebuilt from the sweep's folder, and the old one is {moved}" in caplog.text


def test_the_log_of_a_damaged_database_moves_with_it(store):
    start(store)
    path = store.paths.optuna_db
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM trial_params")
        log = path.with_name("optuna.db-wal").read_bytes()
    overwrite_header(path)
    path.with_name("optuna.db-wal").write_bytes(log)
    start(store)
    assert {each.name for each in store.root.glob("damaged/*/*")} >= {"optuna.db", "optuna.db-wal"}
    assert states(path) == ["PRUNED"]


def test_an_intact_database_stays(store):
    for _ in range(2):
        start(store)
    assert not (store.root / "damaged").exists()


def test_a_damaged_database_that_other_sweeps_may_share_stays(store, tmp_path):
    path = tmp_path / "shared.db"
    start(store, f"search.storage=sqlite:///{path}")
    overwrite_header(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"search\.storage=.*not a database.*may have more than this sweep"):
        start(store, f"search.storage=sqlite:///{path}")
    assert path.read_bytes() == before
    path.unlink()
    start(store, f"search.storage=sqlite:///{path}")
    assert states(path) == ["PRUNED"]
