"""What TPE sees of trials that run or were stopped."""

from __future__ import annotations

import random

import pytest

from sweeper.config.space import EPOCHS
from sweeper.search.mirror import StudyMirror, rung_position
from sweeper.search.rung_view import compared_at_one_rung
from sweeper.types import TrialState
from tests.search.toy import LENGTHS, SPACE


def make_mirror(scores, states=(), *, maximize=True):
    """Return trials with scores by chunk, and those ended whose number has a state."""
    mirror = StudyMirror(SPACE, maximize=maximize)
    rng = random.Random(0)  # noqa: S311 - no secret
    for number, by_chunk in enumerate(scores):
        mirror.start(SPACE.point((rng.random(), rng.random(), rng.random())), {})
        for chunk, value in by_chunk.items():
            mirror.score(number, chunk, value)
    for number, state in dict(states).items():
        mirror.finish(number, state, None)
    return mirror


def seen(mirror, *, maximize=True):
    return compared_at_one_rung(mirror.trials, SPACE, maximize=maximize)


def order(trials, *, maximize=True):
    """Return the numbers of the trials that count as complete, best first, as TPE ranks them."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE" and not trial.constraints]
    return [t.number for t in sorted(complete, key=lambda t: t.value, reverse=maximize)]


@pytest.mark.parametrize("maximize", [True, False])
def test_survivors_that_run_are_better_than_trials_that_were_stopped(maximize):
    sign = 1 if maximize else -1
    survivors = [{3: sign * 0.8}, {3: sign * 0.7}, {3: sign * 0.9, 6: sign * 0.5}]
    stopped = [{3: sign * 0.3}, {3: sign * 0.2}, {3: sign * 0.4}]
    states = dict.fromkeys((3, 4, 5), TrialState.PRUNED)
    mirror = make_mirror(survivors + stopped, states, maximize=maximize)
    assert order(seen(mirror, maximize=maximize), maximize=maximize) == [2, 0, 1, 5, 3, 4]


@pytest.mark.parametrize("maximize", [True, False])
def test_trials_that_were_stopped_before_the_common_rung_are_worse_than_all_of_it(maximize):
    sign = 1 if maximize else -1
    # The latest scores are the lowest ones: after a stop at chunk 3 with 0.6 there is less known than with 0.1 at 6.
    reached = [{3: sign * 0.7, 6: sign * value} for value in (0.1, 0.4, 0.2, 0.3)]
    states = {0: TrialState.PRUNED, 1: TrialState.COMPLETE, 4: TrialState.PRUNED, 5: TrialState.PRUNED}
    mirror = make_mirror([*reached, {3: sign * 0.5}, {3: sign * 0.6}], states, maximize=maximize)
    assert order(seen(mirror, maximize=maximize), maximize=maximize) == [1, 3, 2, 0, 5, 4]


def test_the_rung_is_the_highest_with_more_scores_than_the_space_has_dimensions():
    early, late = [{3: 0.1}, {3: 0.2}], [{3: 0.0, 6: value} for value in (0.5, 0.6, 0.7)]
    assert [t.value for t in seen(make_mirror(early + late))] == [0.1, 0.2, 0.0, 0.0, 0.0]
    late.append({3: 0.0, 6: 0.8})
    assert [t.value for t in seen(make_mirror(early + late))][2:] == [0.5, 0.6, 0.7, 0.8]


def test_a_trial_on_its_way_to_the_rung_counts_with_what_others_gained():
    late = [{3: 0.5, 6: value} for value in (0.6, 0.7, 0.8, 0.9)]
    found = seen(make_mirror([*late, {3: 0.55}]))
    assert found[4].value == pytest.approx(0.55 + 0.25)


def test_with_few_scores_the_rung_with_the_most_counts():
    assert [t.value for t in seen(make_mirror([{3: 0.5, 6: 0.9}, {3: 0.4}]))] == [0.5, 0.4]


def test_trials_without_a_score_and_infeasible_ones_stay_as_they_are():
    states = {1: TrialState.INFEASIBLE, 2: TrialState.PRUNED}
    mirror = make_mirror([{}, {3: 0.9}, {}, {3: 0.1}], states)
    found = seen(mirror)
    assert found[:3] == mirror.trials[:3]
    assert [trial.state.name for trial in found] == ["RUNNING", "COMPLETE", "PRUNED", "COMPLETE"]


def test_without_any_score_nothing_changes():
    mirror = make_mirror([{}, {}])
    assert seen(mirror) == mirror.trials


def test_the_trials_themselves_do_not_change():
    mirror = make_mirror([{3: 0.5}, {3: 0.4}], {1: TrialState.PRUNED})
    seen(mirror)
    assert [trial.state.name for trial in mirror.trials] == ["RUNNING", "PRUNED"]
    assert mirror.trials[0].values is None


def test_a_rung_of_a_shorter_trial_counts_where_the_longest_is_after_the_same_share():
    """Three epochs of 4 have rungs 3, 6, 12; a trial of one epoch ends at 3, one of two at 6."""
    mirror = StudyMirror(LENGTHS, maximize=True)
    scores = [
        (1, {3: 0.3}),
        (2, {3: 0.1, 6: 0.4}),
        (4, {3: 0.1, 6: 0.2, 12: 0.5}),
        (2, {3: 0.2, 6: 0.6}),
        (4, {3: 0.1}),
    ]
    for epochs, by_chunk in [*scores, (1, {3: 0.7})]:
        mirror.start({**SPACE.point((0.5, 0.5, 0.5)), EPOCHS: epochs}, {})
        for chunk, value in by_chunk.items():
            mirror.score(len(mirror) - 1, chunk, value)
    found = compared_at_one_rung(mirror.trials, LENGTHS, maximize=True, rungs=(3, 6, 12))
    # All five that have ended are compared at their ends; the other one is expected to gain what its like did.
    assert [found[number].value for number in (0, 1, 2, 3, 5)] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert found[4].value == pytest.approx(0.1 + 0.4)


def test_of_a_stopped_trial_counts_how_far_it_got_in_its_own_training():
    mirror = StudyMirror(LENGTHS, maximize=True)
    for epochs, chunk in ((4, 6), (2, 3), (4, 3)):
        mirror.start({**SPACE.point((0.5, 0.5, 0.5)), EPOCHS: epochs}, {})
        mirror.score(len(mirror) - 1, chunk, 0.5)
        mirror.finish(len(mirror) - 1, TrialState.PRUNED, None)
    assert [rung_position(LENGTHS, trial, trial.last_step) for trial in mirror.trials] == [6, 6, 3]
    assert [number for _, number in mirror._best] == [0, 1, 2]
