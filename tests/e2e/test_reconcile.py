"""`sweeper reconcile` on finished sweeps that the tests damage."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from rich.console import Console
from safetensors.numpy import save

import sweeper
from sweeper.cli import main
from sweeper.control.resume import with_checkpoint
from sweeper.errors import SweepLocked
from sweeper.figures.recipes import FIRST_REFERENCE_NUMBER
from sweeper.recovery.reconcile import reconcile_sweep
from sweeper.store.ledger import Ledger
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState
from tests.doubles import write_rows

pytestmark = pytest.mark.slow
STUDY = "tiny-tinybert-lora"


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_bert, tiny_cache):
    """A sweep that is done, with MLflow; each test takes a copy."""
    from tests.e2e.conftest import overrides_of

    folder = tmp_path_factory.mktemp("swept")
    rows = write_rows(folder / "rows.jsonl")
    overrides = [*overrides_of(folder, rows, tiny_bert, tiny_cache), "tracker=mlflow"]
    sweeper.run(overrides)
    _close_mlflow()
    return folder, overrides


@dataclasses.dataclass
class Sweep:
    outputs: Path
    overrides: list[str]
    output: str = ""

    @property
    def store(self):
        return TrialStore(self.outputs / "tiny")

    def reconcile(self, *, dry_run=False):
        page = io.StringIO()
        result = reconcile_sweep(self.store, console=Console(file=page, width=200), dry_run=dry_run)
        self.output = page.getvalue()
        return result

    def records(self):
        return {record.spec.number: record for record in self.store.trials(STUDY)}

    def complete(self):
        return next(r for r in self.records().values() if r.state is TrialState.COMPLETE)

    def folder(self, number):
        return self.store.paths.trial(STUDY, number).folder

    def files(self):
        kept = [p for p in self.outputs.rglob("*") if p.is_file() and not p.name.endswith((".lock", "-wal", "-shm"))]
        return {path: path.read_bytes() for path in kept}

    def runs(self):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{self.outputs}/mlflow.db", f"sqlite:///{self.outputs}/mlflow.db")
        experiment = client.get_experiment_by_name(f"tiny/{STUDY}")
        runs = client.search_runs([experiment.experiment_id], "tags.trial != ''")
        return client, sorted(runs, key=lambda run: run.data.tags["trial"])

    def in_optuna(self):
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.store.root}/optuna.db")
        try:
            return optuna.load_study(study_name=f"tiny/{STUDY}", storage=storage).get_trials()
        finally:
            storage.remove_session()
            storage.engine.dispose()


@pytest.fixture
def sweep(swept, tmp_path):
    folder, overrides = swept
    shutil.copytree(folder / "outputs", tmp_path / "outputs")
    yield Sweep(tmp_path / "outputs", [*overrides, f"outputs={tmp_path / 'outputs'}"])
    _close_mlflow()


def _close_mlflow():
    """MLflow keeps every engine; an open connection would become a ResourceWarning at some later time."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    while SqlAlchemyStore._engine_map:
        SqlAlchemyStore._engine_map.popitem()[1].dispose()


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_consistent_sweep_is_not_changed(sweep):
    before = sweep.files()
    assert sweep.reconcile()
    assert "store, Optuna and MLflow agree" in sweep.output
    assert sweep.files() == before


def test_a_dry_run_prints_differences_and_changes_nothing(sweep):
    truncate(sweep.folder(0) / "trial.json")
    before = sweep.files()
    assert not sweep.reconcile(dry_run=True)
    assert "trial.json cannot be read" in sweep.output
    assert sweep.files() == before


def reports_in_mlflow(sweep):
    """Return the artifacts of each run that has the report."""
    client, runs = sweep.runs()
    reports = client.search_runs([runs[0].info.experiment_id], "tags.report = 'tiny'")
    return [Path(run.info.artifact_uri.removeprefix("file://")) for run in reports]


def assert_report_is_kept_once(sweep):
    (kept,) = reports_in_mlflow(sweep)
    assert sorted(path.name for path in kept.iterdir()) == ["best.json", "report.html", "report.md"]
    for path in kept.iterdir():
        assert path.read_bytes() == (sweep.store.root / path.name).read_bytes()


def test_mlflow_has_the_latest_report_once_and_it_is_no_difference(sweep):
    assert_report_is_kept_once(sweep)
    before = (sweep.store.root / "best.json").read_bytes()
    sweeper.run([*sweep.overrides, "budget.trials=6"])
    assert (sweep.store.root / "best.json").read_bytes() != before
    assert_report_is_kept_once(sweep)
    assert sweep.reconcile(dry_run=True), sweep.output


def test_a_sweep_that_is_done_does_not_import_mlflow_for_its_report(sweep):
    code = "import sys, sweeper; sweeper.run(sys.argv[1:]); sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, *sweep.overrides], check=True, cwd=Path(__file__).parents[2])


def test_a_new_database_gets_the_report_too(sweep):
    _close_mlflow()
    remove_mlflow(sweep)
    assert sweep.reconcile(), sweep.output
    assert_report_is_kept_once(sweep)


