"""A database that differs from the store at a start: older, newer, half written. The store wins, in silence."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import optuna
import pytest

from sweeper.errors import StoreError
from sweeper.search.study_database import StudyDatabase
from sweeper.types import TrialState
from tests.search.toy import SPACE, Driver, open_toy, preset, stored_trials, value_of

SETTINGS = preset("random", recipes=[])
NUM_TRIALS = 4
OF_TRIAL = "trial_id = (SELECT trial_id FROM trials WHERE number = :number)"
TABLES = (
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)


@pytest.fixture
def driver(tmp_path):
    """Four trials in store and database: the first is complete, the last runs and has a rung."""
    driver = Driver(lanes=1)
    with open_toy(tmp_path, SETTINGS) as search:
        driver.run(search, NUM_TRIALS, until=NUM_TRIALS)
        driver.advance(search, NUM_TRIALS - 1)
    assert driver.records[0].state is TrialState.COMPLETE
    assert driver.records[NUM_TRIALS - 1].state is TrialState.RUNNING
    return driver


def start(folder, driver):
    with open_toy(folder, SETTINGS) as search:
        search.sync(list(driver.records.values()), value_of)


def execute(folder, *statements, number=0):
    """Execute statements, in which ``@`` stands for the condition that a row is of a trial."""
    with closing(sqlite3.connect(folder / "optuna.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement.replace("@", OF_TRIAL), {"number": number})


def query(folder, text):
    with closing(sqlite3.connect(folder / "optuna.db")) as connection:
        return connection.execute(text).fetchone()


def content(folder):
    return [
        (t.number, t.state, t.params, t.intermediate_values, t.user_attrs, None if t.constraints else t.value)
        for t in stored_trials(folder)
    ]


DAMAGES = {
    "no parameters": ["DELETE FROM trial_params WHERE @"],
    "some parameters": ["DELETE FROM trial_params WHERE @ AND param_name = 'lora.r'"],
    "some parameters, others than in the store": [
        "DELETE FROM trial_params WHERE @ AND param_name = 'lora.r'",
        "UPDATE trial_params SET param_value = param_value / 2 WHERE @",
    ],
    "waiting without parameters": [
        "DELETE FROM trial_params WHERE @",
        "DELETE FROM trial_values WHERE @",
        "UPDATE trials SET state = 'WAITING', datetime_start = NULL, datetime_complete = NULL WHERE @",
    ],
    "waiting": ["UPDATE trials SET state = 'WAITING', datetime_start = NULL WHERE @"],
    "running with another value": [
        "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE @",
        "UPDATE trial_values SET value = 0.01 WHERE @",
    ],
    "running with an ending": [
        "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE @",
        "INSERT OR REPLACE INTO trial_user_attributes (trial_id, key, value_json) "
        """SELECT trial_id, 'state', '"failed"' FROM trials WHERE @""",
    ],
    "running": ["UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE @"],
    "failed": ["UPDATE trials SET state = 'FAIL' WHERE @"],
    "complete": ["UPDATE trials SET state = 'COMPLETE' WHERE @"],
    "another state of ours": [
        """UPDATE trial_user_attributes SET value_json = '"infeasible"' WHERE key = 'state' AND @"""
    ],
    "another value": ["UPDATE trial_values SET value = 0.01 WHERE @"],
    "no value": ["DELETE FROM trial_values WHERE @"],
    "other values at rungs": ["UPDATE trial_intermediate_values SET intermediate_value = 0.01 WHERE @"],
    "no values at rungs": ["DELETE FROM trial_intermediate_values WHERE @"],
    "a rung too many": [
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
        "SELECT trial_id, 5, 0.7, 'FINITE' FROM trials WHERE @"
    ],
    "no row": [*(f"DELETE FROM {table} WHERE @" for table in TABLES), "DELETE FROM trials WHERE @"],  # noqa: S608
}


@pytest.mark.parametrize("number", [0, NUM_TRIALS - 1], ids=["finished", "running"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_rows_that_the_store_contradicts_are_written_again(tmp_path, driver, damage, number):
    before = content(tmp_path)
    execute(tmp_path, *DAMAGES[damage], number=number)
    start(tmp_path, driver)
    assert content(tmp_path) == before
    assert all(trial.datetime_start is not None for trial in stored_trials(tmp_path))
    for table in TABLES:
        orphans = f"SELECT count(*) FROM {table} WHERE trial_id NOT IN (SELECT trial_id FROM trials)"  # noqa: S608
        assert query(tmp_path, orphans) == (0,)


def test_all_rows_may_be_half_written(tmp_path, driver, monkeypatch):
    monkeypatch.setattr("sweeper.search.study_database._BATCH", 2)
    before = content(tmp_path)
    execute(tmp_path, "DELETE FROM trial_params WHERE param_name = 'lora.r'")
    start(tmp_path, driver)
    assert content(tmp_path) == before


def test_a_start_changes_no_row_of_a_database_that_agrees(tmp_path, driver, monkeypatch):
    while any(not record.state.is_finished for record in driver.records.values()):
        with open_toy(tmp_path, SETTINGS) as search:
            search.sync(list(driver.records.values()), value_of)
            driver.run(search, 4 * NUM_TRIALS)
    states = {record.state for record in driver.records.values()}
    assert TrialState.INFEASIBLE in states
    assert TrialState.COMPLETE in states
    deleted = []
    monkeypatch.setattr("sweeper.search.study_database._delete", lambda *_, **numbers: deleted.append(numbers))
    start(tmp_path, driver)
    assert deleted == []


def test_a_database_that_is_newer_than_the_store_is_brought_back(tmp_path, driver):
    before = driver.records[NUM_TRIALS - 1]
    with open_toy(tmp_path, SETTINGS) as search:
        search.sync(list(driver.records.values()), value_of)
        search.tell(NUM_TRIALS - 1, state=TrialState.PRUNED, value=value_of(before))
    assert stored_trials(tmp_path)[NUM_TRIALS - 1].state is optuna.trial.TrialState.PRUNED
    start(tmp_path, driver)
    trial = stored_trials(tmp_path)[NUM_TRIALS - 1]
    assert (trial.state, trial.datetime_complete) == (optuna.trial.TrialState.RUNNING, None)


@pytest.mark.parametrize("state", ["RUNNING", "WAITING"])
def test_a_half_written_trial_without_a_record_uses_up_its_number(tmp_path, driver, state):
    statement = "INSERT INTO trials (number, study_id, state) VALUES (:number, 1, 'STATE')".replace("STATE", state)
    execute(tmp_path, statement, number=NUM_TRIALS)
    for _ in range(2):
        start(tmp_path, driver)
    assert stored_trials(tmp_path)[NUM_TRIALS].state is optuna.trial.TrialState.FAIL
    with open_toy(tmp_path, SETTINGS) as search:
        search.sync(list(driver.records.values()), value_of)
        assert search.ask().number == NUM_TRIALS + 1


def test_a_record_that_returns_replaces_its_placeholder(tmp_path, driver):
    before = content(tmp_path)
    record = driver.records.pop(2)
    execute(tmp_path, *DAMAGES["no row"], number=2)
    start(tmp_path, driver)
    assert stored_trials(tmp_path)[2].params == {}
    driver.records[2] = record
    start(tmp_path, driver)
    assert content(tmp_path) == before


def test_only_whole_configurations_that_differ_belong_to_another_sweep(tmp_path, driver):
    other = {**driver.records[0].spec.params, "train.learning_rate": 5e-3}
    driver.records[0] = replace(driver.records[0], spec=replace(driver.records[0].spec, params=other))
    with pytest.raises(StoreError, match=r"trial 0 of .* belongs to another sweep. Move the database away"):
        start(tmp_path, driver)


@pytest.mark.usefixtures("driver")
def test_rows_of_other_studies_are_left_alone(tmp_path):
    trials, num_params = stored_trials(tmp_path), query(tmp_path, "SELECT count(*) FROM trial_params")
    database = StudyDatabase.open(
        "other/toy", SPACE, directions={"score": "maximize"}, url=f"sqlite:///{tmp_path}/optuna.db"
    )
    execute(tmp_path, "INSERT INTO trials (number, study_id, state) VALUES (0, 2, 'WAITING')")
    database.discard_stale(trials)
    database.close()
    assert query(tmp_path, "SELECT count(*) FROM trial_params") == num_params
    assert query(tmp_path, "SELECT count(*) FROM trials WHERE study_id = 2") == (0,)


def test_a_study_with_a_cost_is_brought_back_too(tmp_path):
    settings, driver = replace(SETTINGS, cost="device_s"), Driver()
    with open_toy(tmp_path, settings) as search:
        driver.run(search, 4)

    def rows():
        return [(t.state, t.params, None if t.constraints else t.values) for t in stored_trials(tmp_path)]

    before = rows()
    assert any(values and len(values) == 2 for _, _, values in before)
    execute(tmp_path, "DELETE FROM trial_values WHERE objective = 1", "DELETE FROM trial_params WHERE @")
    with open_toy(tmp_path, settings) as search:
        search.sync(list(driver.records.values()), value_of)
    assert rows() == before
