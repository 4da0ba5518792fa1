"""The present time, UTC-aware: a function that is passed in wherever time matters, so that tests can set it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Clock", "timestamp", "utc_now"]

Clock = Callable[[], datetime]
"""Returns the present time, UTC-aware."""


def utc_now() -> datetime:
    """Return the present time, UTC-aware."""
    return datetime.now(UTC)


def timestamp(clock: Clock = utc_now) -> str:
    """Return the present time as records store it, in ISO 8601. With milliseconds: a trial can take under a second."""
    return clock().isoformat(timespec="milliseconds")