def remove_mlflow(sweep):
    (sweep.outputs / "mlflow.db").unlink()


def truncate_mlflow(sweep):
    truncate(sweep.outputs / "mlflow.db")


def empty_mlflow(sweep):
    (sweep.outputs / "mlflow.db").write_bytes(b"")


def remove_optuna(sweep):
    (sweep.store.root / "optuna.db").unlink()


def truncate_optuna(sweep):
    truncate(sweep.store.root / "optuna.db")


def repeat_in_mlflow(sweep):
    client, runs = sweep.runs()
    tags = {"trial": runs[0].data.tags["trial"], "state": "complete"}
    client.create_run(runs[0].info.experiment_id, tags=tags)


def leave_running_in_mlflow(sweep):
    client, runs = sweep.runs()
    client.update_run(runs[0].info.run_id, status="RUNNING")
    client.set_tag(runs[0].info.run_id, "state", "running")


def contradict_in_mlflow(sweep):
    client, runs = sweep.runs()
    client.log_metric(runs[0].info.run_id, "final/accuracy", 0.125, step=0, timestamp=2_000_000_000_000)


def leave_running_in_optuna(sweep):
    _sql(sweep, "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = 1")


def contradict_in_optuna(sweep):
    _sql(sweep, "UPDATE trial_values SET value = 0.125 WHERE trial_id = 1")


def leave_temporary_files(sweep):
    (sweep.folder(0) / ".trial.json.tmp").write_text("{")
    (sweep.folder(0) / "adapter.tmp").mkdir()
    (sweep.folder(0) / "checkpoint-1.safetensors").write_bytes(b"old")


def remove_ledger(sweep):
    (sweep.store.root / "ledger.json").unlink()


def truncate_ledger(sweep):
    truncate(sweep.store.root / "ledger.json")


def truncate_study(sweep):
    truncate(sweep.store.paths.study_record(STUDY))


def _sql(sweep, statement):
    with sqlite3.connect(sweep.store.root / "optuna.db") as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


DAMAGES = {
    "databases are gone": (remove_mlflow, remove_optuna),
    "databases are truncated": (truncate_mlflow, truncate_optuna),
    "records of spending are gone": (empty_mlflow, remove_ledger),
    "views were left running": (leave_running_in_mlflow, leave_running_in_optuna, leave_temporary_files),
    "views contradict": (repeat_in_mlflow, contradict_in_optuna, truncate_ledger),
    "views contradict and the study is truncated": (contradict_in_mlflow, truncate_study),
}


@pytest.mark.parametrize("damages", DAMAGES.values(), ids=DAMAGES)
def test_databases_ledger_and_study_are_repaired_from_the_trial_records(sweep, damages):
    before = sweep.records()
    for damage in damages:
        damage(sweep)
    assert sweep.reconcile(), sweep.output
    assert "repaired" in sweep.output
    assert sweep.records() == before
    assert [(t.number, t.state.is_finished()) for t in sweep.in_optuna()] == [
        (n, True) for n in before if n < FIRST_REFERENCE_NUMBER
    ]
    assert sorted(int(run.data.tags["trial"]) for run in sweep.runs()[1]) == sorted(before)
    assert {run.info.status for run in sweep.runs()[1]} <= {"FINISHED", "FAILED"}
    cost = sum(record.cost.device_s for record in before.values())
    assert Ledger(sweep.store.root / "ledger.json").cost.device_s >= cost * (1 - 1e-9)


def test_a_damaged_database_is_kept(sweep):
    truncate(sweep.store.root / "optuna.db")
    content = (sweep.store.root / "optuna.db").read_bytes()
    sweep.reconcile()
    (kept,) = sweep.store.root.glob("damaged/*/optuna.db")
    assert kept.read_bytes() == content


def without_outcomes(measurements):
    return tuple(dataclasses.replace(each, outcomes="") for each in measurements)


@pytest.mark.parametrize("what", ["truncated", "folder is empty", "folder is gone"])
def test_a_damaged_record_is_restored_from_the_tracker(sweep, what):
    before = sweep.complete()
    folder = sweep.folder(before.spec.number)
    if what == "truncated":
        truncate(folder / "trial.json")
    else:
        shutil.rmtree(folder)
    if what == "folder is empty":
        folder.mkdir()
    assert sweep.reconcile(), sweep.output
    assert "restored from MLflow's copy" in sweep.output
    after = sweep.records()[before.spec.number]
    # Row outcomes have no copy: they are there as long as their folder is.
    expected = before.measurements if what == "truncated" else without_outcomes(before.measurements)
    assert after == dataclasses.replace(before, measurements=expected)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    if what == "truncated":
        assert list(sweep.store.root.glob(f"damaged/*/studies/{STUDY}/trials/*/trial.json"))


def test_a_damaged_adapter_is_restored_from_the_tracker(sweep):
    number = sweep.complete().spec.number
    weights = sweep.folder(number) / "adapter" / "adapter_model.safetensors"
    before = weights.read_bytes()
    truncate(weights)
    assert sweep.reconcile(), sweep.output
    assert weights.read_bytes() == before


