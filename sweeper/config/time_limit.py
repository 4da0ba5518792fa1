"""When a session must end: at the close of its time window, or at the deadline, whichever comes first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from sweeper.config.settings import BudgetSettings
from sweeper.config.time_windows import parse, parse_deadline

__all__ = ["TimeLimit", "find_time_limit"]


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The moment at which a session must have ended."""

    at: datetime
    reason: str
    """What ends it, and when, as the user typed and sees it."""
    is_final: bool
    """Whether it is the end of the sweep, not only of a night."""
    span_s: float = math.inf
    """Length of the window that it closes."""


def find_time_limit(budget: BudgetSettings, begin: datetime) -> TimeLimit | None:
    """Return what ends a session first: its window, or the deadline; None if it may go on for ever.

    Args:
        budget: Window and deadline.
        begin: Begin of the session. Outside of a window it ends as it begins.

    Raises:
        ConfigError: Window, deadline or zone cannot be read.
    """
    return _find_stop(budget.window, budget.deadline, budget.time_zone, begin)


@lru_cache(maxsize=64)
def _find_stop(window: str, deadline: str, time_zone: str, begin: datetime) -> TimeLimit | None:
    """Kept, since the controller asks several times a second."""
    windows, stops = parse(window, time_zone), []
    if windows and not windows.is_open(begin):
        stops.append(TimeLimit(begin, f"budget.window={windows} is closed", is_final=False))
    elif (closes_at := windows.closes_at(begin)) is not None:
        reason = f"budget.window={windows} closes at {windows.local(closes_at):%H:%M}"
        span_s = (closes_at - (windows.opened_at(begin) or begin)).total_seconds()
        stops.append(TimeLimit(closes_at, reason, is_final=False, span_s=span_s))
    if (moment := parse_deadline(deadline, time_zone, begin)) is not None:
        stops.append(TimeLimit(moment, f"budget.deadline={deadline}", is_final=len(deadline) > len("HH:MM")))
    return min(stops, key=lambda stop: stop.at, default=None)
