"""What a sweep has spent is counted once, over restarts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from sweeper.errors import StoreError
from sweeper.ledger import Ledger, utc_now
from sweeper.settings import BudgetSettings
from sweeper.types import Cost

HOUR = Cost(rows=10, tokens=100, device_s=3600.0)


class FakeClock:
    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.now

    def pass_s(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweep" / "ledger.json"


def test_the_present_time_knows_its_zone():
    assert utc_now().utcoffset() == timedelta(0)


def test_a_new_account_is_empty(path, clock):
    ledger = Ledger(path, clock)
    assert (ledger.cost, ledger.wall_s) == (Cost(), 0.0)
    assert not path.exists()


def test_costs_add_up_over_restarts(path, clock):
    Ledger(path, clock).charge(HOUR)
    again = Ledger(path, clock)
    again.charge(HOUR)
    assert Ledger(path, clock).cost == HOUR + HOUR


def test_the_time_of_every_session_counts_but_not_the_time_between(path, clock):
    ledger = Ledger(path, clock)
    clock.pass_s(60)
    ledger.save()
    clock.pass_s(1000)
    again = Ledger(path, clock)
    clock.pass_s(5)
    assert again.session_s == 5
    assert again.wall_s == 65


def test_without_a_limit_there_is_no_reason_to_stop(path, clock):
    ledger = Ledger(path, clock)
    ledger.charge(HOUR)
    assert ledger.reason_to_stop(BudgetSettings()) is None


@pytest.mark.parametrize(("limit", "stops"), [(1.5, False), (1.0, True), (0.5, True)])
def test_spent_device_hours_are_a_reason_to_stop(path, clock, limit, stops):
    ledger = Ledger(path, clock)
    ledger.charge(HOUR)
    reason = ledger.reason_to_stop(BudgetSettings(device_hours=limit))
    assert (reason is not None) is stops
    assert reason is None or f"budget.device_hours={limit:g}" in reason


def test_a_restart_does_not_grant_the_budget_again(path, clock):
    Ledger(path, clock).charge(HOUR)
    assert Ledger(path, clock).reason_to_stop(BudgetSettings(device_hours=1.0))


@pytest.mark.parametrize("content", ["", "{", "{}", '{"cost": {"rows": 1}}', '{"cost": {"x": 1}, "wall_s": 0}', "[]"])
def test_a_damaged_account_is_told_with_its_path_and_a_remedy(path, clock, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StoreError) as caught:
        Ledger(path, clock)
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)


def test_the_account_is_plain_json(path, clock):
    Ledger(path, clock).charge(HOUR)
    content = json.loads(path.read_text())
    assert content["cost"] == {"rows": 10, "tokens": 100, "device_s": 3600.0}
    assert content["saved_at"].endswith("+00:00")
