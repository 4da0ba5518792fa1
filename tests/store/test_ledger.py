"""The ledger counts what a sweep has spent exactly once, over restarts."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from sweeper.clock import utc_now
from sweeper.config.settings import BudgetSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.errors import StoreError
from sweeper.store.ledger import Ledger
from sweeper.types import Cost
from tests.doubles import FakeClock

HOUR = Cost(rows=10, tokens=100, device_s=3600.0)


class Timer:
    """A monotonic clock that a test moves; it starts anywhere."""

    now = 777.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweep" / "ledger.json"


def test_the_present_time_has_a_time_zone():
    assert utc_now().utcoffset() == timedelta(0)


def test_a_new_ledger_is_empty(path, clock):
    ledger = Ledger(path, clock, Timer())
    assert (ledger.cost, ledger.wall_s) == (Cost(), 0.0)
    assert not path.exists()


def test_costs_add_up_over_restarts(path, clock):
    Ledger(path, clock).charge(HOUR)
    again = Ledger(path, clock)
    again.charge(HOUR)
    assert Ledger(path, clock).cost == HOUR + HOUR


def test_the_time_of_every_session_counts_but_not_the_time_between(path, clock):
    timer = Timer()
    ledger = Ledger(path, clock, timer)
    timer.now += 60
    ledger.save()
    timer.now += 1000
    again = Ledger(path, clock, timer)
    timer.now += 5
    assert again.session_s == 5
    assert again.wall_s == 65


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_time_counts_rightly_when_the_clock_is_set(path, clock, jump_s):
    timer = Timer()
    ledger = Ledger(path, clock, timer)
    clock.pass_s(jump_s)
    timer.now += 60
    ledger.charge(HOUR)
    assert ledger.session_s == 60
    assert Ledger(path, clock, timer).wall_s == 60


def test_without_a_limit_there_is_no_reason_to_stop(path, clock):
    ledger = Ledger(path, clock)
    ledger.charge(HOUR)
    assert ledger.spent_reason(BudgetSettings()) is None


@pytest.mark.parametrize(("limit", "stops"), [(1.5, False), (1.0, True), (0.5, True)])
def test_spent_device_hours_are_a_reason_to_stop(path, clock, limit, stops):
    ledger = Ledger(path, clock)
    ledger.charge(HOUR)
    reason = ledger.spent_reason(BudgetSettings(device_hours=limit))
    assert (reason is not None) is stops
    assert reason is None or f"budget.device_hours={limit:g}" in reason


def test_a_restart_does_not_grant_the_budget_again(path, clock):
    Ledger(path, clock).charge(HOUR)
    assert Ledger(path, clock).spent_reason(BudgetSettings(device_hours=1.0))


@pytest.mark.parametrize("content", ["", "{", "{}", '{"cost": {"rows": 1}}', '{"cost": {"x": 1}, "wall_s": 0}', "[]"])
def test_a_damaged_ledger_is_reported_with_its_path_and_a_remedy(path, clock, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StoreError) as caught:
        Ledger(path, clock)
    assert str(path) in str(caught.value)
    assert "sweeper reconcile sweep" in str(caught.value)


def test_the_ledger_is_plain_json(path, clock):
    Ledger(path, clock).charge(HOUR)
    content = json.loads(path.read_text())
    assert content["cost"] == {"rows": 10, "tokens": 100, "device_s": 3600.0}
    assert content["saved_at"].endswith("+00:00")


# Windows and deadlines; the clock begins at midnight, UTC.

NIGHT = BudgetSettings(window="22:00-07:00", time_zone="UTC")


def test_an_open_window_is_no_reason_to_stop_until_it_closes(path, clock):
    ledger = Ledger(path, clock)
    assert ledger.spent_reason(NIGHT) is None
    clock.pass_s(7 * 3600 - 1)
    assert ledger.spent_reason(NIGHT) is None
    clock.pass_s(1)
    assert ledger.spent_reason(NIGHT) == "budget.window=22:00-07:00 closes at 07:00"


def test_a_session_that_starts_outside_its_window_stops_at_once(path, clock):
    clock.pass_s(12 * 3600)
    assert Ledger(path, clock).spent_reason(NIGHT) == "budget.window=22:00-07:00 is closed"


def test_a_session_ends_with_its_own_window_even_if_the_next_one_is_open(path, clock):
    ledger = Ledger(path, clock)
    clock.pass_s(23 * 3600)
    assert "closes at 07:00" in ledger.spent_reason(NIGHT)


@pytest.mark.parametrize(("deadline", "hours"), [("06:00", 6), ("2026-01-01T05:00", 5), ("08:00", 7)])
def test_a_session_stops_at_its_window_or_deadline_whichever_is_first(clock, deadline, hours):
    limit = find_time_limit(BudgetSettings(window="22:00-07:00", time_zone="UTC", deadline=deadline), clock())
    assert limit.at - clock() == timedelta(hours=hours)


@pytest.mark.parametrize(("deadline", "is_final"), [("06:00", False), ("2026-01-01T05:00", True)])
def test_only_a_deadline_with_a_date_ends_the_sweep(clock, deadline, is_final):
    assert find_time_limit(BudgetSettings(deadline=deadline, time_zone="UTC"), clock()).is_final is is_final


def test_without_window_and_deadline_nothing_stops_a_session(clock):
    assert find_time_limit(BudgetSettings(), clock()) is None
