"""The sessions of a sweep as rows of the report: times, reason for the end, results, and error of the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sweeper.config.time_windows import local_time
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.store.trials import TrialStore

__all__ = ["SessionRow", "session_rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRow:
    """One session, as the report shows it; times are local."""

    number: int
    started: str
    ended: str
    """When it ended, or when its record was last written if it was killed or is still running."""
    reason: str
    num_trials: int
    device_h: float
    predicted: str
    """The first predicted end, and when the prediction was made."""
    error_s: float | None
    """Seconds by which it ended later than predicted; None without a prediction or an end."""


def session_rows(store: TrialStore, settings: Mapping[str, Any]) -> list[SessionRow]:
    """Return a row for each session.

    Args:
        store: The sweep.
        settings: Its recorded settings; they name the time zone.
    """
    zone = str((settings.get("budget") or {}).get("time_zone", ""))
    return [_row(session, zone) for session in SessionLog(store.root).read()]


def _row(session: SessionRecord, zone: str) -> SessionRow:
    first = session.predictions[0] if session.predictions else None
    end = session.ended_at or session.saved_at
    is_known = first is not None and bool(session.ended_at)
    late = (
        datetime.fromisoformat(end) - datetime.fromisoformat(first.ends_at) if first is not None and is_known else None
    )
    return SessionRow(
        number=session.number,
        started=_local_text(session.begun_at, zone),
        ended=_local_text(end, zone) + ("" if session.ended_at else " or later"),
        reason=session.reason or "killed, or still running",
        num_trials=session.num_finished,
        device_h=session.device_s / 3600,
        predicted=f"{_local_text(first.ends_at, zone)} (at {_local_text(first.at, zone)})" if first else "-",
        error_s=late.total_seconds() if late is not None else None,
    )


def _local_text(moment: str, zone: str) -> str:
    return f"{local_time(datetime.fromisoformat(moment), zone):%Y-%m-%d %H:%M}"
