"""The best rung of a trial, and how much choosing it would raise the scores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sweeper.figures.rungs import (
    best_rung,
    best_rung_text,
    better_rung,
    epochs_text,
    rows_to_score,
    rung_epoch,
    rung_optimism,
)
from sweeper.types import TrialState
from tests.builders import make_measurement, make_study, make_trial

STUDY = make_study(epochs=3)


def scored(*values, number=0, state=TrialState.COMPLETE, metric="validation/accuracy"):
    """Make a trial with these scores after chunks 4, 8, 12, and a chunk without a score before each."""
    measurements = []
    for position, value in enumerate(values, start=1):
        measurements += [make_measurement(4 * position - 1), make_measurement(4 * position, value, metric=metric)]
    return make_trial(number, state=state, measurements=tuple(measurements))


def test_the_best_rung_has_the_highest_score():
    assert best_rung(STUDY, scored(0.5, 0.9, 0.7)).chunk == 8


def test_the_best_rung_has_the_lowest_score_where_less_is_better():
    study = make_study(metric="validation/loss", direction="minimize")
    assert best_rung(study, scored(0.5, 0.9, 0.7, metric="validation/loss")).chunk == 4


def test_a_tie_goes_to_the_later_rung():
    assert best_rung(STUDY, scored(0.9, 0.9, 0.7)).chunk == 8
    assert better_rung(STUDY, scored(0.5, 0.9, 0.9)) is None


@pytest.mark.parametrize(
    ("chunk", "num_chunks", "num_rows", "expected"),
    [
        (2, 12, 400, 200),
        (6, 12, 400, 200),
        (7, 12, 400, 400),
        (12, 12, 400, 400),
        (2, 12, 1001, 500),
        (2, 12, 399, 399),
        (1, 1, 400, 400),
    ],
)
def test_a_rung_in_the_first_half_of_a_trial_scores_half_of_the_rows_if_these_are_enough(
    chunk, num_chunks, num_rows, expected
):
    assert rows_to_score(chunk, num_chunks=num_chunks, num_rows=num_rows) == expected


def test_a_rung_that_scored_half_of_the_rows_is_never_the_best():
    rows = {4: 200, 8: 400, 12: 400}
    trial = scored(0.9, 0.8, 0.7)
    measurements = tuple(replace(each, scored_rows=rows.get(each.chunk, 0)) for each in trial.measurements)
    assert best_rung(STUDY, replace(trial, measurements=measurements)).chunk == 8
    assert best_rung(STUDY, replace(trial, measurements=measurements[:2])) is None
    assert best_rung_text(STUDY, replace(trial, measurements=measurements)) == "best after epoch 2 of 3"
    assert rung_optimism(STUDY, [replace(trial, measurements=measurements)]) == pytest.approx(0.1)


@pytest.mark.parametrize(("epochs", "text"), [(2, "best after epoch 1 of 2"), (0, "best after epoch 1 of 3")])
def test_the_epochs_of_a_trial_are_its_own(epochs, text):
    trial = make_trial(
        fixed={"train.epochs": epochs}, measurements=(make_measurement(4, 0.9), make_measurement(8, 0.7))
    )
    assert best_rung_text(STUDY, trial) == text


def test_a_searched_number_of_epochs_is_an_upper_bound():
    assert epochs_text(STUDY) == "3 epochs"
    assert epochs_text(make_study(epochs=3, space={"train.epochs": "interval(1,3)"})) == "up to 3 epochs"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_rung_without_a_finite_score_is_never_the_best(value):
    assert best_rung(STUDY, scored(0.5, value)).chunk == 4
    assert best_rung(STUDY, scored(value)) is None


def test_a_trial_without_a_rung_has_no_best():
    assert best_rung(STUDY, make_trial(chunks=0)) is None
    assert best_rung_text(STUDY, make_trial(chunks=0)) == ""


@pytest.mark.parametrize(
    ("values", "epochs", "text"),
    [
        ((0.5, 0.9, 0.7), 3, "best after epoch 2 of 3"),
        ((0.5, 0.9, 0.7), 2, "best after epoch 1.33 of 2"),
        ((0.5, 0.7, 0.9), 3, ""),
    ],
)
def test_the_best_rung_is_put_into_words(values, epochs, text):
    assert best_rung_text(make_study(epochs=epochs), scored(*values)) == text


def test_the_epoch_of_a_rung():
    assert rung_epoch(STUDY, make_measurement(6)) == 1.5
    assert rung_epoch(make_study(epochs=6), make_measurement(12)) == 6


def test_the_optimism_is_the_mean_gain_over_complete_trials():
    trials = [scored(0.5, 0.9, 0.7), scored(0.5, 0.6, 0.7), scored(0.9, 0.1, state=TrialState.PRUNED)]
    assert rung_optimism(STUDY, trials) == pytest.approx(0.1)


def test_the_optimism_is_positive_where_less_is_better():
    study = make_study(metric="validation/loss", direction="minimize")
    assert rung_optimism(study, [scored(0.5, 0.9, 0.7, metric="validation/loss")]) == pytest.approx(0.2)


def test_there_is_no_optimism_without_a_complete_trial():
    assert rung_optimism(STUDY, [scored(0.9, 0.1, state=TrialState.RUNNING)]) is None
    assert rung_optimism(STUDY, [scored(0.9, math.nan)]) is None
