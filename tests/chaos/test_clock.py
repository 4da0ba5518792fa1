"""The clock of the chaos suite: moved by one process, read by another, never backwards."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import sweeper.sweep.run
from chaos.clock import Clock, use_clock


@pytest.fixture
def clock(tmp_path):
    moved = Clock(tmp_path)
    moved.to_opening()
    return moved


def test_it_shows_the_real_time_until_it_is_moved(tmp_path):
    assert abs((Clock(tmp_path)() - datetime.now(UTC)).total_seconds()) < 1


def test_a_window_can_be_opened_and_closed(clock):
    begin = clock()
    assert (begin.hour, begin.minute, clock.is_open) == (22, 0, True)
    clock.to_end(1.0)
    assert not clock.is_open
    assert (clock() - begin).total_seconds() == pytest.approx(9 * 3600 + 1, abs=1)


def test_just_before_the_end_it_is_still_open(clock):
    clock.to_end(-5.0)
    assert clock.is_open
    assert clock().hour == 6


def test_the_next_opening_is_a_day_later(clock):
    begin = clock()
    clock.to_opening()
    assert (clock() - begin).total_seconds() == pytest.approx(24 * 3600, abs=1)


def test_a_controller_uses_the_clock_of_its_folder(clock, tmp_path, monkeypatch):
    passed = {}
    monkeypatch.setattr(sweeper.sweep.run, "run_sweep", lambda _overrides, **more: passed.update(more))
    use_clock(tmp_path)
    sweeper.sweep.run.run_sweep(["name=x"])
    clock.to_end(60.0)
    assert passed["clock"]().hour == 7
