"""Distinguishes hung workers from slow ones. Called by `controller` at every tick.

A worker counts as hung if it takes many times as long as its slowest chunk so far. Only time during which this process
itself ran counts, at most a few seconds per tick, so workers are not killed because a laptop, container or virtual
machine was suspended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sweeper.config.settings import ExecutorSettings

__all__ = ["Watchdog"]

_LONGEST_TICK_S = 10.0
"""The controller ticks twice a second. During a longer gap this process itself was suspended or busy."""


@dataclass(slots=True)
class _Watch:
    """A request that a worker has not replied to yet."""

    what: str
    limit_s: float
    num_lanes: int = 0
    spent_s: float = 0.0


class Watchdog:
    """Measures how long workers take, and reports those that take too long.

    Args:
        settings: ``hang_timeout_factor``, ``hang_timeout_min_s`` and ``startup_timeout_s``.
        timer: A monotonic clock, in seconds.
    """

    def __init__(self, settings: ExecutorSettings, timer: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._timer = settings, timer
        self._ticked_at = timer()
        self._watches: dict[int, _Watch] = {}
        self._usual: dict[int, float] = {}

    def tick(self) -> None:
        """Add the time since the last tick to the workers that have not replied."""
        now = self._timer()
        awake_s = min(now - self._ticked_at, _LONGEST_TICK_S)
        self._ticked_at = now
        for watch in self._watches.values():
            watch.spent_s += awake_s

    def started(self, index: int, what: str, *, num_lanes: int = 0) -> None:
        """Start to watch a worker.

        Args:
            index: The worker.
            what: The request it works on, e.g. ``a chunk of trec``.
            num_lanes: Trials in the chunk; 0 for the start of a worker or the opening of a study, which discards
                earlier measurements.
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

    def finished(self, index: int, *, is_good: bool = False) -> float:
        """Stop watching a worker.

        Args:
            index: The worker.
            is_good: Whether the worker replied, so that the time of this chunk counts for the limit of later ones.

        Returns:
            Seconds since `started`.
        """
        self.tick()
        watch = self._watches.pop(index, None)
        if watch is None:
            return 0.0
        if is_good and watch.num_lanes:
            # On a GPU a single lane takes longer than one of many; the longest time is the safe choice.
            self._usual[index] = max(self._usual.get(index, 0.0), watch.spent_s / watch.num_lanes)
        return watch.spent_s

    def overdue(self, index: int) -> str:
        """Return the message about a hung worker; empty if the worker is not hung."""
        watch = self._watches.get(index)
        if watch is None or watch.spent_s <= watch.limit_s:
            return ""
        return f"worker {index} was killed: no answer to {watch.what} within {watch.limit_s:.0f} s"
