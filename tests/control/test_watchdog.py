"""Hung workers are distinguished from slow ones, and from a suspended computer."""

from __future__ import annotations

import pytest

from sweeper.config.settings import ExecutorSettings
from sweeper.control.watchdog import Watchdog
from tests.control.bench import Timer

SETTINGS = ExecutorSettings(hang_timeout_factor=10, hang_timeout_min_s=30, startup_timeout_s=600)


@pytest.fixture
def timer():
    return Timer()


@pytest.fixture
def watchdog(timer):
    return Watchdog(SETTINGS, timer)


def passes(watchdog, timer, seconds):
    """Let time pass as in the controller's loop, with a tick every half second."""
    for _ in range(round(seconds * 2)):
        timer.advance(0.5)
        watchdog.tick()


def chunk(watchdog, timer, seconds, *, num_lanes=4):
    watchdog.started(0, "a chunk of toy", num_lanes=num_lanes)
    passes(watchdog, timer, seconds)
    return watchdog.finished(0, is_good=True)


def test_the_time_of_a_chunk_is_measured(watchdog, timer):
    assert chunk(watchdog, timer, 7.5) == 7.5


def test_the_first_chunk_has_the_startup_timeout(watchdog, timer):
    watchdog.started(0, "a chunk of toy", num_lanes=4)
    passes(watchdog, timer, 599)
    assert watchdog.overdue(0) == ""
    passes(watchdog, timer, 2)
    assert watchdog.overdue(0) == "worker 0 was killed: no answer to a chunk of toy within 600 s"


def test_later_chunks_have_a_multiple_of_the_slowest_one(watchdog, timer):
    chunk(watchdog, timer, 8)
    watchdog.started(0, "a chunk of toy", num_lanes=4)
    passes(watchdog, timer, 79)
    assert watchdog.overdue(0) == ""
    passes(watchdog, timer, 2)
    assert "within 80 s" in watchdog.overdue(0)


def test_more_lanes_may_take_longer(watchdog, timer):
    chunk(watchdog, timer, 8, num_lanes=1)
    watchdog.started(0, "a chunk of toy", num_lanes=4)
    passes(watchdog, timer, 319)
    assert watchdog.overdue(0) == ""


def test_short_chunks_have_the_minimum_timeout(watchdog, timer):
    chunk(watchdog, timer, 0.5)
    watchdog.started(0, "a chunk of toy", num_lanes=4)
    passes(watchdog, timer, 29)
    assert watchdog.overdue(0) == ""
    passes(watchdog, timer, 2)
    assert watchdog.overdue(0)


def test_opening_a_study_discards_earlier_measurements(watchdog, timer):
    chunk(watchdog, timer, 0.5)
    watchdog.started(0, "the opening of other")
    watchdog.finished(0, is_good=True)
    watchdog.started(0, "a chunk of other", num_lanes=4)
    passes(watchdog, timer, 599)
    assert watchdog.overdue(0) == ""


def test_no_worker_is_hung_because_the_computer_was_suspended(watchdog, timer):
    chunk(watchdog, timer, 1)
    watchdog.started(0, "a chunk of toy", num_lanes=4)
    timer.advance(8 * 3600)  # a paused container: the clock advanced, this process did not run
    watchdog.tick()
    assert watchdog.overdue(0) == ""
    passes(watchdog, timer, 3)
    assert watchdog.overdue(0) == ""


def test_an_idle_worker_is_never_overdue(watchdog, timer):
    passes(watchdog, timer, 1e4)
    assert watchdog.overdue(0) == ""
