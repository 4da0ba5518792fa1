"""The present time, passed in wherever it matters, so that tests set it. Always UTC-aware."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Clock", "utc_now"]

Clock = Callable[[], datetime]
"""Returns the present time, UTC-aware."""


def utc_now() -> datetime:
    """Return the present time, UTC-aware."""
    return datetime.now(UTC)
