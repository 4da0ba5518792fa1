"""Tells a worker that hangs from one that is slow. Asked by `controller` at every tick.

A worker hangs when it has not answered for many times as long as its longest chunk took. Only time in which this
process itself was awake counts, and a tick counts for a few seconds at most: after a suspended laptop, a paused
container or a frozen virtual machine wakes up, the workers get the time that they need, whatever the clocks say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sweeper.config.settings import ExecutorSettings

__all__ = ["Watchdog"]

_LONGEST_TICK_S = 10.0
"""The controller looks twice a second; what is longer than this, it slept, or was busy itself."""


@dataclass(slots=True)
class _Watch:
    what: str
    limit_s: float
    num_lanes: int = 0
    spent_s: float = 0.0


class Watchdog:
    """Measures how long workers take, and says when it is too long.

    Args:
        settings: ``hang_timeout_factor``, ``hang_timeout_min_s`` and ``startup_timeout_s``.
        timer: Seconds that only grow.
    """

    def __init__(self, settings: ExecutorSettings, timer: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._timer = settings, timer
        self._ticked_at = timer()
        self._watches: dict[int, _Watch] = {}
        self._usual: dict[int, float] = {}

    def tick(self) -> None:
        """Let time pass for the workers that owe an answer."""
        now = self._timer()
        awake_s = min(now - self._ticked_at, _LONGEST_TICK_S)
        self._ticked_at = now
        for watch in self._watches.values():
            watch.spent_s += awake_s

    def began(self, index: int, what: str, *, num_lanes: int = 0) -> None:
        """Watch a worker from now on.

        Args:
            index: The worker.
            what: What it was asked for, e.g. ``a chunk of trec``.
            num_lanes: Trials in the chunk; 0 for a start or the opening of a study, after which it is measured anew.
        """
        self.tick()
        if not num_lanes:
            self._usual.pop(index, None)
        usual_s = self._usual.get(index)
        settings = self._settings
        limit_s = settings.startup_timeout_s
        if usual_s is not None:
            limit_s = max(settings.hang_timeout_min_s, settings.hang_timeout_factor * usual_s * num_lanes)
        self._watches[index] = _Watch(what, limit_s, num_lanes)

    def ended(self, index: int, *, is_good: bool = False) -> float:
        """Watch a worker no longer.

        Args:
            index: The worker.
            is_good: Whether a chunk was trained, whose time is then the measure of later ones.

        Returns:
            Seconds since it began.
        """
        self.tick()
        watch = self._watches.pop(index, None)
        if watch is None:
            return 0.0
        if is_good and watch.num_lanes:
            # on a GPU a lane alone takes longer than one of many: the longest errs on the safe side
            self._usual[index] = max(self._usual.get(index, 0.0), watch.spent_s / watch.num_lanes)
        return watch.spent_s

    def overdue(self, index: int) -> str:
        """Return why a worker is taken for hung; empty if it is not."""
        watch = self._watches.get(index)
        if watch is None or watch.spent_s <= watch.limit_s:
            return ""
        return f"worker {index} was killed: no answer to {watch.what} within {watch.limit_s:.0f} s"
