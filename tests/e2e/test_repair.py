"""`sweeper reconcile` never changes a finished trial back: what is lost is restored, reported, or trained again."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import sweeper
from sweeper.cli import app
from sweeper.errors import TrackerError
from sweeper.figures.ranking import best_trial
from sweeper.recovery.reconcile import reconcile_sweep
from sweeper.store.damage import is_adapter_intact
from sweeper.store.ledger import Ledger
from sweeper.store.trials import TrialStore
from sweeper.types import Phase, TrialState
from tests.doubles import write_rows
from tests.e2e.conftest import overrides_of

pytestmark = pytest.mark.slow
STUDY = "tiny-tinybert-lora"
CONFIRMED = ["confirm=default", "confirm.max_share=9", "confirm.seeds=2", "confirm.max_seeds=2", "budget.trials=4"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_bert, tiny_cache):
    """A sweep without a tracker that is confirmed; each test takes a copy."""
    folder = tmp_path_factory.mktemp("swept")
    rows = write_rows(folder / "rows.jsonl")
    overrides = [*overrides_of(folder, rows, tiny_bert, tiny_cache), *CONFIRMED]
    sweeper.run(overrides)
    return folder, overrides


@dataclasses.dataclass
class Sweep:
    outputs: Path
    overrides: list[str]
    output: str = ""

    @property
    def store(self):
        return TrialStore(self.outputs / "tiny")

    @property
    def study(self):
        return self.store.read_study(STUDY)

    def reconcile(self, **options):
        page = io.StringIO()
        result = reconcile_sweep(self.store, console=Console(file=page, width=250), **options)
        self.output = page.getvalue()
        return result

    def records(self):
        return {record.spec.number: record for record in self.store.trials(STUDY)}

    def best(self):
        searched = [each for each in self.records().values() if each.spec.phase is Phase.SEARCH]
        return best_trial(self.study, searched)

    def adapter(self, number):
        return self.store.adapter_dir(STUDY, number)

    def files(self):
        names = (".lock", "holder.json")
        kept = [path for path in self.store.root.rglob("*") if path.is_file() and not path.name.endswith(names)]
        return {path: path.read_bytes() for path in kept}

    def damaged(self, name):
        return sorted(self.store.root.glob(f"damaged/*/**/{name}"))


@pytest.fixture
def sweep(swept, tmp_path):
    folder, overrides = swept
    shutil.copytree(folder / "outputs", tmp_path / "outputs")
    return Sweep(tmp_path / "outputs", [*overrides, f"outputs={tmp_path / 'outputs'}"])


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


# Adapters.


@pytest.mark.parametrize("damage", [truncate, zero, Path.unlink])
def test_without_a_copy_of_its_adapter_a_complete_trial_stays_complete(sweep, damage, capsys):
    before, number = sweep.records(), sweep.best().spec.number
    damage(sweep.adapter(number) / "adapter_model.safetensors")
    assert not sweep.reconcile()
    assert "The trial keeps its scores" in sweep.output
    assert "sweeper reconcile tiny --retrain" in sweep.output
    assert sweep.records() == before
    assert not sweep.adapter(number).exists()
    assert sweep.damaged("adapter_config.json")
    # Everything that shows the trial says that its adapter is missing.
    best = json.loads(sweep.store.paths.best.read_text())["studies"][0]["best"]
    assert (best["trial"], best["adapter"]) == (number, None)
    expected = f"the adapter of trial {number} is missing or damaged"
    assert expected in sweep.store.paths.report.read_text()
    app(["status", "tiny", "--outputs", str(sweep.outputs)], standalone_mode=False)
    assert f"adapter of trial {number}" in " ".join(capsys.readouterr().out.split())
    # It is reported until it is there again.
    assert not sweep.reconcile(dry_run=True)
    # The search goes on with it as before.
    sweeper.run(sweep.overrides)
    assert sweep.records() == before


def test_a_lost_adapter_is_trained_again_only_if_asked_and_gives_the_same_scores(sweep):
    before, number = sweep.records(), sweep.best().spec.number
    weights = sweep.adapter(number) / "adapter_model.safetensors"
    content, spent = weights.read_bytes(), Ledger(sweep.store.paths.ledger).cost
    truncate(weights)
    assert not sweep.reconcile(dry_run=True, retrain=True)
    assert "trained again" in sweep.output
    assert not sweep.damaged("*")
    assert sweep.reconcile(retrain=True), sweep.output
    assert "trained again" in sweep.output
    assert sweep.records() == before
    assert len(weights.read_bytes()) == len(content)
    assert is_adapter_intact(sweep.adapter(number))
    assert Ledger(sweep.store.paths.ledger).cost.rows == spent.rows + before[number].cost.rows
    assert sweep.reconcile(dry_run=True)


def test_a_new_training_that_differs_is_reported_and_not_used(sweep):
    record = sweep.best()
    number = record.spec.number
    last = dataclasses.replace(record.measurements[-1], metrics={**record.last_rung.metrics, "train/loss": 9.0})
    sweep.store.write_trial(dataclasses.replace(record, measurements=(*record.measurements[:-1], last)))
    before = sweep.records()
    truncate(sweep.adapter(number) / "adapter_model.safetensors")
    assert not sweep.reconcile(retrain=True)
    assert "not reproduced, so it was not used" in sweep.output
    assert sweep.records() == before
    assert len(sweep.damaged("adapter_model.safetensors")) == 0


def test_an_adapter_that_a_session_was_told_to_delete_is_not_missing(sweep):
    sweeper.run([*sweep.overrides, "store.keep_adapters=1", "budget.trials=5"])
    assert sweep.reconcile(), sweep.output


# The confirmation's row outcomes.


def test_a_confirmation_trial_with_lost_outcomes_stays_complete_until_it_is_trained_again(sweep):
    before, confirmation = sweep.records(), sweep.store.read_confirmation(STUDY)
    trial = next(each for each in before.values() if each.spec.phase is Phase.CONFIRMATION)
    number, chunk = trial.spec.number, trial.chunks_done
    path = sweep.store.paths.trial(STUDY, number).outcomes(chunk)
    truncate(path)
    assert not sweep.reconcile()
    assert "candidates are compared without its seed" in sweep.output
    after = sweep.records()[number]
    assert after.state is TrialState.COMPLETE
    assert [m.metrics for m in after.measurements] == [m.metrics for m in trial.measurements]
    assert json.loads(sweep.damaged("trial.json")[0].read_text())["measurements"][-1]["outcomes"]
    assert not sweep.reconcile(dry_run=True)
    assert sweep.reconcile(retrain=True), sweep.output
    assert sweep.store.read_outcomes(STUDY, number, chunk) is not None
    sweeper.run(sweep.overrides)
    assert sweep.records().keys() == before.keys()
    assert sweep.store.read_confirmation(STUDY) == confirmation


# MLflow's copies.


def _close_mlflow():
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    while SqlAlchemyStore._engine_map:
        SqlAlchemyStore._engine_map.popitem()[1].dispose()


@pytest.fixture
def in_my_data(tmp_path, tiny_bert, tiny_cache):
    """A sweep with MLflow in a folder whose name has a space, which is quoted in URIs."""
    folder = tmp_path / "My Data"
    folder.mkdir()
    rows = write_rows(folder / "rows.jsonl")
    overrides = overrides_of(folder, rows, tiny_bert, tiny_cache)
    overrides = [*overrides, f"outputs='{folder / 'outputs'}'", f"dataset.files.path='{rows}'", "tracker=mlflow"]
    overrides += ["budget.trials=3"]
    sweeper.run(overrides)
    yield Sweep(folder / "outputs", overrides)
    _close_mlflow()


def test_an_adapter_is_restored_from_a_path_with_a_space(in_my_data):
    sweep = in_my_data
    before, number = sweep.records(), sweep.best().spec.number
    weights = sweep.adapter(number) / "adapter_model.safetensors"
    content = weights.read_bytes()
    truncate(weights)
    assert sweep.reconcile(), sweep.output
    assert "restored from MLflow's copy" in sweep.output
    assert sweep.records() == before
    assert weights.read_bytes() == content
    # The record and its adapter at once; and a copy of the record without one of its adapter.
    truncate(sweep.store.paths.trial(STUDY, number).record)
    shutil.rmtree(sweep.adapter(number))
    assert sweep.reconcile(), sweep.output
    assert (sweep.records(), weights.read_bytes()) == (before, content)
    for copy in (sweep.outputs / "mlartifacts").rglob("adapter_model.safetensors"):
        copy.unlink()
    truncate(sweep.store.paths.trial(STUDY, number).record)
    shutil.rmtree(sweep.adapter(number))
    assert not sweep.reconcile()
    assert sweep.records() == before


class RemoteArtifacts:
    """Artifacts in a bucket: MLflow chooses the class by the URI's scheme, here one that keeps them in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.is_reachable = True

    def repository(self, uri, **_options):
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        if not self.is_reachable:
            raise OSError("the bucket does not answer")
        return LocalArtifactRepository(uri.replace("bucket://", f"file://{self.folder}/"))


