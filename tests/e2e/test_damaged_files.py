"""Every file of a sweep may be torn: the command heals it, or names one that does. No finished trial is lost."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
from datetime import datetime, timedelta

import pytest
from rich.console import Console

import sweeper
from sweeper.cli import app
from sweeper.disk.atomic import write_atomic
from sweeper.errors import SweeperError, SweepMismatch
from sweeper.store.trials import TrialStore
from sweeper.sweep.run import run_sweep
from sweeper.types import Phase, TrialState
from tests.doubles import write_rows
from tests.e2e.conftest import overrides_of
from tests.e2e.test_repair import CONFIRMED, Sweep, empty, truncate, zero

pytestmark = pytest.mark.slow
STUDY = "tiny-tinybert-lora"
IN_STUDY = f"studies/{STUDY}"
RECORDS = ["sweep.json", "sweep.backup.json", f"{IN_STUDY}/study.json", f"{IN_STUDY}/study.backup.json"]
FILES = [
    *RECORDS,
    "ledger.json",
    "optuna.db",
    f"{IN_STUDY}/confirmation.json",
    f"{IN_STUDY}/trials/SEARCHED/trial.json",
    f"{IN_STUDY}/trials/SEARCHED/outcomes-LAST.safetensors",
    f"{IN_STUDY}/trials/SEARCHED/adapter/adapter_config.json",
    f"{IN_STUDY}/trials/SEARCHED/adapter/adapter_model.safetensors",
    f"{IN_STUDY}/trials/CONFIRMED/trial.json",
    f"{IN_STUDY}/trials/CONFIRMED/outcomes-LAST.safetensors",
    f"{IN_STUDY}/trials/CONFIRMED/outcomes-test.safetensors",
]
"""SEARCHED is the best trial of the search, CONFIRMED a trial of the confirmation, LAST the last chunk."""
NOTES = [
    "health.json",
    "holder.json",
    "optuna.db.lock",
    "sweep.lock",
    "report.lock",
    "sweep.log",
    "sessions/0001.json",
    "sessions/0001.md",
    "summary.md",
    "best.json",
    "report.html",
    "report.md",
    "trials.csv",
]
"""Files that no trial depends on."""
DAMAGES = [truncate, empty, zero]


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_bert, tiny_cache):
    """A sweep without a tracker, i.e. without copies, that is done and confirmed."""
    folder = tmp_path_factory.mktemp("finished")
    overrides = [
        *overrides_of(folder, write_rows(folder / "rows.jsonl"), tiny_bert, tiny_cache),
        *CONFIRMED,
    ]
    sweeper.run(overrides)
    store = TrialStore(folder / "outputs" / "tiny")
    write_atomic(store.paths.health, b'{"devices": {}, "studies": {}, "tracker": "late"}')
    write_atomic(store.paths.holder, b'{"pid": 1, "user": "me", "host": "here", "since": "then"}')
    return folder, overrides


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, tiny_bert, tiny_cache):
    """A sweep that its window ended in the middle: trials are complete and running."""
    folder = tmp_path_factory.mktemp("unfinished")
    overrides = overrides_of(folder, write_rows(folder / "rows.jsonl"), tiny_bert, tiny_cache)
    store = TrialStore(folder / "outputs" / "tiny")
    start = datetime.fromisoformat("2026-01-01T22:00+00:00")

    def clock():
        return start + timedelta(minutes=sum(trial.chunks_done for trial in store.trials(STUDY)))

    window = ['budget.window="22:00-22:16"', "budget.time_zone=UTC", "search.min_chunks=4"]
    run_sweep([*overrides, *window], console=Console(file=io.StringIO()), clock=clock)
    return folder, [*overrides, "search.min_chunks=4"]


def copied(swept, tmp_path):
    folder, overrides = swept
    shutil.copytree(folder / "outputs", tmp_path / "outputs")
    return Sweep(tmp_path / "outputs", [*overrides, f"outputs={tmp_path / 'outputs'}"])


@pytest.fixture
def sweep(done, tmp_path):
    return copied(done, tmp_path)


@pytest.fixture
def paused(unfinished, tmp_path):
    return copied(unfinished, tmp_path)


def run(sweep):
    """Run a sweep; if it cannot be run, run the command that the error names, and the sweep again."""
    try:
        sweeper.run(sweep.overrides)
    except SweeperError as error:
        if "sweeper reconcile tiny" not in str(error):
            raise
        sweep.reconcile()
        sweeper.run(sweep.overrides)


def path_of(sweep, name):
    confirmed = next(n for n, record in sweep.records().items() if record.spec.phase is Phase.CONFIRMATION)
    best = sweep.best()
    name = name.replace("SEARCHED", f"{best.spec.number:04d}").replace("CONFIRMED", f"{confirmed:04d}")
    return sweep.store.root / name.replace("LAST", str(best.chunks_done))


def finished(sweep):
    """Return the finished trials in an order that does not depend on their numbers.

    A trial of the confirmation whose record is lost is replaced by one with a new number.
    """
    found = [record for record in sweep.records().values() if record.state.is_finished]
    return sorted(found, key=lambda record: (record.spec.phase, repr(record.spec.by_key()), record.spec.seed))


def assert_same(before, after):
    """Check that trials have the same specs and scores; a trial that is trained again may differ by rounding."""
    assert [(r.spec.by_key(), r.spec.seed, r.state) for r in after] == [
        (r.spec.by_key(), r.spec.seed, r.state) for r in before
    ]
    for one, other in zip(before, after, strict=True):
        assert [m.chunk for m in one.measurements] == [m.chunk for m in other.measurements]
        for chunk, same in zip(one.measurements, other.measurements, strict=True):
            assert dict(same.metrics) == pytest.approx(dict(chunk.metrics), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "damage"), [*itertools.product(FILES, DAMAGES), *itertools.product(NOTES, [truncate])]
)
def test_a_damaged_file_of_a_finished_sweep_costs_nothing(sweep, name, damage):
    path, before = path_of(sweep, name), finished(sweep)
    content = path.read_bytes()
    damage(path)
    run(sweep)
    sweep.reconcile()
    sweeper.run(sweep.overrides)
    for command in ("status", "report"):
        app([command, "tiny", "--outputs", str(sweep.outputs)], standalone_mode=False)
    assert_same(before, finished(sweep))
    assert sweep.store.read_confirmation(STUDY).state.is_over
    assert sweep.reconcile(retrain=True), sweep.output
    if name in RECORDS:
        assert path.read_bytes() == content
    if name.endswith(".json") and path.exists():
        json.loads(path.read_text())


def test_every_file_of_a_sweep_is_damaged_by_a_test(sweep):
    patterns = [re.sub("SEARCHED|CONFIRMED", r"\\d+", name).replace("LAST", r"\d+") for name in [*FILES, *NOTES]]
    files = [path.relative_to(sweep.store.root).as_posix() for path in sweep.store.root.rglob("*") if path.is_file()]
    assert [name for name in files if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["sweep.json", "study.json", "ledger.json", "optuna.db", "trial.json", "checkpoint"])
def test_a_damaged_file_of_an_unfinished_sweep_costs_no_finished_trial(paused, name, damage):
    sweep = paused
    before = {number: record for number, record in sweep.records().items() if record.state.is_finished}
    running = [number for number, record in sweep.records().items() if record.chunks_done and number not in before]
    assert before
    assert running
    folder = sweep.store.paths.trial(STUDY, running[0])
    paths = {"study.json": sweep.store.paths.study_record(STUDY), "trial.json": folder.record}
    latest = folder.checkpoint(sweep.records()[running[0]].chunks_done)
    damage({**paths, "checkpoint": latest}.get(name, sweep.store.root / name))
    run(sweep)
    after = sweep.records()
    assert {number: after[number] for number in before} == before
    assert len(after) == 5
    assert all(record.state.is_finished for record in after.values())
    assert sweep.reconcile(), sweep.output


# Both the record and its copy.


def lose_sweep(sweep):
    truncate(sweep.store.paths.sweep)
    zero(sweep.store.paths.sweep_backup)


def test_a_lost_sweep_record_is_rebuilt_from_the_same_overrides(sweep, capsys):
    before = sweep.store.read_sweep()
    records = sweep.records()
    lose_sweep(sweep)
    for command in ("status", "report", "reconcile"):
        with pytest.raises(SweeperError, match=r"sweeper run \.\.\. name=tiny"):
            app([command, "tiny", "--outputs", str(sweep.outputs)], standalone_mode=False)
    sweeper.run(sweep.overrides)
    assert "sweep.json was damaged and has been restored" in " ".join(capsys.readouterr().out.split())
    assert sweep.store.read_sweep()["settings"] == before["settings"] | {"outputs": str(sweep.outputs)}
    assert {key: sweep.store.read_sweep()[key] for key in ("studies", "num_references")} == {
        key: before[key] for key in ("studies", "num_references")
    }
    assert sweep.records() == records
    assert len(sweep.damaged("sweep*.json")) == 2


def test_reconcile_rebuilds_it_too(sweep):
    from sweeper.config.compose import compose

    lose_sweep(sweep)
    assert sweep.reconcile(settings=compose(sweep.overrides).settings), sweep.output
    assert "rebuilt from the settings" in sweep.output
    assert sweep.store.read_sweep()["studies"] == [STUDY]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("seed=7", "seed: 0 before, 7 now"),
        ("lora.use_rslora=true", "lora.use_rslora: False before, True now"),
        ("train.epochs=3", "epochs"),
        ("search.min_chunks=2", "rungs"),
        ("lora.r=choice(4,8)", "space"),
        ("model.name=another", "study: tiny-tinybert-lora before, tiny-another-lora now"),
    ],
)
def test_a_lost_sweep_record_is_not_rebuilt_from_settings_that_the_trials_contradict(sweep, change, text):
    lose_sweep(sweep)
    before = sweep.files()
    with pytest.raises(SweepMismatch, match=re.escape(text) if ":" in text else text):
        sweeper.run([*sweep.overrides, change])
    assert sweep.files() == before


def lose_study(sweep):
    zero(sweep.store.paths.study_record(STUDY))
    sweep.store.paths.study_backup(STUDY).unlink()


def test_a_lost_study_record_is_rebuilt_from_the_settings_and_the_data(sweep):
    before, records = sweep.store.read_study(STUDY), sweep.records()
    lose_study(sweep)
    run(sweep)
    after = sweep.store.read_study(STUDY)
    assert (after.fingerprint, after.rungs, after.num_rows) == (before.fingerprint, before.rungs, before.num_rows)
    assert sweep.records() == records


def test_a_missing_study_record_is_not_planned_anew_without_a_check(sweep):
    for path in (sweep.store.paths.study_record(STUDY), sweep.store.paths.study_backup(STUDY)):
        path.unlink()
    with pytest.raises(SweeperError, match="sweeper reconcile tiny"):
        sweeper.run(sweep.overrides)


def test_a_record_of_another_version_is_no_damage(sweep):
    record = sweep.store.paths.trial(STUDY, 0).record
    record.write_text(record.read_text().replace('"schema_version": 2', '"schema_version": 3'))
    before = sweep.files()
    with pytest.raises(SweeperError, match="a later version of sweeper"):
        sweep.reconcile()
    assert sweep.files() == before


def test_a_complete_trial_without_a_copy_of_its_torn_record_is_trained_again(sweep):
    before = sweep.best()
    truncate(sweep.store.paths.trial(STUDY, before.spec.number).record)
    assert not sweep.reconcile(dry_run=True)
    assert "restarted with the same configuration: there is no copy" in sweep.output
    assert sweep.reconcile(), sweep.output
    assert sweep.records()[before.spec.number].state is TrialState.RUNNING
    assert sweep.damaged("adapter_model.safetensors")
    sweeper.run(sweep.overrides)
    assert_same([before], [sweep.best()])
