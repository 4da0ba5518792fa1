"""What scores of candidates say: how optimistic the search's were, and what to expect on test rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sweeper.statistics.crossed import Crossed, StandardError
from sweeper.statistics.outcomes import CandidateOutcomes, metric_values, row_contributions
from sweeper.statistics.results import Interval

__all__ = ["expected_on_other_rows", "optimism"]


def optimism(
    search_values: Mapping[str, float],
    candidates: Sequence[CandidateOutcomes],
    *,
    metric: str,
    maximize: bool,
    confidence: float,
) -> Interval | None:
    """Return how much better the search scored its own candidates than fresh seeds do, on average.

    The search trained all of them with one seed, so its mean score is compared with that of each fresh seed: if the
    search's scores were not the best of many, they would be like those of one more seed (t interval of a prediction).

    Args:
        search_values: The search's score of each of its candidates, by name, on the same rows.
        candidates: Those candidates and others, as for `compare_candidates`.
        metric: The study's metric.
        maximize: Whether higher values of it are better.
        confidence: Of the interval.

    Returns:
        Positive if the search was too optimistic, also for a loss; None without candidates of the search.
    """
    found = [candidate for candidate in candidates if candidate.name in search_values]
    if not found:
        return None
    num_seeds = min(len(candidate.seeds) for candidate in found)
    fresh_S = np.mean([metric_values(candidate, metric)[:num_seeds] for candidate in found], axis=0)
    search = float(np.mean([search_values[candidate.name] for candidate in found]))
    error = float(fresh_S.std(ddof=1)) * math.sqrt(1 + 1 / num_seeds)
    half = StandardError(error=error, degrees=num_seeds - 1).half_width(1 - confidence)
    return Interval.around((1 if maximize else -1) * (search - float(fresh_S.mean())), half)


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
