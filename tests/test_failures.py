"""The table of causes is complete and shown in docs/failures.md, and exceptions are classified correctly."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sweeper.control.early_abort import abort_reason
from sweeper.errors import DataError, DiskError, DiskFull
from sweeper.failures import POLICIES, Action, is_full, kind_of, retry_wait_s
from sweeper.types import Failure, FailureKind, Phase, TrialState
from tests.builders import make_default, make_trial

ROOT = Path(__file__).parents[1]
INFEASIBLE, FAILED = TrialState.INFEASIBLE, TrialState.FAILED


def test_every_cause_has_a_policy_with_a_remedy_of_one_line():
    assert list(POLICIES) == list(FailureKind)
    for policy in POLICIES.values():
        assert policy.title
        assert policy.remedy.endswith(".")
        assert "\n" not in policy.remedy


@pytest.mark.parametrize("kind", POLICIES)
def test_the_documentation_shows_the_table(kind):
    policy = POLICIES[kind]
    action = f"{policy.action}; {policy.then}" if policy.then else policy.action
    row = f"| {kind.value} | {policy.title} | {action} | {policy.remedy} |"
    assert row in (ROOT / "docs/failures.md").read_text()


def test_only_what_the_configuration_causes_is_infeasible():
    infeasible = {kind for kind, policy in POLICIES.items() if policy.action is Action.INFEASIBLE}
    assert infeasible == {FailureKind.OUT_OF_MEMORY, FailureKind.NON_FINITE, FailureKind.EXPLODED}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FailureKind.DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), FailureKind.DISK_FULL),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), FailureKind.DISK_FULL),
        (DiskFull("the file cannot be written"), FailureKind.DISK_FULL),
        (DiskError("the file cannot be written"), FailureKind.DISK_ERROR),
        (OSError(errno.EIO, "Input/output error"), FailureKind.DISK_ERROR),
        (OSError(errno.EROFS, "Read-only file system"), FailureKind.DISK_ERROR),
        (DataError("rows.jsonl, line 7: no column 'label'"), FailureKind.DATA),
        (OSError(errno.ENOENT, "No such file"), FailureKind.ERROR),
        (ZeroDivisionError(), FailureKind.ERROR),
    ],
)
def test_exceptions_are_classified(error, kind):
    assert kind_of(error) is kind
    assert is_full(error) == (kind is FailureKind.DISK_FULL)


def test_waits_double_and_end_at_five_minutes():
    waits = [retry_wait_s(FailureKind.ERROR, number, 5.0) for number in (1, 2, 3, 20)]
    assert waits == [5.0, 10.0, 20.0, 300.0]
    assert retry_wait_s(FailureKind.HOST_MEMORY, 1, 5.0) == 30.0
    assert retry_wait_s(FailureKind.ERROR, 1, 0.0) == 0.0


# Aborting a study in which everything fails.


def failed_trial(number, kind=FailureKind.ERROR, state=FAILED):
    return make_trial(number, state=state, chunks=0, failure=Failure(kind=kind, message="no"))


def test_a_study_is_aborted_when_its_first_trials_all_failed_for_one_cause():
    trials = [failed_trial(number) for number in range(4)]
    assert abort_reason(trials[:3], 4) == ""
    assert abort_reason(trials, 4) == "its first 4 trials all failed or were infeasible (4 error)"


def test_with_several_causes_twice_as_many_must_have_failed():
    kinds = (FailureKind.ERROR, FailureKind.HUNG)
    trials = [failed_trial(number, kinds[number % 2]) for number in range(8)]
    assert abort_reason(trials[:7], 4) == ""
    assert abort_reason(trials, 4) == "its first 8 trials all failed or were infeasible (4 error, 4 hung)"


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_a_study_with_one_scored_trial_is_never_aborted(state):
    trials = [failed_trial(number) for number in range(9)] + [make_trial(9, 0.5, state=state)]
    assert abort_reason(trials, 4) == ""


def test_running_trials_references_and_a_limit_of_zero_abort_nothing():
    trials = [failed_trial(number) for number in range(3)]
    assert abort_reason([*trials, make_trial(3, state=TrialState.RUNNING)], 4) == ""
    assert abort_reason([*trials, make_default(0.9, 3, phase=Phase.REFERENCE)], 4) == ""
    assert abort_reason([failed_trial(number) for number in range(99)], 0) == ""
