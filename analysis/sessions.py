"""The sessions of a sweep as rows of the report: times, reason of the end, results, and the error of the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sweeper.config.time_windows import TimeWindows, parse
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.store.trials import TrialStore

__all__ = ["SessionRow", "session_rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRow:
    """One session as the report shows it."""

    number: int
    begun: str
    ended: str
    """When it ended, or when its record was last written if it was killed or is still running."""
    reason: str
    num_trials: int
    device_h: float
    predicted: str
    """The first predicted end, and when it was predicted."""
    error_s: float | None
    """Seconds by which it ended later than predicted; None without prediction or end."""


def session_rows(store: TrialStore, settings: Mapping[str, Any]) -> list[SessionRow]:
    """Return a row for each session.

    Args:
        store: The sweep.
        settings: Its recorded settings; they name the time zone.
    """
    wall = parse("", str((settings.get("budget") or {}).get("time_zone", "")))
    return [_row(session, wall) for session in SessionLog(store.root).read()]


def _row(session: SessionRecord, wall: TimeWindows) -> SessionRow:
    first = session.predictions[0] if session.predictions else None
    end = session.ended_at or session.saved_at
    is_known = first is not None and bool(session.ended_at)
    return SessionRow(
        number=session.number,
        begun=_shown(session.begun_at, wall),
        ended=_shown(end, wall) + ("" if session.ended_at else " or later"),
        reason=session.reason or "killed, or still running",
        num_trials=session.num_finished,
        device_h=session.device_s / 3600,
        predicted=f"{_shown(first.ends_at, wall)} (at {_shown(first.at, wall)})" if first else "-",
        error_s=_seconds(first.ends_at, end) if first is not None and is_known else None,
    )


def _shown(moment: str, wall: TimeWindows) -> str:
    return f"{wall.local(datetime.fromisoformat(moment)):%Y-%m-%d %H:%M}"


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
