"""Which adapters are kept."""

from __future__ import annotations

import pytest

from sweeper.store.retention import adapters_to_keep
from sweeper.types import Phase, TrialState
from tests.builders import make_default, make_study, make_trial


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
