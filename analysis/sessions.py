"""The sessions of a sweep as rows of the report: when, why they ended, what they brought, how good predictions were."""

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
    """One session, in the words of the report."""

    number: int
    begun: str
    ended: str
    """When it ended; when it was last heard of, if it was killed or still runs."""
    reason: str
    num_trials: int
    device_h: float
    predicted: str
    """The end as it was predicted first, and when that was."""
    error_s: float | None
    """Seconds by which it ended later than predicted; None without prediction or end."""


def session_rows(store: TrialStore, settings: Mapping[str, Any]) -> list[SessionRow]:
    """Return a row for each session.

    Args:
        store: The sweep.
        settings: Its recorded settings, for the time zone.
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
        reason=session.reason or "no word of its end: killed, or still running",
        num_trials=session.num_finished,
        device_h=session.device_s / 3600,
        predicted=f"{_shown(first.ends_at, wall)} (at {_shown(first.at, wall)})" if first else "-",
        error_s=_seconds(first.ends_at, end) if first is not None and is_known else None,
    )


def _shown(moment: str, wall: TimeWindows) -> str:
    return f"{wall.local(datetime.fromisoformat(moment)):%Y-%m-%d %H:%M}"


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
