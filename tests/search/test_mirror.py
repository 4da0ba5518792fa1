"""Trials in memory: what a model is fitted to, and what an infeasible trial is worth."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from sweeper.search.mirror import StudyMirror
from sweeper.types import TrialState
from tests.search.toy import SPACE

LIMIT = 300


def make_mirror(num_finished, *, num_running=3, maximize=True, seed=0):
    rng = random.Random(seed)  # noqa: S311 - no secret
    mirror = StudyMirror(SPACE, maximize=maximize)
    for number in range(num_finished + num_running):
        mirror.start(SPACE.point((rng.random(), rng.random(), rng.random())), {"origin": "tpe"})
        if number < num_finished:
            states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.FAILED]
            (state,) = rng.choices(states, [6, 8, 1, 1])
            mirror.score(number, 3, rng.random())
            mirror.finish(number, state, rng.random())
    return mirror


def test_up_to_the_limit_a_model_gets_every_trial_that_did_not_fail():
    mirror = make_mirror(200)
    expected = [trial for trial in mirror.trials if trial.state.name != "FAIL"]
    assert mirror.for_model(LIMIT) == expected


@pytest.mark.parametrize("maximize", [True, False])
def test_beyond_the_limit_a_model_gets_the_best_the_latest_and_a_spread(maximize):
    mirror = make_mirror(2_000, maximize=maximize)
    chosen = mirror.for_model(LIMIT)
    numbers = [trial.number for trial in chosen]
    assert numbers == sorted(set(numbers))
    ended = [trial for trial in chosen if trial.state.is_finished()]
    assert 275 <= len(ended) <= LIMIT
    assert [n for n in numbers if n >= 2_000] == [2_000, 2_001, 2_002]
    complete = [t for t in mirror.trials if t.state.name == "COMPLETE" and not t.constraints]
    best = sorted(complete, key=lambda trial: trial.value, reverse=maximize)[:25]
    assert {trial.number for trial in best} <= set(numbers)
    usable = [trial.number for trial in mirror.trials[:2_000] if trial.state.name != "FAIL"]
    latest = usable[-137:]
    assert set(latest) <= set(numbers)
    early = [n for n in numbers if n < latest[0]]
    assert max(b - a for a, b in pairwise(early)) < 40


def test_pruned_trials_are_ranked_as_by_optuna_when_few_are_complete():
    mirror = StudyMirror(SPACE, maximize=True)
    for number in range(400):
        mirror.start(SPACE.point((0.5, 0.5, 0.5)), {})
        mirror.score(number, 3, 0.5)
        if number == 7:
            mirror.score(number, 6, 0.1)
        mirror.finish(number, TrialState.COMPLETE if number == 9 else TrialState.PRUNED, 0.2)
    assert [number for _, number in mirror._best[:3]] == [9, 7, 0]


@pytest.mark.parametrize(("maximize", "expected"), [(True, 0.2), (False, 0.9)])
def test_an_infeasible_trial_has_the_worst_value_so_far(maximize, expected):
    mirror = StudyMirror(SPACE, maximize=maximize)
    for _ in range(3):
        mirror.start(SPACE.point((0.5, 0.5, 0.5)), {})
    mirror.score(0, 3, 0.2)
    mirror.finish(0, TrialState.COMPLETE, 0.4)
    mirror.finish(1, TrialState.COMPLETE, 0.9)
    mirror.finish(2, TrialState.INFEASIBLE, None)
    assert mirror.trials[2].value == expected


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.INFEASIBLE])
def test_a_snapshot_does_not_change_with_its_trial(state):
    mirror = make_mirror(0, num_running=1)
    mirror.score(0, 3, 0.5)
    (before,) = mirror.take_changes()
    mirror.score(0, 6, 0.6)
    mirror.finish(0, state, 0.6)
    assert (before.state.name, before.intermediate_values) == ("RUNNING", {3: 0.5})
    assert (before.user_attrs, before.system_attrs) == ({"origin": "tpe"}, {})
    assert [trial.number for trial in mirror.take_changes()] == [0]
    assert mirror.take_changes() == []
