"""Trial folders: round trips, consistency of record and checkpoint after a kill, errors for damaged files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper import types
from sweeper.disk.atomic import write_atomic
from sweeper.errors import DiskFull, StoreError
from sweeper.store.serialization import SCHEMA_VERSION, from_jsonable, to_bytes, to_jsonable
from sweeper.store.trials import TrialStore
from sweeper.types import (
    Cost,
    Failure,
    FailureKind,
    Measurement,
    Phase,
    StudyRecord,
    TrialRecord,
    TrialSpec,
    TrialState,
)
from tests.builders import STUDY, make_history, make_measurement, make_spec, make_study, make_trial
from tests.doubles import outcomes_of

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = {
    "lora.r": st.integers(-(2**53), 2**53),
    "lora.use_rslora": st.booleans(),
    "train.learning_rate": NUMBERS,
    "train.lr_schedule": st.text(max_size=8),
}
PARAMS = st.fixed_dictionaries({}, optional=VALUES)
SPECS = st.builds(
    make_spec,
    number=st.integers(0, 9999),
    params=PARAMS,
    fixed=PARAMS,
    seed=st.integers(0, 2**31),
    origin=st.text(max_size=12),
    phase=st.sampled_from(Phase),
)
MEASUREMENTS = st.builds(
    Measurement,
    chunk=st.integers(1, 99),
    rows=st.integers(0, 10**9),
    metrics=st.dictionaries(st.text(max_size=8), NUMBERS, max_size=3),
    elapsed_s=NUMBERS,
)
RECORDS = st.builds(
    TrialRecord,
    spec=SPECS,
    state=st.sampled_from(TrialState),
    measurements=st.lists(MEASUREMENTS, max_size=3).map(tuple),
    cost=st.builds(Cost, rows=st.integers(0), tokens=st.integers(0), device_s=NUMBERS),
    num_parameters=st.integers(0),
    num_retries=st.integers(0, 5),
    failure=st.none()
    | st.builds(Failure, kind=st.sampled_from(FailureKind), message=st.text(max_size=9), traceback=st.text(max_size=9)),
    started_at=st.text(max_size=9),
    finished_at=st.text(max_size=9),
    initial_hash=st.text(max_size=9),
)
RECORD = make_study()


def trial(number=0, *, chunks=0, state=TrialState.RUNNING, **more):
    saved = {"checkpoints": {chunks: "its checksum"}} if chunks and not state.is_finished else {}
    return make_trial(number, state=state, measurements=make_history(chunks), **saved | more)


@pytest.fixture
def store(tmp_path):
    return TrialStore(tmp_path / "sweep")


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# Reading what was written.


@settings(deadline=None)
@given(RECORDS)
def test_a_trial_survives_json(record):
    assert from_jsonable(TrialRecord, json.loads(json.dumps(to_jsonable(record)))) == record


def test_enums_come_back_as_enums():
    back = from_jsonable(TrialRecord, json.loads(json.dumps(to_jsonable(trial(state=TrialState.PRUNED)))))
    assert back.state is TrialState.PRUNED
    assert back.spec.phase is Phase.SEARCH


@pytest.mark.parametrize("kind", [TrialRecord, TrialSpec, Measurement, Cost, Failure, StudyRecord])
def test_stored_values_are_public_core_dataclasses(kind):
    assert kind.__name__ in types.__all__
    assert dataclasses.is_dataclass(kind)


def test_a_study_is_read_as_it_was_written(store):
    store.write_study(RECORD)
    assert store.read_study(STUDY) == RECORD


def test_trials_are_read_by_number(store):
    for number in (10, 2, 1_000_000):
        store.write_trial(trial(number))
    assert [record.spec.number for record in store.trials(STUDY)] == [2, 10, 1_000_000]
    assert store.read_trial(STUDY, 2) == trial(2)


def test_studies_are_read_in_the_order_in_which_the_sweep_names_them(store):
    names = ["z", "a", "m"]
    for name in ("a", "m", "z"):
        store.write_study(dataclasses.replace(RECORD, name=name))
    store.write_sweep({"studies": names})
    assert [study.name for study in store.studies()] == names


def test_an_empty_folder_contains_no_sweep(store):
    assert not store.exists
    assert store.studies() == []
    assert store.trials(STUDY) == []


# Checkpoints and adapters.


def test_a_checkpoint_is_named_by_its_chunk_and_replaces_the_one_before(store):
    store.write_trial(trial(chunks=1), b"one")
    store.write_trial(trial(chunks=2), b"two")
    assert store.read_checkpoint(STUDY, 0, 2) == b"two"
    assert files(store.paths.trial(STUDY, 0).folder) == ["checkpoint-2.safetensors", "trial.json"]


def test_a_record_without_a_new_checkpoint_keeps_the_present_one(store):
    store.write_trial(trial(chunks=2), b"two")
    store.write_trial(trial(chunks=2, num_retries=1))
    assert store.read_checkpoint(STUDY, 0, 2) == b"two"


def test_a_checkpoint_that_the_record_no_longer_lists_is_removed(store):
    for chunks in (2, 3):
        store.write_trial(trial(chunks=chunks, checkpoints=dict.fromkeys(range(2, chunks + 1), "")), b"content")
    store.write_trial(trial(chunks=2))
    store.write_trial(trial(chunks=3, checkpoints={2: "its checksum"}))
    assert files(store.paths.trial(STUDY, 0).folder) == ["checkpoint-2.safetensors", "trial.json"]


@pytest.mark.parametrize("state", [state for state in TrialState if state.is_finished])
def test_a_finished_trial_keeps_no_checkpoint(store, state):
    store.write_trial(trial(chunks=2), b"two")
    store.write_trial(trial(chunks=2, state=state))
    assert files(store.paths.trial(STUDY, 0).folder) == ["trial.json"]


def test_a_checkpoint_that_was_not_taken_is_none(store):
    store.write_trial(trial(chunks=1), b"one")
    assert store.read_checkpoint(STUDY, 0, 2) is None


def test_an_adapter_replaces_all_files_of_the_one_before(store):
    store.write_adapter(STUDY, 0, {"adapter_config.json": b"{}", "old.txt": b""})
    store.write_adapter(STUDY, 0, {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"})
    assert files(store.adapter_dir(STUDY, 0)) == ["adapter_config.json", "adapter_model.safetensors"]
    assert files(store.paths.trial(STUDY, 0).folder) == ["adapter"]


def test_an_adapter_that_was_half_written_by_a_killed_process_does_no_harm(store):
    aside = store.paths.trial(STUDY, 0).folder / ".adapter.0a1b2c3d.tmp"
    aside.mkdir(parents=True)
    (aside / "junk").write_text("half")
    store.write_adapter(STUDY, 0, {"adapter_config.json": b"{}"})
    assert files(store.adapter_dir(STUDY, 0)) == ["adapter_config.json"]


def test_adapters_of_rungs_are_named_by_their_chunks_and_dropped_but_one(store):
    store.write_trial(trial(chunks=4))
    store.write_rung_adapter(STUDY, 0, 2, {"adapter_config.json": b"two"})
    store.write_rung_adapter(STUDY, 0, 4, {"adapter_config.json": b"four"})
    assert files(store.paths.trial(STUDY, 0).folder) == ["adapter-chunk-2", "adapter-chunk-4", "trial.json"]
    store.drop_rung_adapters(STUDY, 0, but=4)
    assert files(store.paths.trial(STUDY, 0).folder) == ["adapter-chunk-4", "trial.json"]
    assert (store.rung_adapter_dir(STUDY, 0, 4) / "adapter_config.json").read_bytes() == b"four"
    store.drop_rung_adapters(STUDY, 0, but=None)
    assert files(store.paths.trial(STUDY, 0).folder) == ["trial.json"]


def test_the_adapter_of_the_last_chunk_and_those_of_rungs_are_dropped_separately(store):
    store.write_adapter(STUDY, 0, {"adapter_config.json": b"{}"})
    store.write_rung_adapter(STUDY, 0, 4, {"adapter_config.json": b"{}"})
    store.drop_adapter(STUDY, 0)
    assert files(store.paths.trial(STUDY, 0).folder) == ["adapter-chunk-4"]


def scored(*digests, **more):
    """A trial with these checksums of its outcomes after each chunk."""
    rungs = tuple(make_measurement(chunk, 0.5, outcomes=digest) for chunk, digest in enumerate(digests, start=1))
    return make_trial(0, measurements=rungs, **more)


def write_scored(store, chunks, **more):
    digests = [
        store.write_outcomes(STUDY, 0, chunk, outcomes_of(chunk / 10).to_bytes()) for chunk in range(1, chunks + 1)
    ]
    store.write_trial(scored(*digests, **more))


def test_outcomes_of_every_rung_are_read_as_they_were_written(store):
    write_scored(store, 3)
    for chunk in (1, 2, 3):
        assert store.read_outcomes(STUDY, 0, chunk).to_bytes() == outcomes_of(chunk / 10).to_bytes()
    assert store.read_outcomes(STUDY, 0, 4) is None


def test_damaged_outcomes_are_none(store):
    write_scored(store, 1)
    store.paths.trial(STUDY, 0).outcomes(1).write_bytes(b"x")
    assert store.read_outcomes(STUDY, 0, 1) is None


def test_outcomes_that_the_record_does_not_list_are_removed(store):
    write_scored(store, 2)
    store.write_trial(dataclasses.replace(store.read_trial(STUDY, 0), measurements=(make_measurement(1, 0.5),)))
    assert files(store.paths.trial(STUDY, 0).folder) == ["trial.json"]


def test_outcomes_of_a_chunk_that_a_kill_interrupted_are_removed_at_the_next_start(store):
    write_scored(store, 1)
    store.write_outcomes(STUDY, 0, 2, outcomes_of(0.5).to_bytes())
    store.tidy(store.read_trial(STUDY, 0))
    assert files(store.paths.trial(STUDY, 0).folder) == ["outcomes-1.safetensors", "trial.json"]


def test_outcomes_of_test_rows_stay_with_a_complete_trial_only(store):
    write_scored(store, 1)
    store.write_test_outcomes(STUDY, 0, outcomes_of(0.7).to_bytes())
    store.tidy(store.read_trial(STUDY, 0))
    assert store.read_test_outcomes(STUDY, 0).to_bytes() == outcomes_of(0.7).to_bytes()
    write_scored(store, 1, state=TrialState.RUNNING)
    assert store.read_test_outcomes(STUDY, 0) is None


# A kill at any moment.


class Killed(BaseException):
    """Stands for a process that is killed there."""


@pytest.fixture
def kill_at(monkeypatch):
    """Kill the process at the n-th move into place, counted from 1."""

    def arrange(nth):
        moves = []

        def replace(source, target):
            moves.append(target)
            if len(moves) == nth:
                raise Killed
            real(source, target)

        real = os.replace
        monkeypatch.setattr("sweeper.disk.atomic.os.replace", replace)

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("nth", [1, 2])
def test_after_a_kill_while_a_chunk_is_written_record_and_checkpoint_agree(store, kill_at, nth):
    store.write_trial(trial(chunks=1), b"one")
    kill_at(nth)  # 1: before the checkpoint is in place, 2: between checkpoint and trial.json
    with pytest.raises(Killed):
        store.write_trial(trial(chunks=2), b"two")
    record = store.read_trial(STUDY, 0)
    assert record.chunks_done == 1
    assert store.read_checkpoint(STUDY, 0, record.chunks_done) == b"one"


def test_the_next_start_removes_what_a_kill_left(store, kill_at, monkeypatch):
    store.write_trial(trial(chunks=1), b"one")
    kill_at(2)
    with pytest.raises(Killed):
        store.write_trial(trial(chunks=2), b"two")
    monkeypatch.undo()
    store.tidy(trial(chunks=1))
    store.write_trial(trial(chunks=2), b"two again")
    assert files(store.paths.trial(STUDY, 0).folder) == ["checkpoint-2.safetensors", "trial.json"]
    assert store.read_checkpoint(STUDY, 0, 2) == b"two again"


def test_the_next_start_removes_what_a_kill_left_of_a_trial_that_was_never_recorded(store, kill_at, monkeypatch):
    kill_at(1)
    with pytest.raises(Killed):
        store.write_trial(trial())
    monkeypatch.undo()
    folder = store.paths.trial(STUDY, 0).folder
    assert files(folder) != []
    store.tidy_study(STUDY)
    assert files(folder) == []


def test_a_kill_while_an_adapter_is_written_leaves_the_trial_running(store, kill_at):
    store.write_trial(trial(chunks=1), b"one")
    kill_at(1)
    with pytest.raises(Killed):
        store.write_adapter(STUDY, 0, {"adapter_config.json": b"{}"})
    assert store.read_trial(STUDY, 0).state is TrialState.RUNNING
    assert not store.adapter_dir(STUDY, 0).exists()


def test_a_kill_while_a_rung_is_written_leaves_the_adapter_of_the_rung_before(store, kill_at, monkeypatch):
    store.write_rung_adapter(STUDY, 0, 2, {"adapter_config.json": b"two"})
    store.write_trial(trial(chunks=2), b"two")
    kill_at(1)
    with pytest.raises(Killed):
        store.write_rung_adapter(STUDY, 0, 4, {"adapter_config.json": b"four"})
    monkeypatch.undo()
    assert (store.rung_adapter_dir(STUDY, 0, 2) / "adapter_config.json").read_bytes() == b"two"
    assert not store.rung_adapter_dir(STUDY, 0, 4).exists()
    store.tidy(store.read_trial(STUDY, 0))
    assert files(store.paths.trial(STUDY, 0).folder) == ["adapter-chunk-2", "checkpoint-2.safetensors", "trial.json"]


def test_a_kill_while_an_adapter_of_a_rung_is_dropped_leaves_no_part_of_it(store, monkeypatch):
    store.write_trial(trial(chunks=2))
    store.write_rung_adapter(STUDY, 0, 2, {"adapter_config.json": b"two"})

    def killed(_folder, **_options):
        raise Killed

    real = shutil.rmtree
    monkeypatch.setattr("sweeper.disk.atomic.shutil.rmtree", lambda f, **o: real(f, **o) if o else killed(f))
    with pytest.raises(Killed):
        store.drop_rung_adapters(STUDY, 0, but=None)
    monkeypatch.undo()
    assert not store.rung_adapter_dir(STUDY, 0, 2).exists()
    store.tidy(store.read_trial(STUDY, 0))
    assert files(store.paths.trial(STUDY, 0).folder) == ["trial.json"]


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeper.disk.atomic.os.fsync", full)
    with pytest.raises(DiskFull, match=r"file cannot be written \(No space.*MB are free.*run the same command again"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["file"]


# Damage.

GOOD = to_bytes(trial()).decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        (GOOD[:-20], "cannot be read"),
        ("[]", "it has no schema_version"),
        (GOOD.replace('"schema_version"', '"version"'), "it has no schema_version"),
        (GOOD.replace('"running"', '"jogging"'), "damaged"),
        (GOOD.replace('"measurements": []', '"measurements": 3'), "damaged"),
        (GOOD.replace('"spec"', '"sepc"'), "damaged"),
    ],
)
def test_a_damaged_trial_is_reported_with_its_path_and_a_remedy(store, content, message):
    store.write_trial(trial())
    path = store.paths.trial(STUDY, 0).folder / "trial.json"
    path.write_text(content)
    with pytest.raises(StoreError) as caught:
        store.trials(STUDY)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "sweeper reconcile sweep" in str(caught.value)


@pytest.mark.parametrize(("version", "age"), [(SCHEMA_VERSION - 1, "an earlier"), (SCHEMA_VERSION + 1, "a later")])
def test_a_sweep_of_another_version_is_rejected_with_a_remedy(store, version, age):
    store.write_sweep({})
    store.paths.sweep.write_text(f'{{"schema_version": {version}}}')
    message = rf"sweep\.json was written by {age} version of sweeper .*schema_version={version}.* Use a new sweep name"
    with pytest.raises(StoreError, match=message):
        store.read_sweep()


def test_a_missing_trial_is_reported(store):
    with pytest.raises(StoreError, match=r"0007.trial\.json does not exist"):
        store.read_trial(STUDY, 7)
