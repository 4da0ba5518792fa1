"""The durable account of what a sweep has spent, and the one judge of whether it may go on.

Written after every chunk, so a restart never re-grants a budget: rows, tokens and device seconds of all chunks that
were reported, retries included, and the wall-clock time of every session.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sweeper.errors import StoreError
from sweeper.settings import BudgetSettings
from sweeper.store import write_atomic
from sweeper.types import Cost

__all__ = ["Clock", "Ledger", "utc_now"]

Clock = Callable[[], datetime]
"""Returns the present time, UTC-aware."""


def utc_now() -> datetime:
    """Return the present time, UTC-aware."""
    return datetime.now(UTC)


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

    def reason_to_stop(self, budget: BudgetSettings) -> str | None:
        """Return why no new trial may start, or None if it may."""
        limit_s = budget.device_hours * 3600
        if limit_s and self.cost.device_s >= limit_s:
            used = self.cost.device_s / 3600
            return f"budget.device_hours={budget.device_hours:g} is spent ({used:.2f} device hours used)"
        return None

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text())
            self.cost = Cost(**content["cost"])
            self.past_s = float(content["wall_s"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self._path} is damaged ({error!r}); delete it to count what was spent from 0 again"
            ) from error
