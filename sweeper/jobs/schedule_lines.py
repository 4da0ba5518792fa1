"""Turns time windows into schedules: systemd's OnCalendar values, and cron's five fields.

systemd and Kubernetes support time zones. cron implementations differ: cronie reads CRON_TZ, but Debian's and busybox's
ignore it, and in cronie it would also affect all lines below it. So cron lines are in the machine's own time zone. They
cover every local time at which the window can be open within a year; when it is not open, `sweeper` exits at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from sweeper.config.time_windows import DAYS, TimeWindow, TimeWindows

__all__ = ["calendar_lines", "cron_lines", "cron_lines_in_zone", "longest_window_s"]

_HOUR = timedelta(hours=1)
_YEAR_DAYS = 371
"""A whole number of weeks that contains both changes between summer and winter time."""
_DAY_MINUTES = 24 * 60
Moment = tuple[int, int, int]
"""Minute, hour, and cron's day of the week: 0 is Sunday."""


def calendar_lines(windows: TimeWindows) -> list[str]:
    """Return an OnCalendar value for each opening, in the windows' time zone."""
    zone = f" {windows.zone.key}" if windows.zone is not None else ""
    return list(dict.fromkeys(f"{_days_word(window)}*-*-* {window.start_text}:00{zone}" for window in windows))


def cron_lines_in_zone(windows: TimeWindows) -> list[str]:
    """Return cron's five fields for each opening in the windows' time zone, for schedulers that support time zones."""
    return _lines((window.start % 60, window.start // 60, (day + 1) % 7) for window in windows for day in window.days)


def cron_lines(windows: TimeWindows, *, now: datetime, is_hourly: bool, zone: tzinfo | None = None) -> list[str]:
    """Return cron's five fields in the machine's time zone.

    Args:
        windows: The windows.
        now: The current time; the lines cover the year that starts here.
        is_hourly: Also start every hour while a window is open, so that a missed or killed session is resumed.
        zone: The machine's time zone; None for that of this process.
    """
    first_day = windows.local(now).date()
    days = [first_day + timedelta(days=shift) for shift in range(_YEAR_DAYS)]
    spans = (_span(window, day, windows.zone) for window in windows for day in days if day.weekday() in window.days)
    starts = (
        moment.astimezone(zone) for first, end in spans for moment in _hours(first, end if is_hourly else first + _HOUR)
    )
    return _lines((start.minute, start.hour, start.isoweekday() % 7) for start in starts)


def longest_window_s(windows: TimeWindows) -> int:
    """Return the length of the longest window in seconds; a day if there are no windows."""
    lengths = [(window.end - window.start) % _DAY_MINUTES or _DAY_MINUTES for window in windows]
    return max(lengths, default=_DAY_MINUTES) * 60


def _span(window: TimeWindow, day: date, zone: tzinfo | None) -> tuple[datetime, datetime]:
    start = datetime.combine(day, time()) + timedelta(minutes=window.start)
    end = datetime.combine(day, time()) + timedelta(minutes=window.end, days=int(window.crosses_midnight))
    return start.replace(tzinfo=zone).astimezone(UTC), end.replace(tzinfo=zone).astimezone(UTC)


def _hours(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += _HOUR


def _lines(moments: Iterable[Moment]) -> list[str]:
    """Group moments: first the days of the same time, then the hours of the same minute and days."""
    days: dict[tuple[int, int], set[int]] = defaultdict(set)
    for minute, hour, day in moments:
        days[minute, hour].add(day)
    hours: dict[tuple[int, tuple[int, ...]], set[int]] = defaultdict(set)
    for (minute, hour), on in days.items():
        hours[minute, tuple(sorted(on))].add(hour)
    words = {on: "*" if len(on) == len(DAYS) else _ranges(on) for _, on in hours}
    return [f"{minute} {_ranges(at)} * * {words[on]}" for (minute, on), at in hours.items()]


def _ranges(numbers: Iterable[int]) -> str:
    """Return ``0-6,22,23`` for those numbers."""
    rows: list[list[int]] = []
    for number in sorted(numbers):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ",".join(f"{row[0]}-{row[-1]}" if len(row) > 2 else ",".join(map(str, row)) for row in rows)  # noqa: PLR2004


def _days_word(window: TimeWindow) -> str:
    return "" if len(window.days) == len(DAYS) else ",".join(DAYS[day].title() for day in window.days) + " "
