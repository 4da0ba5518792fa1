"""What the scores of candidates say about scores on other rows, such as test rows."""

from __future__ import annotations

import math

from sweeper.statistics.crossed import Crossed, StandardError
from sweeper.statistics.outcomes import CandidateOutcomes, row_contributions
from sweeper.statistics.results import Interval

__all__ = ["expected_on_other_rows"]


def expected_on_other_rows(
    candidate: CandidateOutcomes, metric: str, *, num_rows: int, num_seeds: int, confidence: float
) -> Interval:
    """Return the range in which a candidate's score on other rows, such as test rows, is expected.

    The interval of its validation score is one for the truth. A score on other rows has noise of its own, but is of the
    same trained adapters, so their seeds make no difference.

    Args:
        candidate: Its outcomes on validation rows, with at least two seeds.
        metric: Any metric.
        num_rows: Number of other rows.
        num_seeds: How many of its adapters are scored on them.
        confidence: Probability that the score, a mean over those adapters, lies in the range.
    """
    found = Crossed.of(row_contributions(candidate, metric))
    s, n = found.num_seeds, found.num_rows
    seed_part = max(0.0, found.seed) * (1 / num_seeds - 1 / s)
    row_part = found.row * (1 / n + 1 / num_rows) + found.residual * (1 / (s * n) + 1 / (num_seeds * num_rows))
    variance = seed_part + row_part
    square = seed_part**2 / (s - 1) + row_part**2 / (n - 1)
    error = StandardError(error=math.sqrt(variance), degrees=variance**2 / square if square > 0 else n - 1.0)
    return Interval.around(found.mean, error.half_width(1 - confidence))
