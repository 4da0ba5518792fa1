"""Broken devices and poisonous trials are told apart."""

from __future__ import annotations

import pytest

from sweeper.control.circuit_breaker import CircuitBreaker, DeviceDecision

A, B, C = ("toy", 1), ("toy", 2), ("toy", 3)


@pytest.fixture
def breaker():
    return CircuitBreaker()


def test_three_failures_in_a_row_take_a_device_out(breaker):
    assert [breaker.record_failure(0, "it broke").reason for _ in range(2)] == ["", ""]
    assert breaker.record_failure(0, "it broke").reason.startswith("it broke (3 failures in a row")
    assert list(breaker.disabled) == [0]


def test_a_good_chunk_in_between_clears_a_device(breaker):
    for _ in range(5):
        breaker.record_failure(0, "it broke")
        breaker.record_failure(0, "it broke")
        breaker.record_success(0)
    assert breaker.disabled == {}


def test_devices_are_counted_apart(breaker):
    for index in (0, 1, 0, 1):
        breaker.record_failure(index, "it broke")
    assert breaker.disabled == {}


def test_a_trial_that_fails_alone_again_and_again_is_to_blame_itself(breaker):
    assert [breaker.record_failure(0, "it broke", A) for _ in range(9)] == [DeviceDecision()] * 9


def test_a_trial_that_fails_alone_on_two_devices_clears_both(breaker):
    breaker.record_failure(0, "it broke")
    breaker.record_failure(0, "it broke", A)
    breaker.record_failure(1, "it broke", A)
    assert breaker.record_failure(0, "it broke").reason == ""


def test_different_trials_that_fail_alone_condemn_the_device_and_are_acquitted(breaker):
    breaker.record_failure(0, "it broke", A)
    breaker.record_failure(0, "it broke", B)
    verdict = breaker.record_failure(0, "it broke", C)
    assert verdict.reason
    assert verdict.refunded == (A, B, C)


def test_a_trial_that_works_is_accused_no_more(breaker):
    breaker.record_failure(0, "it broke", A)
    breaker.record_success(1, {A})
    breaker.record_failure(0, "it broke", A)
    breaker.record_failure(0, "it broke", B)
    assert breaker.disabled == {0: "it broke (3 failures in a row that no single trial explains)"}
