"""The durable account of what a sweep has spent, and the one judge of whether it may go on.

It judges by what is spent and by the clock (window, deadline); what is predicted is `forecast`'s business.

Written after every chunk, so a restart never re-grants a budget: rows, tokens and device seconds of all chunks that
were reported, retries included, and the wall-clock time of every session.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path

from sweeper.clock import Clock, utc_now
from sweeper.config.settings import BudgetSettings
from sweeper.config.time_limit import TimeLimit, find_time_limit
from sweeper.errors import StoreError
from sweeper.store.atomic import write_atomic
from sweeper.types import Cost

__all__ = ["Ledger"]


class Ledger:
    """What one sweep has spent.

    Args:
        path: The sweep's ledger.json; made at the first charge.
        clock: The present time.

    Raises:
        StoreError: The file is damaged.
    """

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self._path = path
        self._clock = clock
        self._begin = clock()
        self.cost = Cost()
        self.past_s = 0.0
        if path.exists():
            self._read()

    @property
    def now(self) -> datetime:
        """The present time."""
        return self._clock()

    @property
    def begun_at(self) -> datetime:
        """Begin of this session."""
        return self._begin

    @property
    def wall_s(self) -> float:
        """Seconds in which the sweep was running, this session included."""
        return self.past_s + self.session_s

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return (self._clock() - self._begin).total_seconds()

    def charge(self, cost: Cost) -> None:
        """Add what a chunk cost, and keep it."""
        self.cost = self.cost + cost
        self.save()

    def save(self) -> None:
        """Keep the account as it stands."""
        content = {"cost": dataclasses.asdict(self.cost), "wall_s": self.wall_s, "saved_at": self._clock().isoformat()}
        write_atomic(self._path, json.dumps(content, indent=1).encode())

    def spent_reason(self, budget: BudgetSettings) -> str | None:
        """Return why no new trial may start, or None if it may."""
        limit_s = budget.device_hours * 3600
        if limit_s and self.cost.device_s >= limit_s:
            used = self.cost.device_s / 3600
            return f"budget.device_hours={budget.device_hours:g} is spent ({used:.2f} device hours used)"
        stop = find_time_limit(budget, self._begin)
        return stop.reason if stop is not None and self._clock() >= stop.at else None

    def left_s(self, stop: TimeLimit) -> float:
        """Return the seconds until a session must have ended; negative when that is past."""
        return (stop.at - self._clock()).total_seconds()

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text())
            self.cost = Cost(**content["cost"])
            self.past_s = float(content["wall_s"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self._path} is damaged ({error!r}); delete it to count what was spent from 0 again"
            ) from error
