"""Differences between a view and the store."""

from __future__ import annotations

import pytest

from sweeper.recovery.differences import Place, Remedy, compare_view
from sweeper.types import Phase, TrialState, ViewedTrial
from tests.builders import make_study, make_trial

STUDY = make_study()


def view(record, **changes):
    state = changes.pop("state", record.state.value)
    value = changes.pop("value", STUDY.value(record))
    return ViewedTrial(number=record.spec.number, state=state, value=value, params=record.spec.params, **changes)


def compared(place, records, views):
    return [(each.number, each.remedy) for each in compare_view(place, STUDY, records, views)]


@pytest.mark.parametrize("place", [Place.SEARCH, Place.TRACKER])
def test_equal_trials_do_not_differ(place):
    records = [make_trial(0, 0.9), make_trial(1, 0.8)]
    assert compared(place, records, [view(record) for record in records]) == []


@pytest.mark.parametrize("place", [Place.SEARCH, Place.TRACKER])
def test_a_trial_missing_in_a_view_is_sent_to_it(place):
    assert compared(place, [make_trial(0, 0.9)], []) == [(0, Remedy.UPDATE)]
    assert compared(place, [make_trial(0, 0.9)], None) == [(None, Remedy.UPDATE)]


@pytest.mark.parametrize("place", [Place.SEARCH, Place.TRACKER])
def test_a_trial_left_running_in_a_view_is_brought_up_to_date(place):
    record = make_trial(0, 0.9)
    assert compared(place, [record], [view(record, state="running")]) == [(0, Remedy.UPDATE)]


@pytest.mark.parametrize("place", [Place.SEARCH, Place.TRACKER])
@pytest.mark.parametrize("changes", [{"state": "pruned"}, {"value": 0.8}, {"value": None}])
def test_a_trial_that_contradicts_the_store_is_replaced(place, changes):
    record = make_trial(0, 0.9)
    assert compared(place, [record], [view(record, **changes)]) == [(0, Remedy.REPLACE)]


def test_duplicate_runs_of_a_trial_are_replaced():
    record = make_trial(0, 0.9)
    assert compared(Place.TRACKER, [record], [view(record), view(record)]) == [(0, Remedy.REPLACE)]


def test_a_paused_trial_is_running_in_optuna_and_waits_in_mlflow():
    record = make_trial(0, 0.9, state=TrialState.RUNNING)
    assert compared(Place.SEARCH, [record], [view(record)]) == []
    assert compared(Place.TRACKER, [record], [view(record, state="paused")]) == []
    assert compared(Place.TRACKER, [record], [view(record)]) == [(0, Remedy.UPDATE)]


def test_references_are_not_expected_in_optuna():
    assert compared(Place.SEARCH, [make_trial(1_000_000, 0.9, phase=Phase.REFERENCE)], []) == []
    assert compared(Place.TRACKER, [make_trial(1_000_000, 0.9, phase=Phase.REFERENCE)], []) == [
        (1_000_000, Remedy.UPDATE)
    ]


def test_a_trial_missing_in_the_store_is_recovered():
    lost = make_trial(0, 0.9)
    assert compared(Place.SEARCH, [], [view(lost)]) == [(0, Remedy.RECOVER)]
    assert compared(Place.TRACKER, [], [view(lost)]) == [(0, Remedy.RECOVER)]
    assert compared(Place.SEARCH, [], [view(lost, state="running")]) == [(0, Remedy.RECOVER)]
    assert compared(Place.SEARCH, [], [ViewedTrial(number=0, state="failed")]) == []
