"""When a session must end: at the close of its time window, or at the deadline, whichever comes first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from sweeper.config.settings import BudgetSettings
from sweeper.config.time_windows import parse_deadline, parse_windows

__all__ = ["TimeLimit", "find_time_limit"]


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The moment at which a session must have ended."""

    at: datetime
    reason: str
    """What ends the session, with its key and value, e.g. ``budget.deadline=07:00``."""
    is_final: bool
    """Whether it ends the sweep, not only this session."""
    span_s: float = math.inf
    """Length of the time window that ends here."""


def find_time_limit(budget: BudgetSettings, started_at: datetime) -> TimeLimit | None:
    """Return what ends a session first, its time window or the deadline; None if neither is set.

    Args:
        budget: Window and deadline.
        started_at: When the session started. Outside the window it ends at once.

    Raises:
        ConfigError: Window, deadline or time zone cannot be read.
    """
    return _find_time_limit(budget.window, budget.deadline, budget.time_zone, started_at)


@lru_cache(maxsize=64)
def _find_time_limit(window: str, deadline: str, time_zone: str, started_at: datetime) -> TimeLimit | None:
    """Find the limit; cached, since the controller asks several times a second."""
    windows, limits = parse_windows(window, time_zone), []
    if windows and not windows.is_open(started_at):
        limits.append(TimeLimit(started_at, f"budget.window={windows} is closed", is_final=False))
    elif (closes_at := windows.closes_at(started_at)) is not None:
        reason = f"budget.window={windows} closes at {windows.local(closes_at):%H:%M}"
        span_s = (closes_at - (windows.opened_at(started_at) or started_at)).total_seconds()
        limits.append(TimeLimit(closes_at, reason, is_final=False, span_s=span_s))
    if (moment := parse_deadline(deadline, time_zone, started_at)) is not None:
        limits.append(TimeLimit(moment, f"budget.deadline={deadline}", is_final=len(deadline) > len("HH:MM")))
    return min(limits, key=lambda limit: limit.at, default=None)
