"""Which adapters are kept."""

from __future__ import annotations

import pytest

from sweeper.store.retention import adapters_to_keep, rung_adapter_to_keep
from sweeper.types import Phase, TrialState
from tests.builders import make_default, make_measurement, make_study, make_trial


def kept(records, num_best, **changes):
    return adapters_to_keep(make_study(**changes), records, num_best)


@pytest.fixture
def records():
    return [make_trial(number, value) for number, value in enumerate((0.5, 0.9, 0.7, 0.9, 0.6))]


def test_the_best_trials_keep_their_adapters_and_ties_go_to_the_first(records):
    assert kept(records, 1) == {1}
    assert kept(records, 3) == {1, 2, 3}


def test_a_tie_goes_to_fewer_parameters_as_in_the_report():
    tied = [make_trial(number, 0.9, params={"lora.r": 64 - number}) for number in range(21)]
    assert kept(tied, 20) == set(range(1, 21))


def test_the_best_is_the_lowest_where_less_is_better(records):
    assert kept(records, 2, direction="minimize") == {0, 4}


def test_zero_keeps_all(records):
    assert kept(records, 0) == {0, 1, 2, 3, 4}


def test_recipes_keep_their_adapters_whatever_their_score(records):
    compared = [make_default(0.1, number=5), make_default(0.2, number=1_000_000, phase=Phase.REFERENCE)]
    assert kept([*records, *compared], 1) == {1, 5, 1_000_000}


def test_trials_that_did_not_complete_have_none():
    others = [
        make_trial(n, 0.99, state=state) for n, state in enumerate(TrialState) if state is not TrialState.COMPLETE
    ]
    assert kept(others, 3) == set()


def kept_rung(*values, state=TrialState.RUNNING, keeps_adapter=True):
    measurements = tuple(make_measurement(4 * position, value) for position, value in enumerate(values, start=1))
    trial = make_trial(0, state=state, measurements=measurements)
    return rung_adapter_to_keep(make_study(), trial, keeps_adapter=keeps_adapter)


def test_a_running_trial_keeps_the_adapter_of_its_best_rung_so_far():
    assert kept_rung() is None
    assert kept_rung(0.5) == 4
    assert kept_rung(0.5, 0.4) == 4
    assert kept_rung(0.5, 0.5) == 8
    assert kept_rung(0.5, keeps_adapter=False) == 4


def test_a_complete_trial_keeps_that_of_an_earlier_rung_only_if_it_scored_higher_than_the_last():
    assert kept_rung(0.5, 0.9, 0.8, state=TrialState.COMPLETE) == 8
    assert kept_rung(0.5, 0.8, 0.8, state=TrialState.COMPLETE) is None


def test_a_complete_trial_that_keeps_no_adapter_keeps_none_of_a_rung():
    assert kept_rung(0.5, 0.9, 0.8, state=TrialState.COMPLETE, keeps_adapter=False) is None


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAILED, TrialState.INFEASIBLE])
def test_a_trial_that_did_not_complete_keeps_none_of_a_rung(state):
    assert kept_rung(0.5, 0.4, state=state) is None
