"""Trials that wait for a lane; some must wait until a given time, or train alone. Used by `study_run`.

A trial whose pack was lost is quarantined: it may have killed the worker, so it trains its next chunk alone. Waiting
times are not stored: after a restart of the sweep, every trial may start at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

__all__ = ["TrialQueue"]


class TrialQueue:
    """A queue of trial numbers.

    Args:
        timer: A monotonic clock, in seconds.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._due_at: dict[int, float] = {}
        self._quarantined: set[int] = set()

    def __len__(self) -> int:
        return len(self._due_at)

    @property
    def num_due(self) -> int:
        """Trials that may start now, quarantined or not."""
        now = self._timer()
        return sum(due <= now for due in self._due_at.values())

    @property
    def has_quarantined(self) -> bool:
        """Whether a quarantined trial may start now."""
        now = self._timer()
        return any(self._due_at[number] <= now for number in self._quarantined)

    def add(self, number: int, *, wait_s: float = 0.0, is_quarantined: bool = False) -> None:
        """Put a trial at the end of the queue.

        Args:
            number: The trial.
            wait_s: Seconds that it must wait.
            is_quarantined: Whether it must train its next chunk alone.
        """
        self._due_at[number] = self._timer() + wait_s if wait_s else 0.0
        if is_quarantined:
            self._quarantined.add(number)

    def put_first(self, numbers: Iterable[int]) -> None:
        """Put trials at the head of the queue."""
        self._due_at = {**dict.fromkeys(sorted(numbers), 0.0), **self._due_at}

    def find(self, accepts: Callable[[int], bool] = lambda _: True) -> int | None:
        """Return the first trial that may share a pack now and is accepted; it stays in the queue."""
        now = self._timer()
        free = (n for n, due in self._due_at.items() if due <= now and n not in self._quarantined)
        return next((number for number in free if accepts(number)), None)

    def take(self, accepts: Callable[[int], bool] = lambda _: True) -> int | None:
        """Remove and return the first trial that may share a pack now and is accepted; None if there is none."""
        number = self.find(accepts)
        return None if number is None else self._remove(number)

    def take_quarantined(self) -> int:
        """Remove and return the first quarantined trial that may start now; there must be one."""
        now = self._timer()
        return self._remove(next(n for n, due in self._due_at.items() if due <= now and n in self._quarantined))

    def _remove(self, number: int) -> int:
        del self._due_at[number]
        self._quarantined.discard(number)
        return number