@pytest.fixture
def remote(tmp_path, tiny, monkeypatch):
    """A sweep whose artifacts are in a bucket."""
    from mlflow.store.artifact import artifact_repository_registry as registry

    artifacts = RemoteArtifacts(tmp_path / "bucket")
    monkeypatch.setitem(registry._artifact_repository_registry._registry, "bucket", artifacts.repository)
    monkeypatch.setattr("sweeper.track.artifact_folder", lambda *_arguments: "bucket://mine")
    overrides = [*tiny, "tracker=mlflow", "budget.trials=2"]
    sweeper.run(overrides)
    yield Sweep(tmp_path / "outputs", overrides), artifacts
    _close_mlflow()


def test_an_adapter_is_restored_from_remote_artifacts(remote):
    sweep, artifacts = remote
    assert list(artifacts.folder.rglob("adapter_model.safetensors"))
    before, number = sweep.records(), sweep.best().spec.number
    weights = sweep.adapter(number) / "adapter_model.safetensors"
    content = weights.read_bytes()
    truncate(weights)
    truncate(sweep.store.paths.trial(STUDY, number).record)
    assert sweep.reconcile(), sweep.output
    assert (sweep.records(), weights.read_bytes()) == (before, content)


def test_while_remote_artifacts_cannot_be_reached_nothing_is_changed(remote):
    from mlflow.tracking._tracking_service import utils

    sweep, artifacts = remote
    record = sweep.store.paths.trial(STUDY, sweep.best().spec.number).record
    truncate(record)
    content = record.read_bytes()
    artifacts.is_reachable = False
    utils._artifact_repos_cache.clear()
    with pytest.raises(TrackerError, match=r"the bucket does not answer.*tracker=none"):
        sweep.reconcile()
    assert record.read_bytes() == content
    assert not sweep.damaged("*")


# What is replaced is kept.


def test_what_is_deleted_from_optuna_is_kept(sweep):
    import sqlite3

    with sqlite3.connect(sweep.store.paths.optuna_db) as connection:
        connection.execute("UPDATE trial_values SET value = 0.125 WHERE trial_id = 1")
    connection.close()
    assert sweep.reconcile(), sweep.output
    (kept,) = sweep.damaged(f"optuna-{STUDY}.json")
    assert 0.125 in [(row["values"] or [None])[0] for row in json.loads(kept.read_text())]
