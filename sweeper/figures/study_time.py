"""How long a study was under way: the time that screen, report and trials per hour go by."""

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
"""Begin and end in seconds since 1970."""


class SessionTimes(Protocol):
    """When a session ran (see `sweeper.store.sessions.SessionRecord`); all UTC, ISO 8601."""

    @property
    def begun_at(self) -> str:
        """When it began."""
        ...

    @property
    def saved_at(self) -> str:
        """When its record was last written."""
        ...

    @property
    def ended_at(self) -> str:
        """When it ended; empty if it was killed or still runs."""
        ...


def study_wall_s(
    trials: Iterable[TrialRecord], sessions: Sequence[SessionTimes] = (), now: datetime | None = None
) -> float:
    """Return the seconds in which a study was under way.

    That is the length of the union of its trials' spans, from the start of each to its end, within the sessions: the
    breaks between sessions do not count. A trial starts when the search proposes it, which may be before a lane is
    free.

    Args:
        trials: All trials of the study, references included.
        sessions: The sweep's sessions, in order; without any, spans are not cut.
        now: The present time if the last session is under way, which makes it and its running trials last until now.
            Otherwise they last until the session's record was last written.
    """
    records = [trial for trial in trials if trial.started_at]
    finished = sorted(_seconds(trial.finished_at) for trial in records if trial.finished_at)
    cuts = _session_spans(sessions, finished, now)
    last = now.timestamp() if now else max((end for _, end in cuts), default=0.0)
    spans = _union(
        (_seconds(trial.started_at), _seconds(trial.finished_at) if trial.finished_at else last) for trial in records
    )
    return sum(end - begin for begin, end in (_common(spans, _union(cuts)) if sessions else spans))


def _session_spans(sessions: Sequence[SessionTimes], finished: Sequence[float], now: datetime | None) -> list[_Span]:
    """Return begin and end of each session; one that was killed lasted at least until its last trial ended.

    Args:
        sessions: The sessions, in order.
        finished: When trials ended, in order.
        now: The present time if the last session is under way.
    """
    begins = [*(_seconds(session.begun_at) for session in sessions), math.inf]
    spans = []
    for session, (begin, following) in zip(sessions, pairwise(begins), strict=True):
        if session.ended_at:
            end = _seconds(session.ended_at)
        elif now is not None and following == math.inf:
            end = now.timestamp()
        else:
            # Records are written once a minute: trials that ended after the last one are proof of a later end.
            position = bisect_right(finished, following)
            end = max(_seconds(session.saved_at), finished[position - 1] if position else begin)
        spans.append((begin, end))
    return spans


def _union(spans: Iterable[_Span]) -> list[_Span]:
    """Return spans that do not overlap and cover the same time, in order."""
    merged: list[_Span] = []
    for begin, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def _common(one: Sequence[_Span], other: Sequence[_Span]) -> list[_Span]:
    """Return the time that two unions have in common."""
    common, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        begin, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if end > begin:
            common.append((begin, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return common


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
