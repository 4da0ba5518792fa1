"""How long a study ran."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from sweeper.figures.study_time import study_wall_s
from sweeper.store.sessions import SessionRecord
from sweeper.types import TrialState
from tests.builders import make_trial


def at(minute):
    return f"2026-11-22T{10 + minute // 60}:{minute % 60:02d}:00.000+00:00"


def moment(minute):
    return datetime.fromisoformat(at(minute))


def trial(begin, end=None):
    """A trial that lasts from one minute to another; without an end it is still running."""
    state = TrialState.RUNNING if end is None else TrialState.COMPLETE
    return make_trial(begin, state=state, started_at=at(begin), finished_at="" if end is None else at(end))


def session(begin, end=None, *, saved=None):
    saved = end if saved is None else saved
    ended_at = "" if end is None else at(end)
    return SessionRecord(number=1, begun_at=at(begin), saved_at=at(saved), ended_at=ended_at)


def minutes(*arguments):
    return study_wall_s(*arguments) / 60


def test_overlaps_count_once_and_gaps_do_not():
    assert minutes([trial(30, 32), trial(0, 2), trial(1, 3), trial(1, 2)]) == 5


def test_a_study_without_trials_took_no_time():
    assert study_wall_s([]) == study_wall_s([], [session(0, 10)]) == study_wall_s([trial(5)]) == 0


def test_a_break_between_sessions_does_not_count_for_a_trial_that_continues_after_it():
    assert minutes([trial(2, 55)], [session(0, 10), session(50, 60)]) == 8 + 5


def test_a_running_trial_lasts_until_now():
    assert minutes([trial(2)], [session(0, saved=1)], moment(7)) == 5
    assert minutes([trial(2), trial(3, 4)], [session(0, 10), session(50, saved=50)], moment(57)) == 8 + 7


def test_without_the_present_time_a_running_trial_lasts_until_its_session_was_saved():
    assert minutes([trial(2)], [session(0, saved=9)]) == 7
    assert minutes([trial(2)], [session(0, 10), session(50, saved=52)]) == 8 + 2


def test_a_session_that_was_killed_lasted_until_it_was_saved_or_its_last_trial_ended():
    sessions = [session(0, saved=3), session(50, 60)]
    assert minutes([trial(2)], sessions) == 1 + 10
    assert minutes([trial(2), trial(2, 6), trial(50, 55)], sessions) == 4 + 10


def test_milliseconds_count():
    short = make_trial(0, started_at="2026-11-22T10:00:00.250+00:00", finished_at="2026-11-22T10:00:00.750+00:00")
    assert study_wall_s([short]) == pytest.approx(0.5)


def test_a_thousand_trials_take_less_than_five_milliseconds():
    trials = [trial(number, number + 3) for number in range(0, 780, 2)] * 3
    sessions = [session(begin, begin + 50) for begin in range(0, 780, 60)]
    took = []
    for _ in range(10):
        begin = time.process_time()
        study_wall_s(trials[:1000], sessions, datetime(2026, 11, 23, tzinfo=UTC))
        took.append(time.process_time() - begin)
    assert min(took) < 0.005