def test_without_a_copy_a_damaged_trial_is_restarted_and_ends_as_before(sweep):
    before = sweep.complete()
    number = before.spec.number
    (sweep.outputs / "mlflow.db").unlink()
    (sweep.folder(number) / "trial.json").write_text("{")
    assert sweep.reconcile(), sweep.output
    assert "restarted with the same configuration" in sweep.output
    restarted = sweep.records()[number]
    assert (restarted.spec, restarted.state, restarted.measurements) == (before.spec, TrialState.RUNNING, ())
    assert sweep.in_optuna()[number].state is optuna.trial.TrialState.RUNNING
    sweeper.run(sweep.overrides)
    after = sweep.records()
    assert (after[number].state, after[number].initial_hash) == (before.state, before.initial_hash)
    losses = [[m.metrics["train/loss"] for m in record.measurements] for record in (after[number], before)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len([n for n in after if n < FIRST_REFERENCE_NUMBER]) == 5


def test_a_trial_with_a_truncated_checkpoint_is_restarted(sweep):
    record = sweep.complete()
    paused = dataclasses.replace(record, state=TrialState.RUNNING, measurements=record.measurements[:1], finished_at="")
    content = save({"parameters": np.zeros(9)})
    sweep.store.write_trial(with_checkpoint(paused, content), content)
    assert sweep.reconcile(), sweep.output
    truncate(sweep.folder(record.spec.number) / "checkpoint-1.safetensors")
    assert sweep.reconcile(), sweep.output
    assert "restarted" in sweep.output
    assert sweep.records()[record.spec.number].measurements == ()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink])
def test_damaged_row_outcomes_are_moved_aside_and_their_trial_stays_as_it_is(sweep, damage):
    before = sweep.complete()
    number, last = before.spec.number, before.last_rung.chunk
    path = sweep.store.paths.trial(STUDY, number).outcomes(last)
    damage(path)
    assert sweep.reconcile(), sweep.output
    assert "the trial keeps its scores" in sweep.output
    after = sweep.records()[number]
    assert dataclasses.replace(after, measurements=()) == dataclasses.replace(before, measurements=())
    *first, final = after.measurements
    assert (*first, dataclasses.replace(final, outcomes=before.last_rung.outcomes)) == before.measurements
    assert final.outcomes == ""
    assert sweep.store.read_outcomes(STUDY, number, last) is None
    kept = list(sweep.store.root.glob(f"damaged/*/studies/{STUDY}/trials/*/{path.name}"))
    assert len(kept) == (damage is flip_a_bit)
    assert sweep.reconcile(dry_run=True), sweep.output


def with_two_checkpoints(sweep):
    trial = dataclasses.replace(sweep.complete(), state=TrialState.RUNNING, finished_at="")
    content = save({"parameters": np.zeros(9)})
    measurements = trial.measurements
    for chunk in (1, 2):
        trial = with_checkpoint(dataclasses.replace(trial, measurements=measurements[:chunk]), content)
        sweep.store.write_trial(trial, content)
    assert sweep.reconcile(), sweep.output
    return trial.spec.number


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_trial_with_a_damaged_checkpoint_continues_from_the_one_before(sweep, damage):
    number = with_two_checkpoints(sweep)
    damage(sweep.folder(number) / "checkpoint-2.safetensors")
    assert sweep.reconcile(), sweep.output
    assert "continues after chunk 1" in sweep.output
    assert sweep.records()[number].chunks_done == 1


def test_a_damaged_checkpoint_that_is_not_the_latest_costs_nothing(sweep):
    number = with_two_checkpoints(sweep)
    flip_a_bit(sweep.folder(number) / "checkpoint-1.safetensors")
    assert sweep.reconcile(), sweep.output
    assert sweep.records()[number].chunks_done == 2
    assert sweep.reconcile(dry_run=True), sweep.output


def test_a_running_sweep_is_not_reconciled(sweep):
    with hold(sweep.store), pytest.raises(SweepLocked, match="is being run by process"):
        sweep.reconcile()


@pytest.mark.parametrize("names", ["name", "overrides"])
def test_the_command_line_takes_a_name_or_the_overrides(sweep, monkeypatch, capsys, names):
    outputs = ["--outputs", str(sweep.outputs)]
    words = ["tiny", *outputs] if names == "name" else sweep.overrides
    remove_optuna(sweep)
    for options, code in (["--dry-run"], 1), ([], 0):
        monkeypatch.setattr("sys.argv", ["sweeper", "reconcile", *words, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    assert "repaired" in capsys.readouterr().out


def test_a_repair_does_not_reset_the_budget(sweep):
    remove_optuna(sweep)
    remove_ledger(sweep)
    sweep.reconcile()
    (study,) = sweeper.run(sweep.overrides)["studies"]
    assert study["num_trials"] == 5
    assert json.loads((sweep.store.root / "ledger.json").read_text())["cost"]["rows"] > 0
