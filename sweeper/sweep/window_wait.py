"""Waits for the next time window, or says when it opens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sweeper.clock import Clock
from sweeper.config.settings import BudgetSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.config.time_windows import parse

__all__ = ["wait_for_window"]

_NAP_S = 20.0
"""While it waits it looks at the clock so often, since a suspended machine's timers stand still."""


def wait_for_window(
    budget: BudgetSettings,
    clock: Clock,
    *,
    say: Callable[[str], None],
    after: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until a session may begin, if the user wants that; say what holds it up.

    Args:
        budget: Window, deadline, and whether to wait.
        clock: The present time.
        say: Shows a line.
        after: Whether the window that may still be open is over, since nothing more fits into it.
        sleep: Waits for seconds.

    Returns:
        Whether a session may begin now.
    """
    now, windows = clock(), parse(budget.window, budget.time_zone)
    stop = find_time_limit(budget, now)
    if not after and (stop is None or now < stop.at):
        return True
    opening = windows.next_opening(now)
    if opening is None or not _is_before_deadline(budget, opening):
        say(f"{stop.reason if stop else 'The sweep'}: the time is over. Change it to go on.")
        return False
    when = f"budget.window={windows} opens {windows.local(opening):%a %d %b %H:%M}"
    if not budget.wait:
        say(f"Not now: {when}. The same command goes on then; budget.wait=true waits for it.")
        return False
    say(f"Waiting: {when}.")
    while (left := opening - clock()) > timedelta(0):
        sleep(min(left.total_seconds(), _NAP_S))
    return True


def _is_before_deadline(budget: BudgetSettings, opening: datetime) -> bool:
    stop = find_time_limit(dataclasses.replace(budget, window=""), opening)
    return stop is None or opening < stop.at
