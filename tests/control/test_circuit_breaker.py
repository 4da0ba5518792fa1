"""Broken devices are distinguished from trials that break every device."""

from __future__ import annotations

import pytest

from sweeper.control.circuit_breaker import CircuitBreaker, DeviceDecision

A, B, C = ("toy", 1), ("toy", 2), ("toy", 3)


@pytest.fixture
def breaker():
    return CircuitBreaker()


def test_three_failures_in_a_row_disable_a_device(breaker):
    assert [breaker.record_failure(0, "it broke").reason for _ in range(2)] == ["", ""]
    assert breaker.record_failure(0, "it broke").reason.startswith("it broke (3 failures in a row")
    assert list(breaker.disabled) == [0]


def test_a_good_chunk_resets_the_count_of_a_device(breaker):
    for _ in range(5):
        breaker.record_failure(0, "it broke")
        breaker.record_failure(0, "it broke")
        breaker.record_success(0)
    assert breaker.disabled == {}


def test_devices_are_counted_separately(breaker):
    for index in (0, 1, 0, 1):
        breaker.record_failure(index, "it broke")
    assert breaker.disabled == {}


def test_a_trial_that_keeps_failing_alone_disables_no_device(breaker):
    assert [breaker.record_failure(0, "it broke", A) for _ in range(9)] == [DeviceDecision()] * 9


def test_failures_of_a_trial_that_fails_alone_on_two_devices_count_for_neither(breaker):
    breaker.record_failure(0, "it broke")
    breaker.record_failure(0, "it broke", A)
    breaker.record_failure(1, "it broke", A)
    assert breaker.record_failure(0, "it broke").reason == ""


def test_a_device_on_which_different_trials_fail_alone_is_disabled_and_their_retries_are_refunded(breaker):
    breaker.record_failure(0, "it broke", A)
    breaker.record_failure(0, "it broke", B)
    decision = breaker.record_failure(0, "it broke", C)
    assert decision.reason
    assert decision.refunded == (A, B, C)


def test_a_trial_with_a_good_chunk_is_no_longer_suspected(breaker):
    breaker.record_failure(0, "it broke", A)
    breaker.record_success(1, {A})
    breaker.record_failure(0, "it broke", A)
    breaker.record_failure(0, "it broke", B)
    assert breaker.disabled == {0: "it broke (3 failures in a row that no single trial explains)"}
