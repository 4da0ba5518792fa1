"""The queue of trials: who may start, when, and with whom."""

from __future__ import annotations

import pytest

from sweeper.control.trial_queue import TrialQueue
from tests.control.bench import Timer


@pytest.fixture
def timer():
    return Timer()


@pytest.fixture
def waiting(timer):
    return TrialQueue(timer)


def test_trials_leave_in_the_order_in_which_they_came(waiting):
    for number in (3, 1, 2):
        waiting.add(number)
    assert (waiting.take(2), waiting.take(2), len(waiting)) == ([3, 1], [2], 0)


def test_a_trial_is_not_due_before_its_time(waiting, timer):
    waiting.add(1, wait_s=5)
    waiting.add(2)
    assert waiting.take(9) == [2]
    assert (len(waiting), waiting.has_due) == (1, False)
    timer.advance(5)
    assert waiting.has_due
    assert waiting.take(9) == [1]


def test_a_suspect_leaves_alone_only(waiting, timer):
    waiting.add(1, is_quarantined=True)
    waiting.add(2, is_quarantined=True, wait_s=5)
    waiting.add(3)
    assert waiting.take(9) == [3]
    assert waiting.take_quarantined() == 1
    assert not waiting.has_quarantined
    timer.advance(5)
    assert waiting.take_quarantined() == 2
    assert len(waiting) == 0


def test_trials_that_give_way_come_first_again(waiting):
    waiting.add(9)
    waiting.put_first({4, 2})
    assert waiting.take(9) == [2, 4, 9]
