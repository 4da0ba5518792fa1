"""What people see who open the study database with Optuna's own tools."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager

import optuna
import pytest

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.search.distributions import distributions, from_drawn, to_drawn
from sweeper.search.mirror import is_infeasible
from sweeper.search.stored_study import read_study
from sweeper.types import TrialState
from tests.search.toy import METRIC, SPACE, Driver, open_toy, preset, stored_trials, value_of

WIDE = SearchSpace(
    (
        *SPACE.dimensions,
        Dimension(key="lora.dropout", scale=Scale.ORDERED, choices=(0.0, 0.1, 0.2), text="choice(0,0.1,0.2)"),
        Dimension(key="train.lr_schedule", scale=Scale.CATEGORICAL, choices=("linear", "cosine"), text="choice(...)"),
    )
)
NUM_TRIALS = 24


@contextmanager
def opened(folder):
    """Open the study as anyone would."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
    try:
        yield optuna.load_study(study_name="sweep/toy", storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def run(folder, settings, num_trials=NUM_TRIALS):
    driver = Driver()
    with open_toy(folder, settings, space=WIDE, metric=METRIC) as search:
        driver.run(search, num_trials)
    return driver


def start(folder, driver):
    with open_toy(folder, preset("tpe"), space=WIDE) as search:
        search.sync(list(driver.records.values()), value_of)


@pytest.mark.parametrize("cost", ["none", "parameters"])
def test_optuna_reads_the_values_of_the_store(tmp_path, cost):
    driver = run(tmp_path, preset("tpe", cost=cost))
    with opened(tmp_path) as study:
        trials = study.get_trials()
        assert study.metric_names == ([METRIC] if cost == "none" else [METRIC, "parameters"])
    assert len(trials) == NUM_TRIALS
    for trial in trials:
        record = driver.records[trial.number]
        assert trial.params == dict(record.spec.params)
        assert WIDE.contains(trial.params)
        assert trial.user_attrs["origin"] == record.spec.origin
        assert trial.user_attrs["state"] == record.state
        if record.state in (TrialState.COMPLETE, TrialState.PRUNED):
            assert trial.values[0] == value_of(record)
        rungs = {each.chunk: each.metrics["validation/accuracy"] for each in record.measurements}
        if cost == "none":
            assert trial.intermediate_values == rungs
        else:
            assert {chunk: trial.user_attrs[f"rung {chunk}"][0] for chunk in rungs} == rungs
            assert len(trial.values or [0, 0]) == 2
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}


def test_optunas_plots_have_real_values_on_their_axes(tmp_path):
    driver = run(tmp_path, preset("tpe"))
    ranks = [
        record.spec.params["lora.r"]
        for record in driver.records.values()
        if record.state in (TrialState.COMPLETE, TrialState.INFEASIBLE)
    ]
    assert max(ranks) > 6  # the exponents end at 6
    plots = optuna.visualization
    with opened(tmp_path) as study:
        figure = plots.plot_slice(study, params=["lora.r"])
        assert sorted(x for trace in figure.data for x in trace.x) == sorted(ranks)
        assert figure.layout.xaxis.type == "log"
        lines = [dict(line.customdata) for line in plots.plot_parallel_coordinate(study).data if line.customdata]
        assert sorted(int(line["lora.r"]) for line in lines) == sorted(ranks)
        assert {line["lora.dropout"] for line in lines} <= {"0", "0.1", "0.2"}
        assert {line["train.lr_schedule"] for line in lines} <= {"linear", "cosine"}
        assert plots.plot_contour(study, params=["lora.r", "train.learning_rate"]).layout.xaxis.type == "log"
        assert len(plots.plot_intermediate_values(study).data) >= len(ranks)
        assert plots.plot_rank(study, params=["lora.r", "lora.alpha_ratio"]).data


def test_optunas_importances_find_what_matters(tmp_path):
    """The rank does, since infeasible trials, those of high ranks, have the worst value."""
    run(tmp_path, preset("random", pruner="none", recipes=[]), num_trials=60)
    with opened(tmp_path) as study:
        importances = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    assert set(importances) == set(WIDE.keys)
    assert set(list(importances)[:2]) == {"train.learning_rate", "lora.r"}


def test_the_dashboard_sees_which_trials_were_infeasible(tmp_path):
    """It reads this attribute, not Optuna's newer ones."""
    driver = run(tmp_path, preset("random", recipes=[]))
    infeasible = {number for number, record in driver.records.items() if record.state is TrialState.INFEASIBLE}
    assert infeasible
    trials = stored_trials(tmp_path)
    assert {trial.number for trial in trials if trial.system_attrs.get("constraints") == [1.0]} == infeasible
    assert {trial.number for trial in trials if is_infeasible(trial)} == infeasible


def make_old(folder):
    """Turn a database into one of an earlier version, which had what samplers draw under the real names."""
    update = "UPDATE trial_params SET param_value = ?, distribution_json = ? WHERE param_name = ? AND trial_id = ?"
    kinds = distributions(WIDE)
    texts = {key: optuna.distributions.distribution_to_json(kind) for key, kind in kinds.items()}
    with closing(sqlite3.connect(folder / "optuna.db", isolation_level=None)) as connection:
        for trial in stored_trials(folder):
            for key, value in to_drawn(WIDE, trial.params).items():
                connection.execute(update, (kinds[key].to_internal_repr(value), texts[key], key, trial._trial_id))


@pytest.fixture
def old(tmp_path):
    driver = run(tmp_path, preset("tpe"))
    make_old(tmp_path)
    old = stored_trials(tmp_path)
    assert [from_drawn(WIDE, trial.params) for trial in old] == [params for _, _, params in driver.proposals]
    return driver


def test_a_database_of_an_earlier_version_is_written_again(tmp_path, old, caplog):
    start(tmp_path, old)
    assert [trial.params for trial in stored_trials(tmp_path)] == [params for _, _, params in old.proposals]
    assert f"trials written again in the study database: {NUM_TRIALS}" in caplog.text


@pytest.mark.usefixtures("old")
def test_recovery_takes_no_configuration_from_a_database_of_an_earlier_version(tmp_path):
    """Else it would train a lost trial of rank 32 again with rank 5."""
    views = read_study(f"sqlite:///{tmp_path}/optuna.db", "sweep/toy", WIDE)
    assert [dict(view.params) for view in views] == [{}] * NUM_TRIALS


def test_recovery_reads_the_configurations_of_the_store(tmp_path):
    driver = run(tmp_path, preset("tpe"))
    views = read_study(f"sqlite:///{tmp_path}/optuna.db", "sweep/toy", WIDE)
    assert [dict(view.params) for view in views] == [params for _, _, params in driver.proposals]
    assert json.dumps(views[0].params["lora.r"]).isdigit()
