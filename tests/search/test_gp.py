"""The Gaussian process learns from pruned trials."""

from __future__ import annotations

import optuna
import pytest

from sweeper.search.gp import expected_value
from sweeper.types import TrialState
from tests.search.toy import Driver, open_toy, preset


def _trial(state, value, rungs):
    return optuna.trial.create_trial(state=state, value=value, intermediate_values=rungs)


def test_a_pruned_trial_counts_with_what_others_gained_later():
    complete = [
        _trial(optuna.trial.TrialState.COMPLETE, 0.9, {3: 0.5}),
        _trial(optuna.trial.TrialState.COMPLETE, 0.8, {3: 0.6}),
        _trial(optuna.trial.TrialState.COMPLETE, 0.8, {3: 0.5}),
    ]
    pruned = _trial(optuna.trial.TrialState.PRUNED, 0.4, {3: 0.4})
    assert expected_value(pruned, complete) == pytest.approx(0.7)


def test_a_pruned_point_is_not_proposed_again(tmp_path):
    driver = Driver(lanes=1)
    with open_toy(tmp_path, preset("gp", pruner="median")) as search:
        driver.run(search, 24)
    records = driver.records.values()
    pruned = [tuple(r.spec.params.values()) for r in records if r.state is TrialState.PRUNED]
    assert len(pruned) > 4
    assert len({(rank, round(ratio, 2), round(rate, 4)) for rank, ratio, rate in pruned}) == len(pruned)
