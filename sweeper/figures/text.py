"""Words that summary and report share."""

from __future__ import annotations

__all__ = ["plural"]


def plural(number: int, noun: str) -> str:
    """Return a count with its noun, e.g. ``1 trial`` or ``3 trials``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
