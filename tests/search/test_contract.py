"""What every preset in conf/search guarantees; new presets are found automatically."""

from __future__ import annotations

import pytest

from tests.search.toy import CONF, SPACE, Driver, open_toy, preset, stored_trials, value_of

PRESETS = sorted(path.stem for path in CONF.glob("[!_]*.yaml"))
NUM_TRIALS = 16


@pytest.fixture(scope="module", params=PRESETS)
def preset_run(request, tmp_path_factory):
    """One uninterrupted run of each preset."""
    folder = tmp_path_factory.mktemp(request.param)
    driver = Driver()
    with open_toy(folder, preset(request.param)) as search:
        driver.run(search, NUM_TRIALS)
    return {"name": request.param, "driver": driver, "stored": outcomes(folder)}


def outcomes(folder):
    """Number, state, score and rungs of every trial in the database; an infeasible trial's value is not a score."""
    return [
        (t.number, t.state, None if t.constraints else t.value, t.params, t.intermediate_values)
        for t in stored_trials(folder)
    ]


def test_every_trial_ends_and_is_counted_once(preset_run):
    states = [record.state for record in preset_run["driver"].records.values()]
    assert len(states) == len(preset_run["stored"]) == NUM_TRIALS
    assert all(state.is_finished for state in states)


def test_every_proposal_lies_in_the_space(preset_run):
    assert all(SPACE.contains(params) for _, _, params in preset_run["driver"].proposals)


def test_no_two_trials_are_equal(preset_run):
    configurations = [tuple(params.values()) for _, _, params in preset_run["driver"].proposals]
    assert len(set(configurations)) == NUM_TRIALS


@pytest.mark.parametrize("cut", [11])
def test_an_interrupted_search_proposes_the_same(preset_run, cut, tmp_path):
    settings = preset(preset_run["name"])
    driver = Driver()
    with open_toy(tmp_path, settings) as search:
        driver.run(search, NUM_TRIALS, until=cut)
    with open_toy(tmp_path, settings) as search:
        search.sync(list(driver.records.values()), value_of)
        driver.run(search, NUM_TRIALS)
    assert driver.proposals == preset_run["driver"].proposals


def test_a_lost_database_is_rebuilt_from_the_store(preset_run, tmp_path):
    records = list(preset_run["driver"].records.values())
    with open_toy(tmp_path, preset(preset_run["name"])) as search:
        search.sync(records, value_of)
    assert outcomes(tmp_path) == preset_run["stored"]
