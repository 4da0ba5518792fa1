"""Whether one score is better than another by more than the noise of the validation rows.

Terminal, best.json and report use these for all comparisons. `ranking` decides which trial is best, `baselines` what a
best trial must beat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from sweeper.figures.ranking import best_trial, finite_value
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = [
    "NOISE_ERRORS",
    "Comparison",
    "compare",
    "compare_with_default",
    "selection_optimism",
    "standard_error",
]

NOISE_ERRORS = 2.0
"""A difference of at most this many standard errors is called noise (about 95 % confidence)."""


def standard_error(study: StudyRecord, value: float | None, *, split: str = "validation") -> float | None:
    """Return the binomial standard error of an accuracy, sqrt(p (1 - p) / n) over the n rows that it was measured on.

    It measures how much a score would vary with other such rows, not with other training seeds. A perfect score counts
    as half a row wrong, so its error is not 0.

    Args:
        study: The study.
        value: The score.
        split: The rows that it was measured on.

    Returns:
        The error; None if the metric is not an accuracy, since there is no such formula for other metrics.
    """
    num_rows = study.num_rows.get(split, 0)
    if value is None or num_rows == 0 or study.metric.rpartition("/")[2] != "accuracy" or not 0 <= value <= 1:
        return None
    share = min(max(value, 0.5 / num_rows), 1 - 0.5 / num_rows)
    return math.sqrt(share * (1 - share) / num_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How much better one score is than another."""

    gain: float
    """Positive if the first score is better, whatever the direction of the metric."""
    standard_error: float | None
    """Standard error of the gain for scores on independent rows; None if the metric has no known error.

    Both scores are on the same rows, so the true error is usually smaller, and this one is conservative.
    """

    @property
    def is_noise(self) -> bool | None:
        """Whether the gain is within `NOISE_ERRORS` standard errors of 0; None if unknown."""
        if self.gain == 0:
            return True
        return None if self.standard_error is None else abs(self.gain) <= NOISE_ERRORS * self.standard_error


def compare(study: StudyRecord, one: float | None, other: float | None) -> Comparison | None:
    """Compare two objectives of a study; return None if one is missing."""
    if one is None or other is None:
        return None
    gain = one - other if study.direction == "maximize" else other - one
    errors = standard_error(study, one), standard_error(study, other)
    combined = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    return Comparison(gain=gain, standard_error=combined)


def compare_with_default(
    study: StudyRecord, best: TrialRecord | None, default: TrialRecord | None
) -> Comparison | None:
    """Compare the best trial with that of the default recipe; return None unless both are complete.

    A pruned default trial has seen fewer rows, so its score is not comparable.
    """
    if best is None or default is None or default.state is not TrialState.COMPLETE:
        return None
    return compare(study, finite_value(study, best), finite_value(study, default))


def selection_optimism(study: StudyRecord, trials: Sequence[TrialRecord]) -> float | None:
    """Return by how much the best score would exceed the true one if all scored trials were equally good.

    This is the expected maximum of m independent normal errors (Blom 1958: quantile (m - 0.375) / (m + 0.25)). Errors
    on the same rows are correlated, so it is an upper estimate.

    Returns:
        The difference, in units of the objective; None if the metric has no known error.
    """
    best = best_trial(study, trials)
    error = standard_error(study, finite_value(study, best)) if best else None
    chosen_from = [trial for trial in trials if trial.spec.phase is not Phase.CONFIRMATION]
    num_scored = sum(finite_value(study, trial) is not None for trial in chosen_from)
    if error is None:
        return None
    return 0.0 if num_scored == 1 else error * NormalDist().inv_cdf((num_scored - 0.375) / (num_scored + 0.25))
