"""How long trials are, and after which chunks they are scored."""

from __future__ import annotations

import pytest

from sweeper.config.dimensions import parse_space
from sweeper.config.trial_length import (
    FullLength,
    longest_epochs,
    mean_epochs,
    nearest_epochs,
    shortest_epochs,
    trial_chunks,
    trial_epochs,
    trial_rungs,
)
from tests.builders import make_study

RATE = {"train.learning_rate": "tag(log,interval(1e-4,1e-2))"}


def space(text):
    return parse_space({**RATE, "train.epochs": text})


@pytest.mark.parametrize("study", [make_study(num_chunks=12, epochs=4, chunks_per_epoch=3), FullLength(12, 4)])
def test_a_trial_has_the_chunks_of_its_own_epochs(study):
    assert [trial_chunks(study, epochs) for epochs in (1, 2, 4)] == [3, 6, 12]
    assert (trial_chunks(study, 0), trial_epochs(study, 0), trial_epochs(study, 3)) == (12, 4, 3)


@pytest.mark.parametrize(
    ("num_chunks", "expected"),
    [
        (12, (2, 4, 8, 12)),
        (9, (2, 4, 8, 9)),
        (8, (2, 4, 8)),
        (3, (2, 3)),
        (2, (2,)),
        (1, (1,)),
        (16, (2, 4, 8, 12, 16)),
    ],
)
def test_a_trial_is_scored_at_the_rungs_below_its_last_chunk_and_at_that(num_chunks, expected):
    assert trial_rungs((2, 4, 8, 12), num_chunks) == expected


def test_a_reference_may_be_longer_than_every_trial_of_the_search():
    assert trial_rungs((2, 4, 8, 12), 16) == (2, 4, 8, 12, 16)


def test_a_study_without_rungs_scores_no_trial():
    assert trial_rungs((), 12) == ()


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("interval(1,4)", (1, 4)),
        ("choice(8,2,4)", (2, 8)),
        ("range(1,8,2)", (1, 7)),
        ("tag(log2,interval(2,16))", (2, 16)),
    ],
)
def test_the_ends_of_a_space_are_those_of_its_epochs(text, ends):
    assert (shortest_epochs(space(text)), longest_epochs(space(text))) == ends


def test_without_the_dimension_epochs_are_as_they_were():
    fixed = parse_space(RATE)
    assert (shortest_epochs(fixed), longest_epochs(fixed), nearest_epochs(fixed, 7)) == (0, 0, 7)


@pytest.mark.parametrize(("epochs", "nearest"), [(0, 1), (1, 1), (3, 2), (5, 4), (6, 4), (7, 8), (99, 8)])
def test_a_number_outside_the_space_is_moved_to_the_nearest_in_it(epochs, nearest):
    assert nearest_epochs(space("choice(1,2,4,8)"), epochs) == nearest


def test_the_mean_is_that_of_the_draws():
    assert mean_epochs(space("interval(1,4)")) == pytest.approx(2.5)
    assert mean_epochs(space("choice(1,2,6)")) == pytest.approx(3, abs=0.01)
