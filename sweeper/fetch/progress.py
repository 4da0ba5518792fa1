"""The callback to which downloads report their progress; `sweeper.display.downloads` shows it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "no_progress"]

Progress = Callable[[str, int, int], None]
"""Called as (what, bytes done, bytes in total or 0 if unknown)."""


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore progress."""
