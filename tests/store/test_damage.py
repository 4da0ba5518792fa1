"""Damage to adapters and row outcomes of rungs. `tests/e2e/test_reconcile.py` covers the other files of a sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save

from sweeper.disk.atomic import write_atomic
from sweeper.errors import StoreError
from sweeper.store.damage import (
    DamageKind,
    adapter_warnings,
    find_damage,
    find_record_damage,
    restore_records,
    without_adapter,
)
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.types import Phase, TrialState
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


# Records and their copies.


@pytest.mark.parametrize("content", [b"", bytes(100), b'{"schema_version": 2'])
def test_a_damaged_record_is_read_from_its_copy_and_restored(store, study, content):
    sweep, record = store.read_sweep(), store.paths.study_record(study.name)
    before = [path.read_bytes() for path in (store.paths.sweep, record)]
    for path in (store.paths.sweep, record):
        path.write_bytes(content)
    assert (store.read_sweep(), store.studies()) == (sweep, [study])
    assert [damage.kind for damage in find_record_damage(store)] == [DamageKind.SWEEP, DamageKind.STUDY]
    assert restore_records(store, "now") == [store.paths.sweep, record]
    assert [path.read_bytes() for path in (store.paths.sweep, record)] == before
    assert [store.paths.damaged("now", path).read_bytes() for path in (store.paths.sweep, record)] == [content] * 2
    assert find_record_damage(store) == []


def test_a_copy_follows_its_record(store, study):
    store.paths.study_backup(study.name).unlink()
    store.paths.sweep_backup.write_bytes(b"{")
    assert restore_records(store, "now") == []
    assert store.paths.sweep_backup.read_bytes() == store.paths.sweep.read_bytes()
    changed = replace(study, references={})
    store.write_study(changed)
    store.paths.study_record(study.name).unlink()
    assert store.read_study(study.name) == changed


def test_a_record_of_another_version_is_not_replaced_by_its_copy(store):
    store.paths.sweep.write_text('{"schema_version": 1}')
    for read in (store.read_sweep, lambda: find_record_damage(store), lambda: restore_records(store, "now")):
        with pytest.raises(StoreError, match="an earlier version"):
            read()
    assert store.paths.sweep.read_text() == '{"schema_version": 1}'


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_record_of_a_session_is_found(store, content):
    path = store.paths.session(3)
    write_atomic(path, content.encode())
    assert [(damage.kind, damage.path) for damage in find_record_damage(store)] == [(DamageKind.NOTE, path)]


# Missing adapters.


def with_keep_adapters(store, number):
    sweep = store.read_sweep()
    store.write_sweep({**sweep, "settings": {**sweep["settings"], "store": {"keep_adapters": number}}})


def test_a_missing_or_damaged_adapter_of_one_of_the_best_trials_is_reported_with_its_remedy(store, study):
    with_keep_adapters(store, 1)
    assert adapter_warnings(store) == []
    (store.adapter_dir(study.name, 0) / "adapter_model.safetensors").write_bytes(bytes(8))
    (line,) = adapter_warnings(store)
    assert "the adapter of trial 0 is missing or damaged. The score stays" in line
    assert "sweeper reconcile mine; if there is no copy, add --retrain" in line
    store.drop_adapter(study.name, 0)
    assert adapter_warnings(store) == [line]


def test_the_adapter_of_a_trial_that_is_not_among_the_best_is_not_missing(store, study):
    store.write_trial(make_trial(1, 0.1))
    trials = store.trials(study.name)
    assert without_adapter(store, study, trials, keep_adapters=1) == []
    assert without_adapter(store, study, trials, keep_adapters=2) == [1]


def test_what_a_session_with_a_smaller_limit_has_deleted_is_not_missing(store):
    store.write_trial(make_trial(1, 0.1))
    with_keep_adapters(store, 0)
    assert len(adapter_warnings(store)) == 1
    session = SessionRecord(number=1, begun_at="2026-01-01T00:00:00+00:00", saved_at="", keep_adapters=1)
    write_atomic(SessionLog(store.root).path(1), to_bytes(session))
    assert adapter_warnings(store) == []


def test_outcomes_that_a_confirmation_trial_has_lost_are_reported_although_its_record_does_not_list_them(store, study):
    trial = make_trial(1, 0.9)
    assert found(store, study) == []
    store.write_trial(replace(trial, spec=replace(trial.spec, phase=Phase.CONFIRMATION)))
    store.write_adapter(study.name, 1, FILES)
    assert found(store, study) == [(DamageKind.OUTCOMES, "outcomes-12.safetensors")]
