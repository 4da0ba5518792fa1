"""Trials that wait for a lane: some not before a time, some only alone. Used by `study_run`; knows no records.

A trial whose pack was lost is a suspect: it may have killed the worker, so it trains its next chunk alone. The times
are of this process only: whoever starts the sweep again has waited already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

__all__ = ["TrialQueue"]


class TrialQueue:
    """A queue of trial numbers.

    Args:
        timer: Seconds that only grow.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._due_at: dict[int, float] = {}
        self._quarantined: set[int] = set()

    def __len__(self) -> int:
        return len(self._due_at)

    @property
    def has_due(self) -> bool:
        """Whether a trial may start now, alone or not."""
        now = self._timer()
        return any(due <= now for due in self._due_at.values())

    @property
    def has_quarantined(self) -> bool:
        """Whether a trial may start now that must be alone."""
        now = self._timer()
        return any(self._due_at[number] <= now for number in self._quarantined)

    def add(self, number: int, *, wait_s: float = 0.0, is_quarantined: bool = False) -> None:
        """Put a trial at the end of the queue.

        Args:
            number: The trial.
            wait_s: Seconds before which it does not start.
            is_quarantined: Whether it must train its next chunk alone.
        """
        self._due_at[number] = self._timer() + wait_s if wait_s else 0.0
        if is_quarantined:
            self._quarantined.add(number)

    def put_first(self, numbers: Iterable[int]) -> None:
        """Put trials that give way for a moment at the head of the queue."""
        self._due_at = {**dict.fromkeys(sorted(numbers), 0.0), **self._due_at}

    def take(self, most: int) -> list[int]:
        """Take trials that may share a pack, in order."""
        now = self._timer()
        free = [n for n, due in self._due_at.items() if due <= now and n not in self._quarantined]
        return [self._remove(number) for number in free[: max(0, most)]]

    def take_quarantined(self) -> int:
        """Take the first trial that must be alone; there is one."""
        now = self._timer()
        return self._remove(next(n for n, due in self._due_at.items() if due <= now and n in self._quarantined))

    def _remove(self, number: int) -> int:
        del self._due_at[number]
        self._quarantined.discard(number)
        return number
