"""When trials are scored, and which continue: compared with a definition that looks at all values again."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config.keys import find_key
from sweeper.config.settings import SearchSettings
from sweeper.search.pruning import make_pruner, rung_chunks


@pytest.mark.parametrize(
    ("num_chunks", "min_chunks", "factor", "rungs"),
    [
        (12, 3, 2, (3, 6, 12)),
        (12, 1, 3, (1, 3, 12)),
        (10, 3, 2, (3, 6, 10)),
        (13, 3, 2, (3, 6, 13)),
        (4, 3, 2, (4,)),
        (1, 3, 2, (1,)),
    ],
)
def test_rungs_are_geometric_and_end_at_the_last_chunk(num_chunks, min_chunks, factor, rungs):
    assert rung_chunks(num_chunks, min_chunks=min_chunks, reduction_factor=factor) == rungs


RUNGS = (3, 6, 12, 24)
MAJORITY = 0.5
RULES = {
    "none": SearchSettings(pruner="none"),
    "median": SearchSettings(pruner="median"),
    "hyperband": SearchSettings(pruner="hyperband"),
    "halving": SearchSettings(pruner="successive_halving"),
    "thirds": SearchSettings(pruner="successive_halving", reduction_factor=3),
    "cost": SearchSettings(pruner="successive_halving", cost="parameters"),
}
COMPETING = ("halving", "thirds", "cost")
"""Rules by which all trials at a rung compete with one another."""


def make(rule, *, maximize=True, majority=None):
    shares = () if majority is None else (majority,) * len(RUNGS)
    return make_pruner(RULES[rule], study="sweep/toy", rungs=RUNGS, maximize=maximize, majority=shares)


def record(pruner, points, numbers=None, *, chunk=3):
    """Record a score and a loss of each trial, and a cost that tells no trial from another."""
    for number in range(len(points)) if numbers is None else numbers:
        pruner.record(number, chunk, points[number][0], loss=points[number][1], cost=1.0)


def passing(pruner, num_trials, *, chunk=3):
    return [number for number in range(num_trials) if not pruner.should_prune(number, chunk)]


def test_every_pruner_is_tested():
    assert {settings.pruner for settings in RULES.values()} == set(find_key("search.pruner").choices)


# Few different values, so that most examples have ties.
POINTS = st.lists(
    st.tuples(st.sampled_from([0.4, 0.5, 0.6, 0.7]), st.sampled_from([0.1, 0.2, math.inf, math.nan])),
    min_size=1,
    max_size=20,
)


@given(points=POINTS, rule=st.sampled_from(COMPETING), maximize=st.booleans())
def test_the_best_share_continues(points, rule, maximize):
    """By score, equal scores by loss, equal trials by number; the first few all continue."""
    pruner = make(rule, maximize=maximize)
    record(pruner, points)
    factor = RULES[rule].reduction_factor
    sign = -1 if maximize else 1
    order = sorted(
        range(len(points)),
        key=lambda n: (sign * points[n][0], points[n][1] if math.isfinite(points[n][1]) else math.inf, n),
    )
    best = order[: len(points) // factor] if len(points) >= 2 * factor else order
    assert passing(pruner, len(points)) == sorted(best)


@given(points=POINTS, rule=st.sampled_from(sorted(RULES)), data=st.data())
def test_the_order_in_which_values_were_recorded_does_not_matter(points, rule, data):
    order = data.draw(st.permutations(range(len(points))))
    found = []
    for numbers in (range(len(points)), order):
        pruner = make(rule, majority=MAJORITY)
        record(pruner, points, numbers)
        for number in numbers:
            if number % 2:
                pruner.complete(number)
        found.append(passing(pruner, len(points)))
    assert found[0] == found[1]


@given(points=POINTS, rule=st.sampled_from(sorted(RULES)))
def test_a_question_changes_no_answer(points, rule):
    pruner = make(rule, majority=MAJORITY)
    record(pruner, points)
    assert passing(pruner, len(points)) == passing(pruner, len(points))


@given(
    points=POINTS,
    rule=st.sampled_from(["halving", "thirds", "hyperband", "median"]),
    gain=st.sampled_from([0.05, 0.15]),
    data=st.data(),
)
def test_a_better_score_never_stops_a_trial(points, rule, gain, data):
    number = data.draw(st.integers(0, len(points) - 1))
    better = [*points]
    better[number] = (points[number][0] + gain, points[number][1])
    answers = []
    for each in (points, better):
        pruner = make(rule, majority=MAJORITY)
        record(pruner, each)
        for other in range(len(points)):
            if other != number:
                pruner.complete(other)
        answers.append(pruner.should_prune(number, 3))
    assert answers[0] or not answers[1]


@pytest.mark.parametrize("rule", COMPETING)
@pytest.mark.parametrize("losses", ["equal", "different"])
def test_ties_never_all_pass(rule, losses):
    """As on SMS spam, where most trials predict the commonest label at the first rung."""
    points = [(0.8775, 0.3 if losses == "equal" else 0.3 + number / 100) for number in range(24)]
    factor = RULES[rule].reduction_factor
    pruner = make(rule)
    record(pruner, points)
    assert passing(pruner, 24) == list(range(24 // factor))
    # The same when each is decided as it arrives.
    pruner, passed = make(rule), []
    for number in range(24):
        record(pruner, points, [number])
        passed += [] if pruner.should_prune(number, 3) else [number]
    assert passed == list(range(2 * factor - 1))


@pytest.mark.parametrize("rule", [*COMPETING, "median"])
def test_who_has_learnt_nothing_competes_from_the_second_trial_on(rule):
    pruner = make(rule, majority=MAJORITY)
    answers = []
    for number, score in enumerate((0.5, 0.5, 0.4, 0.6, 0.6)[: 2 * RULES[rule].reduction_factor - 1]):
        pruner.record(number, 3, score, loss=0.3 + number / 100, cost=1.0)
        answers.append(pruner.should_prune(number, 3))
        pruner.complete(number)
    assert answers[:3] == [False, True, True]
    assert not any(answers[3:])


@pytest.mark.parametrize("rule", ["halving", "cost"])
def test_a_majority_is_the_score_of_its_rung_and_may_be_unknown(rule):
    shares = (0.5, 0.7, 0.7, 0.7)
    pruner = make_pruner(RULES[rule], study="sweep/toy", rungs=RUNGS, maximize=True, majority=shares)
    for chunk in (3, 6):
        record(pruner, [(0.65, 0.1), (0.6, 0.2)], chunk=chunk)
    assert not pruner.should_prune(1, 3)
    assert pruner.should_prune(1, 6)
    pruner = make(rule)
    record(pruner, [(0.65, 0.1), (0.0, 0.2)])
    assert not pruner.should_prune(1, 3)


@pytest.mark.parametrize("maximize", [True, False])
def test_the_median_compares_a_trials_best_rung_with_the_complete_ones(maximize):
    rng = random.Random(maximize)  # noqa: S311 - no secret
    sign = 1 if maximize else -1
    for _ in range(200):
        pruner = make("median", maximize=maximize)
        scores = [{chunk: round(rng.random(), 1) for chunk in (3, 6)} for _ in range(rng.randint(1, 9))]
        for number, known in enumerate(scores):
            for chunk, score in known.items():
                pruner.record(number, chunk, sign * score, loss=0.0)
        complete = set(rng.sample(range(1, len(scores)), rng.randint(0, len(scores) - 1)))
        for number in complete:
            pruner.complete(number)
        best = max(scores[0].values())
        better = sum(scores[number][6] > best for number in complete)
        assert pruner.should_prune(0, 6) == (len(complete) >= 4 and better > len(complete) / 2)


def test_brackets_compete_apart_and_start_at_different_rungs():
    pruner, size = make("hyperband"), 60
    for chunk in RUNGS[:3]:
        record(pruner, [(number / 100, 0.0) for number in range(size)], chunk=chunk)
    brackets = [pruner._bracket(number) for number in range(size)]
    assert set(brackets) == {0, 1, 2, 3}
    for first, chunk in enumerate(RUNGS[:3]):
        expected = []
        for bracket in range(4):
            members = [number for number in range(size) if brackets[number] == bracket]
            expected += members if first < bracket else members[len(members) - max(1, len(members) // 2) :]
        assert passing(pruner, size, chunk=chunk) == sorted(expected)


def test_without_rungs_before_the_last_chunk_nothing_is_pruned():
    pruner = make_pruner(RULES["halving"], study="sweep/toy", rungs=(4,), maximize=True, majority=(1.0,))
    record(pruner, [(0.1, 0.1)] * 9, chunk=4)
    assert passing(pruner, 9, chunk=4) == list(range(9))


def with_lengths(rule, lengths, *, num_rows=0, majority=()):
    """Make a pruner of trials that have so many chunks each."""
    pruner = make_pruner(
        RULES[rule], study="sweep/toy", rungs=RUNGS, maximize=True, majority=majority, num_rows=num_rows
    )
    for number, num_chunks in enumerate(lengths):
        pruner.start(number, num_chunks)
    return pruner


ASYNCHRONOUS = ("halving", "thirds", "cost", "hyperband")


@given(points=POINTS, rule=st.sampled_from([*ASYNCHRONOUS, "median"]), data=st.data())
def test_a_rung_compares_a_trial_only_with_those_that_train_on_beyond_it(points, rule, data):
    """Its decisions are those of a search without the trials that end there or before."""
    lengths = [data.draw(st.sampled_from([3, 6, 24])) for _ in points]
    complete = [data.draw(st.booleans()) for _ in points]
    answers = []
    for kept in (range(len(points)), [n for n, length in enumerate(lengths) if length > 3]):
        pruner = with_lengths(rule, lengths, majority=(MAJORITY,) * len(RUNGS))
        record(pruner, points, kept)
        for number in kept:
            if complete[number]:
                pruner.complete(number)
        answers.append({n: pruner.should_prune(n, 3) for n, length in enumerate(lengths) if length > 3})
    assert answers[0] == answers[1]


@pytest.mark.parametrize("rule", [*ASYNCHRONOUS, "median"])
def test_long_trials_are_not_pruned_because_short_ones_have_annealed(rule):
    num_short, num_long = 20, 3
    pruner = with_lengths(rule, [6] * num_short + [24] * num_long)
    for number in range(num_short):
        pruner.record(number, 6, 0.9, cost=1.0)
        pruner.complete(number)
    for number in range(num_short, num_short + num_long):
        pruner.record(number, 6, 0.6, cost=1.0)
        assert not pruner.should_prune(number, 6)


@pytest.mark.parametrize("rule", COMPETING)
def test_trials_of_different_lengths_compete_at_a_rung_that_both_train_on_from(rule):
    lengths = [6, 24] * 12
    pruner = with_lengths(rule, lengths)
    points = [(0.9 - number / 100, 0.1) for number in range(24)]
    record(pruner, points)
    assert passing(pruner, 24) == list(range(24 // RULES[rule].reduction_factor))


@pytest.mark.parametrize("rule", COMPETING)
def test_scores_on_other_rows_are_not_compared(rule):
    """After 3 chunks, a trial of 24 has scored half of the rows, and one of 4, in its second half, all of them."""
    lengths = [4] * 12 + [24] * 12
    pruner = with_lengths(rule, lengths, num_rows=400)
    record(pruner, [(0.9, 0.1)] * 12 + [(0.5 - number / 100, 0.1) for number in range(12)])
    share = 12 // RULES[rule].reduction_factor
    assert passing(pruner, 24) == [*range(share), *range(12, 12 + share)]


def test_the_majority_is_that_of_the_rows_that_the_trial_scored():
    """The rung's own for half of the rows; a short trial scored all rows there, as the last rung does."""
    pruner = with_lengths("halving", [4, 4, 24, 24], num_rows=400, majority=(0.5, 0.5, 0.5, 0.7))
    record(pruner, [(0.61, 0.1), (0.6, 0.1), (0.6, 0.1), (0.59, 0.1)])
    assert [pruner.should_prune(number, 3) for number in range(4)] == [False, True, False, False]


def test_the_median_needs_complete_trials_that_trained_on_beyond_the_rung():
    pruner = with_lengths("median", [3] * 8 + [24] * 5)
    for number in range(12):
        pruner.record(number, 3, 0.9)
        if number < 8:
            pruner.complete(number)
    pruner.record(12, 3, 0.1)
    assert not pruner.should_prune(12, 3)
    for number in range(8, 12):
        pruner.complete(number)
    assert pruner.should_prune(12, 3)
