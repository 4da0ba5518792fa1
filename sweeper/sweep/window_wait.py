"""Waits for the next time window, or prints when it opens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import timedelta

from sweeper.clock import Clock
from sweeper.config.settings import BudgetSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.config.time_windows import parse_windows

__all__ = ["wait_for_window"]

_MAX_SLEEP_S = 20.0
"""The clock is read this often while waiting, since timers stand still while a machine is suspended."""


def wait_for_window(
    budget: BudgetSettings,
    clock: Clock,
    *,
    say: Callable[[str], None],
    after: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until a session may begin, if the user asked to wait; otherwise print when the next window opens.

    Args:
        budget: Window, deadline, and whether to wait.
        clock: The present time.
        say: Prints a line.
        after: Whether to wait for the next window although one may be open, since no further chunk fits into it.
        sleep: Waits for seconds.

    Returns:
        Whether a session may begin now.
    """
    now, windows = clock(), parse_windows(budget.window, budget.time_zone)
    limit = find_time_limit(budget, now)
    if not after and (limit is None or now < limit.at):
        return True
    opening = windows.next_opening(now)
    deadline = None if opening is None else find_time_limit(dataclasses.replace(budget, window=""), opening)
    if opening is None or (deadline is not None and opening >= deadline.at):
        say(f"No time is left: {limit.reason if limit else 'no window follows'}. Change budget.deadline to continue.")
        return False
    when = f"budget.window={windows} opens {windows.local(opening):%a %d %b %H:%M}"
    if not budget.wait:
        say(f"Not started: {when}. Run the same command again then, or set budget.wait=true to wait for it.")
        return False
    say(f"Waiting: {when}.")
    while (left := opening - clock()) > timedelta(0):
        sleep(min(left.total_seconds(), _MAX_SLEEP_S))
    return True
