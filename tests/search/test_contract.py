"""What every preset in conf/search guarantees; new presets are found automatically."""

from __future__ import annotations

import pytest

from sweeper.config.compose import compose
from sweeper.config.keys import find_key
from sweeper.config.space import EPOCHS
from sweeper.errors import ConfigError
from sweeper.figures.pareto import rung_costs
from sweeper.types import TrialState
from tests.search.toy import CONF, FIXED, LENGTHS, SPACE, Driver, open_toy, preset, stored_trials, value_of

PRESETS = sorted(path.stem for path in CONF.glob("[!_]*.yaml"))
COSTS = [choice for choice in find_key("search.cost").choices if choice != "none"]
NUM_TRIALS = 16


def knows_cost(name):
    """Whether a preset can be used with a second objective, as the configuration sees it."""
    try:
        return bool(compose(["dataset=trec", f"search={name}", f"search.cost={COSTS[0]}"]))
    except ConfigError:
        return False


ALL = [(name, "none") for name in PRESETS] + [(name, cost) for name in PRESETS if knows_cost(name) for cost in COSTS]
LONG = [("tpe", "none"), ("tpe", "device_s"), ("gp", "none"), ("cmaes", "none")]
"""The samplers with a model, in a space with trials of different lengths."""
CASES = [(*case, "even") for case in ALL] + [(*case, "lengths") for case in LONG]


def open_case(folder, case):
    """Open the search of a case, with the number of epochs that a recipe has which names none."""
    settings = preset(case["name"], cost=case["cost"])
    if case["space"] is SPACE:
        return open_toy(folder, settings)
    return open_toy(folder, settings, space=LENGTHS, fixed={**FIXED, EPOCHS: 2})


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def preset_run(request, tmp_path_factory):
    """One uninterrupted run of each preset, and of each with a cost that can have one."""
    name, cost, kind = request.param
    folder = tmp_path_factory.mktemp(name)
    case = {"name": name, "cost": cost, "space": SPACE if kind == "even" else LENGTHS}
    driver = Driver()
    with open_case(folder, case) as search:
        driver.run(search, NUM_TRIALS)
    return {**case, "driver": driver, "stored": outcomes(folder)}


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


def test_a_complete_trial_was_scored_at_its_own_end(preset_run):
    for record in preset_run["driver"].records.values():
        own = 3 * record.spec.train.epochs or 12
        assert record.chunks_done <= own
        assert (record.state is TrialState.COMPLETE) == (record.chunks_done == own)


def test_every_proposal_lies_in_the_space(preset_run):
    assert all(preset_run["space"].contains(params) for _, _, params in preset_run["driver"].proposals)


def test_no_two_trials_are_equal(preset_run):
    configurations = [tuple(params.values()) for _, _, params in preset_run["driver"].proposals]
    assert len(set(configurations)) == NUM_TRIALS


@pytest.mark.parametrize("cut", [11])
def test_an_interrupted_search_proposes_the_same(preset_run, cut, tmp_path):
    driver = Driver()
    with open_case(tmp_path, preset_run) as search:
        driver.run(search, NUM_TRIALS, until=cut)
    with open_case(tmp_path, preset_run) as search:
        search.sync(list(driver.records.values()), value_of)
        driver.run(search, NUM_TRIALS)
    assert driver.proposals == preset_run["driver"].proposals


def test_a_lost_database_is_rebuilt_from_the_store(preset_run, tmp_path):
    records = list(preset_run["driver"].records.values())
    with open_case(tmp_path, preset_run) as search:
        search.sync(records, value_of)
    assert outcomes(tmp_path) == preset_run["stored"]
