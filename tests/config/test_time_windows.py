"""Time windows: parsing, midnight, weeks, and both changes of the clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from sweeper.config.time_windows import TimeWindow, TimeWindows, parse_deadline, parse_windows
from sweeper.errors import ConfigError

BERLIN = "Europe/Berlin"
EVERY_DAY = tuple(range(7))
SPRING, AUTUMN = "2026-03-29", "2026-10-25"
"""Sundays on which Berlin's clock changes from 2:00 to 3:00, and from 3:00 back to 2:00."""


def at(text: str) -> datetime:
    """A moment in UTC; 2026-06-01 is a Monday."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def machine_in_new_york(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22:00-07:00", [TimeWindow(EVERY_DAY, 22 * 60, 7 * 60)]),
        ("9:30 - 17:00", [TimeWindow(EVERY_DAY, 570, 1020)]),
        (
            "mon-fri 22:00-07:00; sat,sun 00:00-24:00",
            [TimeWindow((0, 1, 2, 3, 4), 1320, 420), TimeWindow((5, 6), 0, 1440)],
        ),
        ("SAT-Mon 22:00-24:00", [TimeWindow((0, 5, 6), 1320, 1440)]),
        ("mon, wed-thu 22:00-00:00", [TimeWindow((0, 2, 3), 1320, 1440)]),
        ("", []),
    ],
)
def test_windows_are_read(text, expected):
    assert list(parse_windows(text)) == expected


@pytest.mark.parametrize(
    "text", ["22:00-07:00", "mon-fri 22:00-07:00; sat,sun 00:00-24:00", "mon,wed 01:05-02:00", "sat 10:00-24:00"]
)
def test_windows_are_written_as_they_are_read(text):
    assert str(parse_windows(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("22-7", "HH:MM-HH:MM"),
        ("22:00", "HH:MM-HH:MM"),
        ("22:00-07:00,", "HH:MM-HH:MM"),
        ("22:60-07:00", "22:60 is not a time"),
        ("22:00-24:01", "24:01 is not a time"),
        ("22:00-22:00", "00:00-24:00"),
        ("24:00-07:00", "Write 00:00-07:00"),
        ("mo 22:00-07:00", "'mo' is not a day. Did you mean 'mon'?"),
        ("mon,,tue 22:00-07:00", "'' is not a day"),
        ("22:00-07:00;", "a window is missing beside a ';'"),
    ],
)
def test_an_invalid_window_is_reported_with_key_value_rule_and_remedy(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_windows(text)
    assert str(caught.value).startswith("budget.window=")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["Europe/Berlinn", "../etc/passwd", "Europe"])
def test_an_unknown_zone_is_reported(name):
    with pytest.raises(ConfigError, match=r"budget.time_zone=.*no time zone.*Europe/Berlin"):
        parse_windows("22:00-07:00", name)


def test_without_windows_it_is_always_open_and_never_closes():
    always = parse_windows("")
    now = at("2026-06-01 12:00")
    assert not always
    assert always.is_open(now)
    assert (always.opened_at(now), always.closes_at(now), always.next_opening(now)) == (None, None, None)


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-06-01 21:59:59", False),
        ("2026-06-01 22:00", True),
        ("2026-06-02 06:59:59", True),
        ("2026-06-02 07:00", False),
    ],
)
def test_an_overnight_window_crosses_midnight_and_excludes_its_end(moment, is_open):
    assert parse_windows("22:00-07:00", "UTC").is_open(at(moment)) is is_open


def test_days_are_those_on_which_a_window_opens():
    friday = parse_windows("fri 22:00-07:00", "UTC")
    assert friday.is_open(at("2026-06-06 03:00"))
    assert not friday.is_open(at("2026-06-05 03:00"))


def test_opening_and_closing_of_an_overnight_window():
    windows = parse_windows("22:00-07:00", "UTC")
    now = at("2026-06-02 01:00")
    assert windows.opened_at(now) == at("2026-06-01 22:00")
    assert windows.closes_at(now) == at("2026-06-02 07:00")
    assert windows.next_opening(now) == at("2026-06-02 22:00")


def test_a_closed_window_has_only_a_next_opening():
    windows = parse_windows("22:00-07:00", "UTC")
    noon = at("2026-06-02 12:00")
    assert (windows.opened_at(noon), windows.closes_at(noon)) == (None, None)
    assert windows.next_opening(noon) == at("2026-06-02 22:00")


def test_windows_that_touch_or_overlap_are_merged():
    weekend = parse_windows("mon-fri 22:00-07:00; sat,sun 00:00-24:00", "UTC")
    friday_night = at("2026-06-05 23:00")
    assert weekend.closes_at(friday_night) == at("2026-06-08 00:00")
    assert weekend.next_opening(friday_night) == at("2026-06-08 22:00")
    assert weekend.opened_at(at("2026-06-07 12:00")) == at("2026-06-05 22:00")


def test_a_window_of_all_day_every_day_never_closes():
    always = parse_windows("00:00-24:00", "UTC")
    now = at("2026-06-01 12:00")
    assert always.is_open(now)
    assert (always.opened_at(now), always.closes_at(now), always.next_opening(now)) == (None, None, None)


def test_a_window_once_a_week_opens_again_in_a_week():
    assert parse_windows("sun 22:00-23:00", "UTC").next_opening(at("2026-06-07 22:00")) == at("2026-06-14 22:00")


@pytest.mark.parametrize(("day", "hours"), [("2026-06-01", 9), ("2026-03-28", 8), ("2026-10-24", 10)])
def test_a_window_in_which_the_clock_changes_is_an_hour_shorter_or_longer(day, hours):
    windows = parse_windows("22:00-07:00", BERLIN)
    now = at(f"{day} 23:30")
    assert windows.closes_at(now) - windows.opened_at(now) == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("text", "opens", "closes"),
    [
        ("02:30-05:00", "01:00", "03:00"),
        ("00:30-02:30", None, "01:00"),
    ],
)
def test_a_time_that_the_clock_skips_is_the_moment_of_the_skip(text, opens, closes):
    windows = parse_windows(text, BERLIN)
    midnight = at("2026-03-28 23:00")
    opening = windows.next_opening(midnight)
    assert opening == at(f"{SPRING} {opens}" if opens else "2026-03-28 23:30")
    assert windows.closes_at(opening) == at(f"{SPRING} {closes}")


def test_a_window_that_is_skipped_altogether_does_not_open_that_day():
    windows = parse_windows("02:15-02:45", BERLIN)
    assert windows.next_opening(at("2026-03-28 12:00")) == at("2026-03-30 00:15")


@pytest.mark.parametrize(
    ("text", "opens", "closes"),
    [
        ("02:15-02:45", "00:15", "00:45"),
        ("02:30-03:00", "00:30", "02:00"),
    ],
)
def test_a_time_that_occurs_twice_counts_the_first_time(text, opens, closes):
    windows = parse_windows(text, BERLIN)
    opening = windows.next_opening(at("2026-10-24 22:00"))
    assert opening == at(f"{AUTUMN} {opens}")
    assert windows.closes_at(opening) == at(f"{AUTUMN} {closes}")
    assert windows.next_opening(opening) == parse_windows(text, BERLIN).next_opening(at(f"{AUTUMN} 12:00"))


def test_results_are_in_utc_and_local_converts_them():
    windows = parse_windows("22:00-07:00", BERLIN)
    closing = windows.closes_at(at("2026-06-01 23:00"))
    assert closing.tzinfo is UTC
    assert windows.local(closing).isoformat() == "2026-06-02T07:00:00+02:00"


@pytest.mark.usefixtures("machine_in_new_york")
def test_without_a_zone_windows_are_in_the_zone_of_the_machine():
    windows = parse_windows("22:00-07:00")
    assert windows.closes_at(at("2026-06-02 03:00")) == at("2026-06-02 11:00")
    assert windows.closes_at(at("2026-03-08 04:00")) == at("2026-03-08 11:00")
    assert not windows.is_open(at("2026-06-02 01:00"))


def test_equal_windows_compare_equal():
    assert parse_windows("22:00-07:00", BERLIN) == parse_windows("22:00 - 7:00", BERLIN)
    assert hash(TimeWindows()) == hash(parse_windows(""))


# Deadline.


@pytest.mark.parametrize(
    ("text", "begin", "expected"),
    [
        ("07:00", "2026-06-01 22:00", "2026-06-02 05:00"),
        ("07:00", "2026-06-02 05:00", "2026-06-03 05:00"),
        ("07:00", "2026-06-02 04:59", "2026-06-02 05:00"),
        ("24:00", "2026-06-01 20:00", "2026-06-01 22:00"),
        ("07:00", "2026-10-24 22:00", "2026-10-25 06:00"),
        ("2026-12-24T18:00", "2026-06-01 22:00", "2026-12-24 17:00"),
        ("2026-12-24 18:00:30Z", "2026-06-01 22:00", "2026-12-24 18:00:30"),
    ],
)
def test_a_deadline_is_a_date_with_a_time_or_the_next_such_time(text, begin, expected):
    assert parse_deadline(text, BERLIN, at(begin)) == at(expected)


def test_no_deadline_is_none():
    assert parse_deadline("", "", at("2026-06-01 22:00")) is None


@pytest.mark.parametrize("text", ["1320", "tomorrow", "2026-12-24", "25:00", "2026-13-01T00:00"])
def test_an_invalid_deadline_is_reported(text):
    with pytest.raises(ConfigError, match=r"budget.deadline="):
        parse_deadline(text, "", at("2026-06-01 22:00"))
