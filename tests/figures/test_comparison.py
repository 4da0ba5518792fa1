"""Whether one score is better than another by more than noise."""

from __future__ import annotations

import math

import pytest

from sweeper.figures import comparison as c
from tests.builders import make_study, make_trial


def test_standard_error_of_an_accuracy_is_binomial():
    assert c.standard_error(make_study(), 0.9) == pytest.approx(math.sqrt(0.9 * 0.1 / 400))


def test_a_perfect_score_still_has_an_error():
    assert c.standard_error(make_study(), 1.0) == pytest.approx(math.sqrt(0.5 * 399.5) / 400**1.5)


@pytest.mark.parametrize("metric", ["validation/macro_f1", "validation/loss"])
def test_a_metric_other_than_accuracy_has_no_standard_error(metric):
    assert c.standard_error(make_study(metric=metric), 0.9) is None


def test_no_validation_rows_give_no_standard_error():
    assert c.standard_error(make_study(num_rows={"train": 10}), 0.9) is None


def test_a_small_lead_is_noise_and_a_large_one_is_not():
    small, large = c.compare(make_study(), 0.91, 0.89), c.compare(make_study(), 0.91, 0.80)
    assert (small.is_noise, large.is_noise) == (True, False)
    assert small.standard_error == pytest.approx(math.sqrt(0.91 * 0.09 / 400 + 0.89 * 0.11 / 400))


def test_a_gain_is_positive_when_a_lower_loss_is_better():
    study = make_study(metric="validation/loss", direction="minimize")
    found = c.compare(study, 0.2, 0.5)
    assert found.gain == pytest.approx(0.3)
    assert found.is_noise is None


def test_equal_scores_are_noise_whatever_the_metric():
    assert c.compare(make_study(metric="validation/macro_f1"), 0.5, 0.5).is_noise


def test_nothing_is_compared_with_a_missing_score():
    assert c.compare(make_study(), 0.9, None) is None


def test_selection_optimism_grows_with_the_number_of_trials():
    study = make_study()
    few = c.selection_optimism(study, [make_trial(i, 0.9) for i in range(2)])
    many = c.selection_optimism(study, [make_trial(i, 0.9) for i in range(50)])
    assert 0 < few < many
    # The expected largest of 50 standard normals is 2.25.
    assert many == pytest.approx(2.25 * 0.015, rel=0.01)


def test_one_trial_has_no_selection_optimism():
    assert c.selection_optimism(make_study(), [make_trial(0, 0.9)]) == 0.0
