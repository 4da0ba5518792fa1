"""Schedules for systemd, cron and Kubernetes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from sweeper.config.time_windows import parse_windows
from sweeper.jobs.schedule_lines import calendar_lines, cron_lines, cron_lines_in_zone, longest_window_s

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "zone", "lines"),
    [
        ("22:00-07:00", "", ["*-*-* 22:00:00"]),
        (
            "mon-fri 22:00-07:00; sat,sun 00:00-24:00",
            "",
            ["Mon,Tue,Wed,Thu,Fri *-*-* 22:00:00", "Sat,Sun *-*-* 00:00:00"],
        ),
        ("20:30-23:00", "Europe/Berlin", ["*-*-* 20:30:00 Europe/Berlin"]),
        ("20:30-23:00; 20:30-22:00", "", ["*-*-* 20:30:00"]),
    ],
)
def test_systemd_starts_at_each_opening(window, zone, lines):
    assert calendar_lines(parse_windows(window, zone)) == lines


@pytest.mark.parametrize(
    ("window", "lines"),
    [
        ("22:00-07:00", ["0 22 * * *"]),
        ("sun 22:30-07:00", ["30 22 * * 0"]),
        ("mon-fri 22:00-07:00; sat,sun 00:00-24:00", ["0 22 * * 1-5", "0 0 * * 0,6"]),
    ],
)
def test_kubernetes_starts_at_each_opening_of_the_zone(window, lines):
    assert cron_lines_in_zone(parse_windows(window, "Asia/Tokyo")) == lines


@pytest.mark.parametrize(
    ("window", "lines"),
    [
        ("22:00-07:00", ["0 0-6,22,23 * * *"]),
        ("22:15-22:45", ["15 22 * * *"]),
        ("fri 22:00-01:30", ["0 22,23 * * 5", "0 0,1 * * 6"]),
        ("09:00-11:00; 20:30-21:00", ["0 9,10 * * *", "30 20 * * *"]),
    ],
)
def test_cron_starts_every_hour_of_a_window(window, lines):
    assert sorted(cron_lines(parse_windows(window, "UTC"), now=NOW, is_hourly=True, zone=UTC)) == sorted(lines)


def test_a_window_of_another_zone_is_met_in_summer_and_winter():
    windows = parse_windows("22:00-23:00", "Europe/Berlin")
    assert cron_lines(windows, now=NOW, is_hourly=True, zone=UTC) == ["0 20,21 * * *"]


def test_days_move_with_the_zone():
    windows = parse_windows("mon 01:00-02:00", "Asia/Tokyo")
    assert cron_lines(windows, now=NOW, is_hourly=False, zone=UTC) == ["0 16 * * 0"]


@pytest.mark.parametrize(
    ("zone", "machine"),
    [("Europe/Berlin", "America/New_York"), ("Asia/Kolkata", "UTC"), ("America/New_York", "Australia/Lord_Howe")],
)
@pytest.mark.parametrize("window", ["mon-fri 22:00-07:00", "sat 03:30-04:00", "sun 23:45-00:15"])
def test_every_opening_of_a_year_is_met_within_the_minute(window, zone, machine):
    windows = parse_windows(window, zone)
    here = ZoneInfo(machine)
    lines = [_expanded(line) for line in cron_lines(windows, now=NOW, is_hourly=True, zone=here)]
    opening = windows.next_opening(NOW)
    while opening < NOW + timedelta(days=364):
        local = opening.astimezone(here)
        at = (local.minute, local.hour, local.isoweekday() % 7)
        assert any(all(value in field for value, field in zip(at, line, strict=True)) for line in lines), local
        opening = windows.next_opening(opening)


@pytest.mark.parametrize(
    ("window", "hours"), [("22:00-07:00", 9), ("00:00-24:00", 24), ("", 24), ("9:00-9:30; 1:00-3:00", 2)]
)
def test_the_longest_window_is_known(window, hours):
    assert longest_window_s(parse_windows(window)) == hours * 3600


def _expanded(line):
    minute, hours, _, _, days = line.split()
    return _numbers(minute), _numbers(hours), _numbers("0-6" if days == "*" else days)


def _numbers(field):
    spans = (part.partition("-") for part in field.split(","))
    return {number for low, _, high in spans for number in range(int(low), int(high or low) + 1)}
