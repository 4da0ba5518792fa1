"""The queue of trials: their order, waiting times and quarantine."""

from __future__ import annotations

import pytest

from sweeper.control.trial_queue import TrialQueue
from tests.control.bench import Timer


@pytest.fixture
def timer():
    return Timer()


@pytest.fixture
def queue(timer):
    return TrialQueue(timer)


def test_trials_leave_in_the_order_of_arrival(queue):
    for number in (3, 1, 2):
        queue.add(number)
    assert [queue.take() for _ in range(4)] == [3, 1, 2, None]
    assert len(queue) == 0


def test_a_trial_that_is_not_accepted_stays_in_the_queue(queue):
    for number in (3, 1, 2):
        queue.add(number)
    assert queue.find(lambda number: number < 3) == 1
    assert queue.take(lambda number: number < 3) == 1
    assert queue.take(lambda number: number > 3) is None
    assert [queue.take(), queue.take()] == [3, 2]


def test_a_trial_is_not_due_before_its_time(queue, timer):
    queue.add(1, wait_s=5)
    queue.add(2)
    assert queue.num_due == 1
    assert (queue.take(), queue.take()) == (2, None)
    assert (len(queue), queue.num_due) == (1, 0)
    timer.advance(5)
    assert queue.num_due == 1
    assert queue.take() == 1


def test_quarantined_trials_are_taken_one_at_a_time(queue, timer):
    queue.add(1, is_quarantined=True)
    queue.add(2, is_quarantined=True, wait_s=5)
    queue.add(3)
    assert (queue.take(), queue.take()) == (3, None)
    assert queue.take_quarantined() == 1
    assert not queue.has_quarantined
    timer.advance(5)
    assert queue.take_quarantined() == 2
    assert len(queue) == 0


def test_put_first_adds_trials_at_the_head_of_the_queue(queue):
    queue.add(9)
    queue.put_first({4, 2})
    assert [queue.take() for _ in range(3)] == [2, 4, 9]
