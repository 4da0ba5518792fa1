"""The present time, UTC-aware: a function that is passed in wherever time matters, so that tests can set it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Clock", "utc_now"]

Clock = Callable[[], datetime]
"""Returns the present time, UTC-aware."""


def utc_now() -> datetime:
    """Return the present time, UTC-aware."""
    return datetime.now(UTC)
