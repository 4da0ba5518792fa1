"""Damage to adapters and row outcomes of rungs. `tests/e2e/test_reconcile.py` covers the other files of a sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save

from sweeper.store.damage import DamageKind, find_damage
from sweeper.types import TrialState
from tests.builders import make_measurement, make_study, make_sweep, make_trial
from tests.doubles import outcomes_of

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": save({})}


@pytest.fixture
def study():
    return make_study()


@pytest.fixture
def store(tmp_path, study):
    """A complete trial whose second rung scored higher than its last, with both adapters."""
    measurements = tuple(make_measurement(chunk, value) for chunk, value in ((4, 0.8), (8, 0.92), (12, 0.9)))
    store = make_sweep(tmp_path / "mine", [(study, [make_trial(0, measurements=measurements)])])
    store.write_adapter(study.name, 0, FILES)
    store.write_rung_adapter(study.name, 0, 8, FILES)
    return store


def found(store, study):
    return [(damage.kind, damage.path.name) for damage in find_damage(store, study, keep_adapters=1)]


def test_both_adapters_may_be_there(store, study):
    assert found(store, study) == []


def test_a_missing_adapter_of_a_rung_is_no_damage(store, study):
    store.drop_rung_adapters(study.name, 0, but=None)
    assert found(store, study) == []


def test_a_truncated_adapter_of_a_rung_is_damage(store, study):
    (store.rung_adapter_dir(study.name, 0, 8) / "adapter_model.safetensors").write_bytes(b"")
    assert found(store, study) == [(DamageKind.RUNG_ADAPTER, "adapter-chunk-8")]


def test_the_adapter_of_another_rung_is_a_leftover(store, study):
    store.write_rung_adapter(study.name, 0, 4, FILES)
    assert found(store, study) == [(DamageKind.LEFTOVER, "adapter-chunk-4")]


def test_the_adapter_of_a_rung_of_a_pruned_trial_is_a_leftover(store, study):
    store.write_trial(make_trial(1, 0.9, chunks=4, state=TrialState.PRUNED))
    store.write_rung_adapter(study.name, 1, 4, FILES)
    assert found(store, study) == [(DamageKind.LEFTOVER, "adapter-chunk-4")]


def test_a_running_trial_may_have_that_of_its_best_rung(store, study):
    store.write_trial(make_trial(1, 0.9, chunks=4, state=TrialState.RUNNING), save({}))
    store.write_rung_adapter(study.name, 1, 4, FILES)
    assert found(store, study) == []


@pytest.fixture
def with_outcomes(store, study):
    """The same trial with the outcomes of two rungs and of the test rows."""
    content = outcomes_of(0.8).to_bytes()
    measurements = tuple(
        replace(each, outcomes=store.write_outcomes(study.name, 0, each.chunk, content) if each.chunk > 4 else "")
        for each in store.read_trial(study.name, 0).measurements
    )
    store.write_trial(replace(store.read_trial(study.name, 0), measurements=measurements))
    store.write_test_outcomes(study.name, 0, content)
    return store


def test_row_outcomes_may_be_there_or_not(with_outcomes, study):
    assert found(with_outcomes, study) == []


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_bit, lambda path: path.write_bytes(b"x")])
def test_lost_or_changed_row_outcomes_are_damage(with_outcomes, study, damage):
    damage(with_outcomes.paths.trial(study.name, 0).outcomes(8))
    assert found(with_outcomes, study) == [(DamageKind.OUTCOMES, "outcomes-8.safetensors")]


def test_unreadable_outcomes_of_the_test_rows_are_damage_and_missing_ones_are_not(with_outcomes, study):
    path = with_outcomes.paths.trial(study.name, 0).test_outcomes
    path.write_bytes(b"x")
    assert found(with_outcomes, study) == [(DamageKind.OUTCOMES, "outcomes-test.safetensors")]
    path.unlink()
    assert found(with_outcomes, study) == []


def test_row_outcomes_that_the_record_does_not_list_are_leftovers(with_outcomes, study):
    with_outcomes.write_outcomes(study.name, 0, 4, b"x")
    assert found(with_outcomes, study) == [(DamageKind.LEFTOVER, "outcomes-4.safetensors")]
