"""Judges every contender's log by the same rule: what a user would choose at a moment, and how good that really is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from benchmarks.replay.driver import Log
from sweeper.simulate.base import ResponseProtocol

__all__ = ["SHARES", "good_draws", "incumbent", "regrets"]

SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""Shares of the budget at which the regret is recorded."""


def incumbent(response: ResponseProtocol, log: Log, at_s: float) -> int:
    """Return the draw that a user would choose: that of the best complete trial.

    Without a complete one, it is the best trial at the highest chunk that any reached; without a score, the first draw.
    Among equal scores, the earlier one counts.
    """
    known = [rung for rung in log.rungs if rung.at_s <= at_s and math.isfinite(rung.score)]
    if not known:
        return 0
    furthest = max(rung.chunk for rung in known)
    known = [rung for rung in known if rung.chunk == furthest]
    sign = 1 if response.maximize else -1
    return max(known, key=lambda rung: sign * rung.score).trial


def regrets(response: ResponseProtocol, log: Log, budget_s: float, shares: Sequence[float] = SHARES) -> list[float]:
    """Return by how much the incumbent's mean score is below the best mean score, at shares of the budget."""

    @cache
    def regret(draw: int) -> float:
        return regret_of(response, response.mean_score(log.draws[draw].params))

    return [regret(incumbent(response, log, share * budget_s)) for share in shares]


def regret_of(response: ResponseProtocol, mean_score: float) -> float:
    """Return the regret of a mean score, positive whichever direction is better."""
    return response.best_mean - mean_score if response.maximize else mean_score - response.best_mean


def good_draws(response: ResponseProtocol, log: Log) -> float:
    """Return the share of the search's own draws in the good zone; NaN without any."""
    own = [response.is_good(draw.params) for draw in log.draws if draw.is_own]
    return float(np.mean(own)) if own else math.nan
