"""How long a study ran: the time in the terminal and the report, and the basis of trials per hour."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Protocol

from sweeper.types import TrialRecord

__all__ = ["SessionTimes", "study_wall_s"]

_Span = tuple[float, float]
"""Start and end in seconds since 1970."""


class SessionTimes(Protocol):
    """When a session ran (see `sweeper.store.sessions.SessionRecord`); all UTC, ISO 8601."""

    @property
    def begun_at(self) -> str:
        """When it started."""
        ...

    @property
    def saved_at(self) -> str:
        """When its record was last written."""
        ...

    @property
    def ended_at(self) -> str:
        """When it ended; empty if it was killed or is still running."""
        ...


def study_wall_s(
    trials: Iterable[TrialRecord], sessions: Sequence[SessionTimes] = (), now: datetime | None = None
) -> float:
    """Return for how many seconds a study ran.

    This is the length of the union of its trials' spans, each from start to end, within the sessions: breaks between
    sessions do not count. A trial starts when the search proposes it, possibly before a lane is free.

    Args:
        trials: All trials of the study, references included.
        sessions: The sweep's sessions, in order; if empty, spans are not clipped.
        now: The present time if the last session is running: it and its running trials last until now. Otherwise they
            last until the session's record was last written.
    """
    records = [trial for trial in trials if trial.started_at]
    finished = sorted(_seconds(trial.finished_at) for trial in records if trial.finished_at)
    session_spans = _session_spans(sessions, finished, now)
    last = now.timestamp() if now else max((end for _, end in session_spans), default=0.0)
    spans = _union(
        (_seconds(trial.started_at), _seconds(trial.finished_at) if trial.finished_at else last) for trial in records
    )
    return sum(end - start for start, end in (_intersection(spans, _union(session_spans)) if sessions else spans))


def _session_spans(sessions: Sequence[SessionTimes], finished: Sequence[float], now: datetime | None) -> list[_Span]:
    """Return start and end of each session; a killed one lasted at least until its last trial ended.

    Args:
        sessions: The sessions, in order.
        finished: When trials ended, in order.
        now: The present time if the last session is running.
    """
    starts = [*(_seconds(session.begun_at) for session in sessions), math.inf]
    spans = []
    for session, (start, following) in zip(sessions, pairwise(starts), strict=True):
        if session.ended_at:
            end = _seconds(session.ended_at)
        elif now is not None and following == math.inf:
            end = now.timestamp()
        else:
            # Records are written once a minute: a trial that ended after the last one proves a later end.
            position = bisect_right(finished, following)
            end = max(_seconds(session.saved_at), finished[position - 1] if position else start)
        spans.append((start, end))
    return spans


def _union(spans: Iterable[_Span]) -> list[_Span]:
    """Merge overlapping spans, in order."""
    merged: list[_Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _intersection(one: Sequence[_Span], other: Sequence[_Span]) -> list[_Span]:
    """Return the intersection of two ordered, merged lists of spans."""
    common, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if end > start:
            common.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return common


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
