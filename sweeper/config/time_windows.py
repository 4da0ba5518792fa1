"""Weekly time windows in which a sweep may run, ``mon-fri 22:00-07:00; sat,sun 00:00-24:00``, and its deadline.

Pure values and arithmetic; reads no clock. `checks` parses the text before anything starts, `time_limit` asks whether a
window is open, and `jobs` turns the openings into timers.

Windows are in local time, in one time zone. A time that the clock skips in spring counts as the moment of the skip; one
that occurs twice in autumn counts the first time. Arguments and results are UTC-aware, since Python's difference of two
times in one zone is that of the local clock, an hour wrong on such days. `TimeWindows.local` converts for display.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sweeper.errors import ConfigError, did_you_mean

__all__ = ["DAYS", "TimeWindow", "TimeWindows", "local_time", "parse_deadline", "parse_windows"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MIN = 24 * 60
_REMEDY = 'Write e.g. "22:00-07:00" or "mon-fri 22:00-07:00; sat,sun 00:00-24:00".'
_SHAPE = re.compile(r"(?:(?P<days>[a-z,\s-]*[a-z])\s+)?(?P<start>\d{1,2}:\d{2})\s*-\s*(?P<end>\d{1,2}:\d{2})")
_AHEAD = timedelta(days=9)
"""Covers every weekday again, so a window that has not closed by then never does."""


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """A span of the day, on some days of the week."""

    days: tuple[int, ...]
    """Days on which it opens, in order; 0 is Monday."""
    start: int
    """Minutes after midnight, below 1440."""
    end: int
    """Minutes after midnight, 1 to 1440; on the next day if not after ``start``."""

    @property
    def start_text(self) -> str:
        """Start as ``HH:MM``."""
        return _clock_text(self.start)

    @property
    def end_text(self) -> str:
        """End as ``HH:MM``; ``24:00`` for midnight."""
        return _clock_text(self.end)

    @property
    def days_text(self) -> str:
        """Days as ``mon-fri`` or ``mon,wed``; empty for every day."""
        if len(self.days) == len(DAYS):
            return ""
        is_range = len(self.days) > 2 and self.days[-1] - self.days[0] == len(self.days) - 1  # noqa: PLR2004 - a,b
        shown = (self.days[0], self.days[-1]) if is_range else self.days
        return ("-" if is_range else ",").join(DAYS[day] for day in shown)

    def __str__(self) -> str:
        return f"{self.days_text} {self.start_text}-{self.end_text}".strip()

    @property
    def crosses_midnight(self) -> bool:
        """Whether it ends on the day after it opens."""
        return self.end <= self.start


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """All windows of a sweep; without any, it may always run."""

    windows: tuple[TimeWindow, ...] = ()
    zone: ZoneInfo | None = None
    """Time zone of the windows; None for that of the machine."""

    def __iter__(self) -> Iterator[TimeWindow]:
        return iter(self.windows)

    def __len__(self) -> int:
        return len(self.windows)

    def __bool__(self) -> bool:
        return bool(self.windows)

    def __str__(self) -> str:
        return "; ".join(map(str, self.windows))

    def is_open(self, now: datetime) -> bool:
        """Whether the sweep may run at ``now``; a window includes its start but not its end."""
        return not self.windows or self._open_span(now) is not None

    def opened_at(self, now: datetime) -> datetime | None:
        """Return when the open window opened; None if none is open, or if it is always open."""
        span = self._open_span(now)
        return None if span is None or now - span[0] >= timedelta(days=7) else span[0]

    def closes_at(self, now: datetime) -> datetime | None:
        """Return when the open window closes, adjacent ones joined; None if none is open, or if it never closes."""
        span = self._open_span(now)
        return None if span is None or span[1] - now >= timedelta(days=7) else span[1]

    def next_opening(self, now: datetime) -> datetime | None:
        """Return the next time after ``now`` at which a window opens; None if it is always open."""
        return next((start for start, _ in self._spans(now) if start > now), None)

    def local(self, moment: datetime) -> datetime:
        """Convert to the time zone of the windows."""
        return moment.astimezone(self.zone)

    def _open_span(self, now: datetime) -> tuple[datetime, datetime] | None:
        return next(((start, end) for start, end in self._spans(now) if start <= now < end), None)

    def _spans(self, now: datetime) -> list[tuple[datetime, datetime]]:
        """Return the spans around ``now`` in order; touching ones are merged."""
        today = self.local(now).date()
        days = [today + timedelta(days=shift) for shift in range(-_AHEAD.days, _AHEAD.days + 1)]
        spans = sorted(self._span(window, day) for window in self for day in days if day.weekday() in window.days)
        return reduce(_merge, (span for span in spans if span[0] < span[1]), [])

    def _span(self, window: TimeWindow, day: date) -> tuple[datetime, datetime]:
        last = day + timedelta(days=1) if window.crosses_midnight else day
        return _moment(day, window.start, self.zone), _moment(last, window.end, self.zone)


def parse_windows(text: str, time_zone: str = "", *, key: str = "budget.window") -> TimeWindows:
    """Parse windows.

    Args:
        text: Windows separated by ``;``, each ``HH:MM-HH:MM`` with optional days before it; empty for always.
        time_zone: An IANA name, e.g. ``Europe/Berlin``; that of the machine if empty.
        key: Dotted key of the setting, for error messages.

    Raises:
        ConfigError: The text is not a list of windows, or the zone is unknown.
    """
    parts = [part.strip().lower() for part in text.split(";")]
    if text.strip() and not all(parts):
        raise ConfigError(key, text, "a window is missing beside a ';'", _REMEDY)
    return TimeWindows(tuple(_window(part, key) for part in parts if part), _find_zone(time_zone))


def local_time(moment: datetime, time_zone: str) -> datetime:
    """Convert a time to a time zone, given by its IANA name; to that of the machine if the name is empty."""
    return moment.astimezone(_find_zone(time_zone))


def _find_zone(name: str) -> ZoneInfo | None:
    """Return a time zone by its IANA name; None, for that of the machine, if the name is empty.

    Raises:
        ConfigError: There is no such zone.
    """
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        remedy = "Write an IANA name, e.g. Europe/Berlin, or nothing for the zone of this machine."
        raise ConfigError("budget.time_zone", name, "there is no time zone of this name", remedy) from error


def parse_deadline(text: str, time_zone: str, started_at: datetime) -> datetime | None:
    """Return when a session must end, whether or not a window is open; None for an empty text.

    Args:
        text: ISO date and time, or ``HH:MM`` for the first such time after ``started_at``.
        time_zone: Zone of a time without one, as for `parse_windows`.
        started_at: Start of the session.

    Raises:
        ConfigError: The text is neither, or the zone is unknown.
    """
    zone = _find_zone(time_zone)
    if not text:
        return None
    if re.fullmatch(r"\d{1,2}:\d{2}", text):
        minute, today = _minutes(text, text, "budget.deadline"), started_at.astimezone(zone).date()
        moments = (_moment(today + timedelta(days=shift), minute, zone) for shift in range(3))
        return next(moment for moment in moments if moment > started_at)
    try:
        moment = datetime.fromisoformat(text) if re.search(r"\d[T ]\d", text) else None
    except ValueError:
        moment = None
    if moment is None:
        remedy = 'Write e.g. "2026-12-24T18:00" or "07:00", with the quotes in YAML.'
        raise ConfigError("budget.deadline", text, "this is neither a date with a time nor a time", remedy)
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def _moment(day: date, minute: int, zone: ZoneInfo | None) -> datetime:
    """Return when the local clock first shows a time, or skips it."""
    local = datetime.combine(day, time()) + timedelta(minutes=minute)
    for _ in range(2 * _DAY_MIN):
        moment = local.replace(tzinfo=zone).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None, fold=0) == local:
            return moment
        local += timedelta(minutes=1)
    raise AssertionError(f"{zone} skips two days from {day}")


def _window(text: str, key: str) -> TimeWindow:
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ConfigError(key, text, "a window is HH:MM-HH:MM, optionally after a list of days", _REMEDY)
    start, end = (_minutes(found[name], text, key) for name in ("start", "end"))
    if start == end:
        raise ConfigError(key, text, "the window starts and ends at the same time", "For a full day write 00:00-24:00.")
    if start == _DAY_MIN:
        rule = "a window that starts at midnight starts at 00:00"
        raise ConfigError(key, text, rule, f"Write 00:00-{_clock_text(end)}, on the day after.")
    return TimeWindow(_days(found["days"], key), start, end or _DAY_MIN)


def _minutes(text: str, window: str, key: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY_MIN:  # noqa: PLR2004 - minutes of an hour
        raise ConfigError(key, window, f"{text} is not a time between 00:00 and 24:00", _REMEDY)
    return hours * 60 + minutes


def _days(text: str | None, key: str) -> tuple[int, ...]:
    if text is None:
        return tuple(range(len(DAYS)))
    return tuple(sorted({day for part in text.split(",") for day in _day_range(part.strip(), text, key)}))


def _day_range(part: str, text: str, key: str) -> Iterator[int]:
    """Yield the days of ``mon``, ``mon-fri`` or ``sat-mon``."""
    first, dash, last = (word.strip() for word in part.partition("-"))
    start = _day(first, text, key)
    length = (_day(last, text, key) - start) % len(DAYS) if dash else 0
    return ((start + shift) % len(DAYS) for shift in range(length + 1))


def _day(word: str, text: str, key: str) -> int:
    if word not in DAYS:
        remedy = f"{did_you_mean(word, DAYS)} Days are {', '.join(DAYS)}.".strip()
        raise ConfigError(key, text, f"'{word}' is not a day", remedy)
    return DAYS.index(word)


def _merge(spans: list[tuple[datetime, datetime]], span: tuple[datetime, datetime]) -> list[tuple[datetime, datetime]]:
    if spans and span[0] <= spans[-1][1]:
        return [*spans[:-1], (spans[-1][0], max(spans[-1][1], span[1]))]
    return [*spans, span]


def _clock_text(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
