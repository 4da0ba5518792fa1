"""The values that statistics return: intervals, verdicts, and what is known about each candidate."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CandidateResult", "Difference", "Interval", "Verdict"]


class Verdict(enum.StrEnum):
    """A configuration in comparison with another."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    """The difference was shown to lie within the margin."""
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float

    @staticmethod
    def around(estimate: float, half: float) -> Interval:
        """Return the interval that reaches half its width to both sides."""
        return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A configuration minus another, on the same seeds and rows; positive if the first is better, also for a loss."""

    gain: Interval
    """Simultaneous over all candidates of the study."""
    verdict: Verdict
    seeds_needed: int | None = None
    """Seeds of each that should settle an undecided comparison; None if it is decided, or no number of seeds would."""
    rows_needed: int | None = None
    """Validation rows that should settle it with the seeds at hand; None if it is decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """One candidate after its trials with fresh seeds."""

    name: str
    num_seeds: int
    metrics: Mapping[str, Interval]
    """Mean over seeds of each metric, e.g. ``validation/accuracy``."""
    against_default: Difference | None
    """In the study's metric; None for the default itself."""
    against_best: Difference | None
    """In the study's metric; None for the best itself."""
    differences: Mapping[str, Interval] = field(default_factory=dict)
    """Gain over the default in the other metrics."""
