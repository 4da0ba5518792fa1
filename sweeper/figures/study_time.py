"""How long a study ran: the time in the terminal and the report, and the basis of trials per hour."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Protocol

from sweeper.types import TrialRecord

__all__ = ["SessionTimes", "StudySpans", "study_wall_s"]

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


class StudySpans:
    """When the trials of a study ran; adding one costs the same however many there are."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        """When trials ended, in order."""
        self._spans: list[_Span] = []
        """The union of the spans of finished trials, in order."""

    def add(self, trial: TrialRecord) -> None:
        """Add a finished trial."""
        if trial.started_at and trial.finished_at:
            end = _seconds(trial.finished_at)
            insort(self._ends, end)
            _merge(self._spans, (_seconds(trial.started_at), end))

    def wall_s(
        self, running: Iterable[TrialRecord], sessions: Sequence[SessionTimes] = (), now: datetime | None = None
    ) -> float:
        """Return what `study_wall_s` does, for the trials that were added and the running ones."""
        session_spans = _session_spans(sessions, self._ends, now)
        last = now.timestamp() if now else max((end for _, end in session_spans), default=0.0)
        spans = self._spans.copy()
        for trial in running:
            if trial.started_at:
                _merge(spans, (_seconds(trial.started_at), last))
        return sum(end - start for start, end in (_intersection(spans, _union(session_spans)) if sessions else spans))


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
    spans, running = StudySpans(), []
    for trial in trials:
        if trial.finished_at:
            spans.add(trial)
        else:
            running.append(trial)
    return spans.wall_s(running, sessions, now)


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
    for span in spans:
        _merge(merged, span)
    return merged


def _merge(spans: list[_Span], span: _Span) -> None:
    """Insert a span into ordered spans that do not overlap; an empty one is left out."""
    start, end = span
    if end <= start:
        return
    first = bisect_right(spans, (start, math.inf))
    if first and spans[first - 1][1] >= start:
        first -= 1
    after = first
    while after < len(spans) and spans[after][0] <= end:
        start, end = min(start, spans[after][0]), max(end, spans[after][1])
        after += 1
    spans[first:after] = [(start, end)]


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
