"""Judges every contender's log by the same rule: what a user would choose at a moment, and how good that really is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from benchmarks.replay.driver import Log
from sweeper.simulate.base import ResponseProtocol
from sweeper.simulate.incumbent import incumbent, regret_of

__all__ = ["SHARES", "good_draws", "regrets"]

SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""Shares of the budget at which the regret is recorded."""


def regrets(response: ResponseProtocol, log: Log, budget_s: float, shares: Sequence[float] = SHARES) -> list[float]:
    """Return by how much the incumbent's mean score is below the best mean score, at shares of the budget.

    Before the first score, a user would choose the first draw.
    """

    @cache
    def regret(draw: int) -> float:
        return regret_of(response, response.mean_score(log.draws[draw].params))

    return [regret(incumbent(log.rungs, share * budget_s, maximize=response.maximize) or 0) for share in shares]


def good_draws(response: ResponseProtocol, log: Log) -> float:
    """Return the share of the search's own draws in the good zone; NaN without any."""
    own = [response.is_good(draw.params) for draw in log.draws if draw.is_own]
    return float(np.mean(own)) if own else math.nan
