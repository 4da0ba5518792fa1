"""The order of complete trials."""

from __future__ import annotations

import itertools
import math

import pytest

from sweeper.figures.ranking import best_trial, rank_trials
from sweeper.store.retention import adapters_to_keep
from sweeper.types import Phase, TrialState
from tests.builders import make_default, make_study, make_trial


def numbers(trials):
    return [trial.spec.number for trial in trials]


def test_trials_are_ranked_by_score_where_more_is_better():
    assert numbers(rank_trials(make_study(), [make_trial(0, 0.7), make_trial(1, 0.9), make_trial(2, 0.8)])) == [
        1,
        2,
        0,
    ]


def test_trials_are_ranked_by_score_where_less_is_better():
    study = make_study(metric="validation/loss", direction="minimize")
    trials = [make_trial(0, 0.7, study=study), make_trial(1, 0.9, study=study), make_trial(2, 0.2, study=study)]
    assert numbers(rank_trials(study, trials)) == [2, 0, 1]


def test_a_tie_goes_to_fewer_parameters():
    trials = [make_trial(0, 0.9, params={"lora.r": 64}), make_trial(1, 0.9, params={"lora.r": 4})]
    assert best_trial(make_study(), trials).spec.number == 1


def test_a_tie_in_parameters_too_goes_to_the_earlier_trial():
    assert best_trial(make_study(), [make_trial(5, 0.9), make_trial(3, 0.9)]).spec.number == 3


@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.COMPLETE])
def test_only_complete_trials_can_be_best(state):
    assert best_trial(make_study(), [make_trial(0, 0.99, state=state)]) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_complete_trial_without_a_finite_score_is_not_ranked(value):
    assert numbers(rank_trials(make_study(), [make_trial(0, value), make_trial(1, 0.1)])) == [1]


def test_a_reference_outside_the_space_can_be_best():
    trials = [make_trial(0, 0.8), make_default(0.9, 1, phase=Phase.REFERENCE)]
    assert best_trial(make_study(), trials).spec.number == 1


def test_a_trial_outside_the_best_never_returns_to_them():
    values = [(0.9, 64), (0.8, 4), (0.9, 4), (0.9, 8), (math.nan, 4), (0.7, 4)]
    trials = [make_trial(n, value, params={"lora.r": rank}) for n, (value, rank) in enumerate(values)]
    for order in itertools.permutations(trials):
        kept, dropped = set(), set()
        for count in range(1, len(order) + 1):
            keep = adapters_to_keep(make_study(), order[:count], 2)
            assert not keep & dropped
            dropped |= (kept | {order[count - 1].spec.number}) - keep
            kept = keep
        assert kept == {2, 3}
