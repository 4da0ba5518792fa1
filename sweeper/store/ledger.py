"""Records on disk what a sweep has spent, and checks it against budget, time window and deadline.

Written after every chunk, so a restart never resets the budget. Counts rows, tokens and device seconds of all reported
chunks, retries included, and the wall-clock time of every session. `forecast` makes the predictions.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sweeper.clock import Clock, utc_now
from sweeper.config.settings import BudgetSettings
from sweeper.config.time_limit import TimeLimit, find_time_limit
from sweeper.disk.atomic import write_atomic
from sweeper.errors import StoreError
from sweeper.types import Cost

__all__ = ["Ledger"]


class Ledger:
    """What one sweep has spent.

    Args:
        path: The sweep's ledger.json; created by the first charge. None keeps nothing on disk.
        clock: The present time; decides when windows and deadlines end.
        timer: A monotonic clock, in seconds; measures durations, so that they are right if the clock is set.

    Raises:
        StoreError: The file is damaged.
    """

    def __init__(self, path: Path | None, clock: Clock = utc_now, timer: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock, self._timer = clock, timer
        self._started_s = timer()
        self.started_at = clock()
        """When this session started."""
        self.cost = Cost()
        self._past_s = 0.0
        if path is not None and path.exists():
            self._read(path)

    @property
    def now(self) -> datetime:
        """The present time."""
        return self._clock()

    @property
    def wall_s(self) -> float:
        """Seconds of all sessions, this one included; those during which the machine was suspended do not count."""
        return self._past_s + self.session_s

    @property
    def session_s(self) -> float:
        """Seconds since this session started."""
        return self._timer() - self._started_s

    def charge(self, cost: Cost) -> None:
        """Add the cost of a chunk and write the file."""
        self.cost = self.cost + cost
        self.save()

    def save(self) -> None:
        """Write the file."""
        if self._path is None:
            return
        content = {"cost": dataclasses.asdict(self.cost), "wall_s": self.wall_s, "saved_at": self._clock().isoformat()}
        write_atomic(self._path, json.dumps(content, indent=1).encode())

    def spent_reason(self, budget: BudgetSettings) -> str | None:
        """Return why the sweep may not start anything more, or None if it may."""
        limit_s = budget.device_hours * 3600
        if limit_s and self.cost.device_s >= limit_s:
            used = self.cost.device_s / 3600
            return f"budget.device_hours={budget.device_hours:g} is spent ({used:.2f} device hours used)"
        limit = find_time_limit(budget, self.started_at)
        return limit.reason if limit is not None and self._clock() >= limit.at else None

    def left_s(self, limit: TimeLimit) -> float:
        """Return the seconds until a time limit; negative once it has passed."""
        return (limit.at - self._clock()).total_seconds()

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
            self.cost = Cost(**content["cost"])
            self._past_s = float(content["wall_s"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is damaged ({error!r}). To rebuild it from the trials, run: "
                f"sweeper reconcile {path.parent.name}"
            ) from error
