"""Score against cost: fronts, their order, and the trials that no other one beats in both."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from sweeper.figures.pareto import (
    dominates,
    nondominated_ranks,
    pareto_keys,
    pareto_trials,
    recorded_cost,
    rung_costs,
)
from sweeper.types import TrialState
from tests.builders import make_measurement, make_study, make_trial


def numbers_of(trials, cost="parameters", **changes):
    return [trial.spec.number for trial in pareto_trials(make_study(**changes), trials, cost)]


def slow_ranks(points):
    """Peel off one front after the other."""
    left, ranks, rank = set(points), {}, 0
    while left:
        front = {point for point in left if not any(dominates(other, point) for other in left)}
        ranks.update(dict.fromkeys(front, rank))
        left, rank = left - front, rank + 1
    return [ranks[point] for point in points]


@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_those_of_peeling_off_front_after_front(seed):
    rng = random.Random(seed)  # noqa: S311 - no secret
    points = [(float(rng.randrange(8)), float(rng.randrange(8))) for _ in range(40)]
    assert nondominated_ranks(points) == slow_ranks(points)


def test_a_point_dominates_one_that_it_equals_in_one_objective_only():
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 2))


def test_a_front_is_ordered_by_its_ends_then_by_distance_then_by_score():
    front = [(0.0, 10.0), (1.0, 9.0), (2.0, 8.0), (6.0, 4.0), (10.0, 0.0)]
    keys = pareto_keys([*front, (10.0, 10.0)])
    assert [key[1] for key in keys[:5]] == [-math.inf, pytest.approx(-0.4), pytest.approx(-1.0), -1.6, -math.inf]
    order = sorted(range(6), key=lambda index: keys[index])
    assert order == [0, 4, 3, 2, 1, 5]


def test_equal_points_have_equal_keys():
    keys = pareto_keys([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0)])
    assert keys[0] == keys[2]


def test_the_pareto_set_has_the_complete_trials_that_no_other_one_beats_in_both():
    trials = [
        make_trial(0, 0.90, params={"lora.r": 8}),
        make_trial(1, 0.85, params={"lora.r": 2}),
        make_trial(2, 0.85, params={"lora.r": 4}),  # as good as trial 1, but larger
        make_trial(3, 0.95, params={"lora.r": 16}),
        make_trial(4, 0.80, params={"lora.r": 1}, state=TrialState.PRUNED),
        make_trial(5, 0.90, params={"lora.r": 8}),  # the same as trial 0
        make_trial(6, math.nan, params={"lora.r": 1}),
    ]
    assert numbers_of(trials) == [3, 0, 1]


def test_a_loss_is_minimised():
    study = make_study(metric="validation/loss", direction="minimize")
    trials = [make_trial(n, value, study=study, params={"lora.r": r}) for n, value, r in [(0, 0.5, 4), (1, 0.4, 8)]]
    trials.append(make_trial(2, 0.6, study=study, params={"lora.r": 8}))
    assert numbers_of(trials, metric="validation/loss", direction="minimize") == [1, 0]


def test_of_trials_with_the_same_score_the_one_that_took_fewer_seconds_counts():
    def trial(number, value, rank, seconds):
        measurements = (make_measurement(12, value, elapsed_s=seconds),)
        return replace(make_trial(number, params={"lora.r": rank}), measurements=measurements)

    trials = [trial(0, 0.9, 2, 5.0), trial(1, 0.9, 4, 3.0), trial(2, 0.8, 4, 3.0), trial(3, 0.7, 4, 1.0)]
    assert numbers_of(trials, "device_s") == [1, 3]


def test_the_costs_of_a_trial_are_those_at_its_latest_rung():
    measurements = (make_measurement(3, 0.5, elapsed_s=2.0), make_measurement(4, elapsed_s=3.0))
    trial = replace(make_trial(0, params={"lora.r": 4}), measurements=measurements)
    assert rung_costs(trial) == {"parameters": 9000.0, "device_s": 2.0}


@pytest.mark.parametrize(("cost", "expected"), [("none", "parameters"), ("device_s", "device_s")])
def test_a_sweep_without_a_cost_compares_scores_with_parameters(cost, expected):
    assert recorded_cost({"settings": {"search": {"cost": cost}}}) == expected
    assert recorded_cost({}) == "parameters"
