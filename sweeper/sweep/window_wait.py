"""Waits for the next time window, or prints when it opens. `run` calls it before each session."""

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
"""Read the clock at least this often while waiting, since timers stop while a machine is suspended."""


def wait_for_window(
    budget: BudgetSettings,
    clock: Clock,
    *,
    print_line: Callable[[str], None],
    after: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until a session may start if ``budget.wait`` is set; otherwise print when the next window opens.

    Args:
        budget: Window, deadline, and whether to wait.
        clock: The present time.
        print_line: Prints a line.
        after: Whether a session just ended, so that the next window is meant although one may still be open.
        sleep: Waits for seconds.

    Returns:
        Whether a session may start now.
    """
    now, windows = clock(), parse_windows(budget.window, budget.time_zone)
    limit = find_time_limit(budget, now)
    if not after and (limit is None or now < limit.at):
        return True
    opening = windows.next_opening(now)
    deadline = None if opening is None else find_time_limit(dataclasses.replace(budget, window=""), opening)
    if opening is None or (deadline is not None and opening >= deadline.at):
        print_line(
            f"No time is left: {limit.reason if limit else 'no window follows'}. Change budget.deadline to continue."
        )
        return False
    when = f"budget.window={windows} opens {windows.local(opening):%a %d %b %H:%M}"
    if not budget.wait:
        print_line(f"Not started: {when}. Run the same command again then, or set budget.wait=true to wait for it.")
        return False
    print_line(f"Waiting: {when}.")
    while (left := opening - clock()) > timedelta(0):
        sleep(min(left.total_seconds(), _MAX_SLEEP_S))
    return True
