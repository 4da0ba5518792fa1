"""What a user would choose at a moment of a search, and how good that really is: the one definition of the regret.

`study` uses it for simulated searches, and benchmarks/replay for all that are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sweeper.simulate.base import ResponseProtocol

__all__ = ["Rung", "incumbent", "regret_of"]


@dataclass(frozen=True, slots=True)
class Rung:
    """A score, and when it was known."""

    at_s: float
    trial: int
    """Index of its trial."""
    chunk: int
    score: float


def incumbent(rungs: Iterable[Rung], at_s: float, *, maximize: bool) -> int | None:
    """Return the trial that a user would choose: the complete one with the best final score.

    Without a complete trial, it is the one with the best score at the highest chunk that any has reached; before the
    first score, there is none. Of equal scores, the one that was known earlier counts, then the lower number.

    Args:
        rungs: All finite and other scores of a search.
        at_s: Seconds since its start.
        maximize: Whether higher scores are better.
    """
    known = [rung for rung in rungs if rung.at_s <= at_s and math.isfinite(rung.score)]
    furthest = max((rung.chunk for rung in known), default=0)
    sign = 1 if maximize else -1
    reached = (rung for rung in known if rung.chunk == furthest)
    best = max(reached, key=lambda rung: (sign * rung.score, -rung.at_s, -rung.trial), default=None)
    return None if best is None else best.trial


def regret_of(response: ResponseProtocol, mean_score: float) -> float:
    """Return by how much a mean score is worse than the best of the response, whichever direction is better."""
    return response.best_mean - mean_score if response.maximize else mean_score - response.best_mean
