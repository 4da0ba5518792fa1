"""Optimism of the search, and what to expect on other rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sweeper.statistics.outcomes import CandidateOutcomes, metric_values
from sweeper.statistics.scores import expected_on_other_rows


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
