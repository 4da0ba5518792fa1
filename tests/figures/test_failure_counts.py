"""Failures counted by cause."""

from __future__ import annotations

from sweeper.figures.failure_counts import count_failures, first_line
from sweeper.types import Failure, FailureKind, TrialState
from tests.builders import make_infeasible, make_trial

LOST = Failure(kind=FailureKind.LOST_WORKER, message="worker 1 was killed by SIGKILL\nand more")


def seen(counts):
    return [(count.cause, count.numbers, count.num_recovered) for count in counts]


def test_the_most_frequent_cause_comes_first_and_trials_without_a_failure_are_left_out():
    trials = [make_infeasible(0), make_trial(1, 0.9), make_trial(2, 0.9, failure=LOST)]
    trials += [make_trial(3, state=TrialState.FAILED, failure=LOST)]
    assert seen(count_failures(trials)) == [("lost_worker", (2, 3), 1), ("out_of_memory", (0,), 0)]


def test_different_messages_of_one_kind_can_be_counted_separately():
    trials = [make_infeasible(0, "no room\nA"), make_infeasible(1, "no space"), make_infeasible(2, "no room\nB")]
    assert seen(count_failures(trials)) == [("out_of_memory", (0, 1, 2), 0)]
    assert seen(count_failures(trials, by_message=True)) == [("out_of_memory", (0, 2), 0), ("out_of_memory", (1,), 0)]


def test_a_failed_trial_without_a_recorded_cause_is_counted_too():
    [count] = count_failures([make_trial(0, state=TrialState.FAILED, chunks=0)])
    assert (count.kind, count.cause, count.message, count.remedy) == (None, "unknown", "no message", "")


def test_only_the_first_line_of_a_message_is_shown():
    assert first_line(LOST) == "worker 1 was killed by SIGKILL"
    assert first_line(Failure(kind=FailureKind.ERROR, message=" \n")) == "no message"
