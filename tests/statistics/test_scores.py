"""Optimism of the search, and what to expect on other rows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sweeper.statistics.outcomes import CandidateOutcomes, metric_values
from sweeper.statistics.results import Interval
from sweeper.statistics.scores import expected_on_other_rows, optimism


def candidate(name, accuracy, *, seeds=3, rows=400, stream=0, seed_error=0.0):
    """Return a candidate with rows that are hard for every seed."""
    random = np.random.default_rng(stream)
    shifts_S1 = seed_error * random.standard_normal((seeds, 1))
    right_SN = random.random(rows) + 0.03 * random.standard_normal((seeds, rows)) < accuracy + shifts_S1
    return CandidateOutcomes(
        name=name,
        seeds=tuple(range(seeds)),
        loss_SN=np.where(right_SN, 0.1, 2.0),
        predicted_SN=np.where(right_SN, 0, 1),
        target_N=np.zeros(rows, dtype=int),
    )


OTHER, GOOD, BAD = candidate("default", 0.8), candidate("good", 0.9, stream=1), candidate("bad", 0.7, stream=2)


def test_optimism_is_the_search_score_minus_the_mean_of_fresh_seeds():
    found = optimism({"good": 0.95}, [OTHER, GOOD], metric="accuracy", maximize=True, confidence=0.95)
    values = (GOOD.predicted_SN == 0).mean(axis=1)
    half = 4.3027 * values.std(ddof=1) * math.sqrt(1 + 1 / 3)
    estimate = 0.95 - values.mean()
    wanted = Interval(estimate=estimate, low=estimate - half, high=estimate + half)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(wanted), rel=1e-3)


def test_optimism_is_the_mean_over_candidates_and_positive_for_a_loss_that_was_too_low():
    losses = {"good": GOOD.loss_SN.mean() - 0.1, "bad": BAD.loss_SN.mean() - 0.3}
    found = optimism(losses, [OTHER, GOOD, BAD], metric="loss", maximize=False, confidence=0.95)
    assert found.estimate == pytest.approx(0.2)


def test_without_candidates_of_the_search_there_is_no_optimism():
    assert optimism({"trial 3": 0.9}, [OTHER], metric="accuracy", maximize=True, confidence=0.95) is None


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_scores_on_other_rows_lie_in_the_expected_range_as_often_as_it_says(num_seeds):
    inside = []
    for stream in range(300):
        both = candidate("a", 0.8, rows=600, stream=stream, seed_error=0.03)
        parts = [
            dataclasses.replace(
                both,
                loss_SN=both.loss_SN[:, rows],
                predicted_SN=both.predicted_SN[:, rows],
                target_N=both.target_N[rows],
            )
            for rows in (slice(0, 200), slice(200, 600))
        ]
        expected = expected_on_other_rows(parts[0], "accuracy", num_rows=400, num_seeds=num_seeds, confidence=0.9)
        score = metric_values(parts[1], "accuracy")[:num_seeds].mean()
        inside.append(expected.low <= score <= expected.high)
    assert 0.85 <= np.mean(inside) <= 0.96
