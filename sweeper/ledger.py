"""The durable account of what a sweep has spent, and the one judge of whether it may go on.

It judges by what is spent and by the clock (window, deadline); what is predicted is `forecast`'s business.

Written after every chunk, so a restart never re-grants a budget: rows, tokens and device seconds of all chunks that
were reported, retries included, and the wall-clock time of every session.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sweeper.errors import StoreError
from sweeper.settings import BudgetSettings
from sweeper.store import write_atomic
from sweeper.types import Cost
from sweeper.windows import parse, parse_deadline

__all__ = ["Clock", "Ledger", "Stop", "find_stop", "utc_now"]

Clock = Callable[[], datetime]
"""Returns the present time, UTC-aware."""


def utc_now() -> datetime:
    """Return the present time, UTC-aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Stop:
    """The moment at which a session must have ended."""

    at: datetime
    reason: str
    """What ends it, and when, as the user typed and sees it."""
    is_final: bool
    """Whether it is the end of the sweep, not only of a night."""
    span_s: float = math.inf
    """Length of the window that it closes."""


def find_stop(budget: BudgetSettings, begin: datetime) -> Stop | None:
    """Return what ends a session first: its window, or the deadline; None if it may go on for ever.

    Args:
        budget: Window and deadline.
        begin: Begin of the session. Outside of a window it ends as it begins.

    Raises:
        ConfigError: Window, deadline or zone cannot be read.
    """
    windows = parse(budget.window, budget.time_zone)
    deadline = parse_deadline(budget.deadline, budget.time_zone, begin)
    stops = []
    if windows and not windows.is_open(begin):
        stops.append(Stop(begin, f"budget.window={windows} is closed", is_final=False))
    elif (closes_at := windows.closes_at(begin)) is not None:
        reason = f"budget.window={windows} closes at {windows.local(closes_at):%H:%M}"
        span_s = (closes_at - (windows.opened_at(begin) or begin)).total_seconds()
        stops.append(Stop(closes_at, reason, is_final=False, span_s=span_s))
    if deadline is not None:
        is_final = len(budget.deadline) > len("HH:MM")
        stops.append(Stop(deadline, f"budget.deadline={budget.deadline}", is_final=is_final))
    return min(stops, key=lambda stop: stop.at, default=None)


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

    def reason_to_stop(self, budget: BudgetSettings) -> str | None:
        """Return why no new trial may start, or None if it may."""
        limit_s = budget.device_hours * 3600
        if limit_s and self.cost.device_s >= limit_s:
            used = self.cost.device_s / 3600
            return f"budget.device_hours={budget.device_hours:g} is spent ({used:.2f} device hours used)"
        stop = find_stop(budget, self._begin)
        return stop.reason if stop is not None and self._clock() >= stop.at else None

    def left_s(self, stop: Stop) -> float:
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
