"""What every preset in conf/search guarantees; new presets are found automatically."""

from __future__ import annotations

import pytest

from sweeper.config.compose import compose
from sweeper.config.keys import find_key
from sweeper.errors import ConfigError
from sweeper.figures.pareto import rung_costs
from tests.search.toy import CONF, SPACE, Driver, open_toy, preset, stored_trials, value_of

PRESETS = sorted(path.stem for path in CONF.glob("[!_]*.yaml"))
COSTS = [choice for choice in find_key("search.cost").choices if choice != "none"]
NUM_TRIALS = 16


def knows_cost(name):
    """Whether a preset can be used with a second objective, as the configuration sees it."""
    try:
        return bool(compose(["dataset=trec", f"search={name}", f"search.cost={COSTS[0]}"]))
    except ConfigError:
        return False


CASES = [(name, "none") for name in PRESETS] + [(name, cost) for name in PRESETS if knows_cost(name) for cost in COSTS]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def preset_run(request, tmp_path_factory):
    """One uninterrupted run of each preset, and of each with a cost that can have one."""
    name, cost = request.param
    folder = tmp_path_factory.mktemp(name)
    driver = Driver()
    with open_toy(folder, preset(name, cost=cost)) as search:
        driver.run(search, NUM_TRIALS)
    return {"name": name, "cost": cost, "driver": driver, "stored": outcomes(folder)}


def outcomes(folder):
    """What the database has of every trial; an infeasible trial's values are not scores."""
    return [
        (t.number, t.state, None if t.constraints else t.values, t.params, t.intermediate_values, t.user_attrs)
        for t in stored_trials(folder)
    ]


def test_the_samplers_for_one_objective_are_the_only_ones_that_take_no_cost():
    assert {name for name in PRESETS if not knows_cost(name)} == {"gp", "cmaes"}


def test_the_database_has_the_cost_of_every_scored_trial(preset_run):
    name = preset_run["cost"]
    expected = {n: rung_costs(r).get(name) for n, r in preset_run["driver"].records.items() if r.measurements}
    values = {number: stored for number, _, stored, *_ in preset_run["stored"] if stored is not None}
    assert {number: stored[1] if name != "none" else None for number, stored in values.items()} == expected


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
    settings = preset(preset_run["name"], cost=preset_run["cost"])
    driver = Driver()
    with open_toy(tmp_path, settings) as search:
        driver.run(search, NUM_TRIALS, until=cut)
    with open_toy(tmp_path, settings) as search:
        search.sync(list(driver.records.values()), value_of)
        driver.run(search, NUM_TRIALS)
    assert driver.proposals == preset_run["driver"].proposals


def test_a_lost_database_is_rebuilt_from_the_store(preset_run, tmp_path):
    records = list(preset_run["driver"].records.values())
    with open_toy(tmp_path, preset(preset_run["name"], cost=preset_run["cost"])) as search:
        search.sync(records, value_of)
    assert outcomes(tmp_path) == preset_run["stored"]
