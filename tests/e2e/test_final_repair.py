"""Final trainings survive kills at every write; `sweeper reconcile` repairs them as it does the trials of a search."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from sweeper.errors import StoreError
from sweeper.recovery.reconcile import reconcile_sweep
from sweeper.store.ledger import Ledger
from sweeper.store.trials import TrialStore
from sweeper.sweep.final import FinalOptions, train_final
from sweeper.sweep.run import run_sweep
from sweeper.types import TrialState
from tests.doubles import write_rows
from tests.e2e.conftest import overrides_of

STUDY = "tiny-tinybert-lora"
ALL = f"{STUDY}-all-rows"
WEIGHTS = "adapter_model.safetensors"


class Killed(BaseException):
    """Stands for a SIGKILL."""


@pytest.fixture(scope="module")
def trained(searched, tmp_path_factory):
    """A sweep with a final training, with and without the validation rows; tests copy it."""
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    shutil.copytree(searched[0], folder)
    train(TrialStore(folder))
    train(TrialStore(folder), with_validation=True)
    return folder


@pytest.fixture
def store(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "outputs" / "tiny")
    return TrialStore(tmp_path / "outputs" / "tiny")


@pytest.fixture
def fresh(searched, tmp_path):
    """A sweep whose search is over, without a final training."""
    shutil.copytree(searched[0], tmp_path / "outputs" / "tiny")
    return TrialStore(tmp_path / "outputs" / "tiny")


def train(store, **options):
    return train_final("tiny", FinalOptions(**options), outputs=store.root.parent, console=Console(width=200))


def reconcile(store, *, dry_run=False, retrain=False):
    page = io.StringIO()
    is_clean = reconcile_sweep(store, console=Console(file=page, width=400), dry_run=dry_run, retrain=retrain)
    return is_clean, page.getvalue()


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def contents(found):
    """Return what files contain; scores of baselines are not planned again, and no trial needs them."""

    def content(path, text):
        parsed = json.loads(text) if path.suffix == ".json" else text
        return {**parsed, "references": {}} if path.name.startswith("study.") else parsed

    return {path: content(path, text) for path, text in found.items()}


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def weights(store, study=ALL):
    return (store.finals.adapter_dir(study, 0) / WEIGHTS).read_bytes()


def test_what_is_whole_is_not_changed(store):
    before = files(store.root)
    assert reconcile(store) == (True, "Sweep tiny: store, Optuna and MLflow agree on every trial.\n")
    assert files(store.root) == before


def damage_study(store):
    truncate(store.finals.paths.study_record(ALL))


def lose_study(store):
    truncate(store.finals.paths.study_record(ALL))
    store.finals.paths.study_backup(ALL).unlink()


def lose_study_with_validation(store):
    name = f"{ALL}-with-validation"
    truncate(store.finals.paths.study_record(name))
    truncate(store.finals.paths.study_backup(name))


def lose_ledger(store):
    store.paths.ledger.unlink()


def leave_files(store):
    folder = store.finals.paths.incoming(ALL) / "0"
    folder.mkdir(parents=True)
    (folder / "0-unsent").write_bytes(b"whole")
    (store.finals.paths.trial(ALL, 0).folder / ".trial.json.1-2.tmp").write_bytes(b"torn")


def lose_both_studies(store):
    lose_study(store)
    truncate(store.paths.study_record(STUDY))
    truncate(store.paths.study_backup(STUDY))


@pytest.mark.parametrize(
    ("damage", "shown"),
    [
        (damage_study, "restored from its copy"),
        (lose_study, "rebuilt from the settings"),
        (lose_study_with_validation, "rebuilt from the settings"),
        (lose_both_studies, "rebuilt from the settings"),
        (lose_ledger, "ledger.json has 0.0 device seconds"),
        (leave_files, "a worker wrote it, but no trial refers to it"),
    ],
)
def test_what_can_be_repaired_is_as_before(store, damage, shown):
    before, spent = files(store.paths.final), Ledger(store.paths.ledger).cost
    damage(store)
    is_clean, page = reconcile(store, dry_run=True)
    assert not is_clean
    assert shown in page
    is_clean, page = reconcile(store)
    assert is_clean, page
    assert shown in page
    assert contents(files(store.paths.final)) == contents(before)
    assert Ledger(store.paths.ledger).cost.rows == spent.rows
    for each in (store.finals.read_trial(ALL, 0), store.finals.read_trial(f"{ALL}-with-validation", 0)):
        assert each.state is TrialState.COMPLETE


def test_what_is_moved_keeps_its_path_below_damaged(store):
    path = store.finals.paths.study_record(ALL)
    truncate(path)
    reconcile(store)
    (folder,) = (store.root / "damaged").iterdir()
    assert (folder / path.relative_to(store.root)).exists()
    assert not (store.paths.final / "damaged").exists()


def test_a_message_about_a_damaged_record_names_the_sweep(store):
    lose_study(store)
    with pytest.raises(StoreError, match="sweeper reconcile tiny"):
        train(store)


@pytest.mark.parametrize("study", [ALL, f"{ALL}-with-validation"])
def test_a_damaged_adapter_is_moved_aside_or_trained_again(store, study):
    whole, spent = weights(store, study), Ledger(store.paths.ledger).cost
    truncate(store.finals.adapter_dir(study, 0) / WEIGHTS)
    is_clean, page = reconcile(store)
    assert not is_clean
    assert "not restored: there is no copy. The trial keeps its scores" in page
    assert "sweeper reconcile tiny --retrain" in page
    is_clean, page = reconcile(store, retrain=True)
    assert is_clean, page
    assert "trained again (" in page
    assert weights(store, study) == whole
    assert (store.finals.adapter_dir(study, 0) / "README.md").exists()
    again = store.finals.read_trial(study, 0).cost
    assert Ledger(store.paths.ledger).cost.rows == spent.rows + again.rows
    assert not (store.paths.final / "ledger.json").exists()


def test_a_damaged_record_without_a_copy_is_trained_again_by_the_same_command(store):
    whole, scores = weights(store), store.finals.read_trial(ALL, 0).measurements[-1].metrics
    truncate(store.finals.paths.trial(ALL, 0).record)
    is_clean, page = reconcile(store)
    assert is_clean, page
    assert "its configuration is lost, so `sweeper train` trains it again" in page
    assert train(store) == 0
    assert weights(store) == whole
    assert store.finals.read_trial(ALL, 0).measurements[-1].metrics == scores


def test_damaged_outcomes_of_test_rows_are_scored_again_by_the_same_command(store):
    path = store.finals.paths.trial(ALL, 0).test_outcomes
    whole = path.read_bytes()
    truncate(path)
    is_clean, page = reconcile(store)
    assert is_clean, page
    assert "the next `sweeper train` of it scores the adapter on the test rows again" in page
    assert train(store) == 0
    assert path.read_bytes() == whole


def test_a_damaged_checkpoint_of_an_interrupted_training_costs_a_chunk(fresh, trained, monkeypatch):
    store = fresh
    with monkeypatch.context() as patch:
        kill_after(patch, "write_trial", 4)  # the start and three chunks
        with pytest.raises(Killed):
            train(store)
    (store.finals.paths.trial(ALL, 0).checkpoint(3)).write_bytes(b"torn")
    is_clean, page = reconcile(store)
    assert is_clean, page
    assert "continues after chunk 2" in page
    assert store.finals.read_trial(ALL, 0).chunks_done == 2
    assert train(store) == 0
    assert weights(store) == weights(TrialStore(trained))


def test_a_session_of_the_sweep_restores_records_of_final_trainings_too(store, searched, tiny_bert, tiny_cache):
    whole = store.finals.paths.study_record(ALL).read_bytes()
    truncate(store.finals.paths.study_record(ALL))
    overrides = overrides_of(store.root.parents[1], searched[1], tiny_bert, tiny_cache)
    run_sweep([*overrides, "budget.trials=3"])
    assert store.finals.paths.study_record(ALL).read_bytes() == whole


def kill_after(patch, method, number, *, kill=lambda: None):
    """Kill the process after its n-th call of a method of the store of the final trainings."""
    calls, original = [], getattr(TrialStore, method)

    def write(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        if self.is_final:
            calls.append(args)
            if len(calls) == number:
                kill()
                raise Killed
        return result

    patch.setattr(TrialStore, method, write)


MOMENTS = [
    *(("write_trial", number) for number in (1, 2, 4, 5)),
    ("write_study", 1),
    ("write_outcomes", 1),
    ("write_rung_adapter", 1),
    ("write_adapter", 1),
    ("write_test_outcomes", 1),
]


def check_whole(store, trained):
    """Check that a training that was killed has ended as one that was not, and that nothing is counted twice."""
    expected = TrialStore(trained)
    (trial,), (same,) = store.finals.trials(ALL), expected.finals.trials(ALL)
    assert trial.state is TrialState.COMPLETE
    assert weights(store) == weights(expected)
    assert [each.metrics for each in trial.measurements] == [each.metrics for each in same.measurements]
    assert trial.cost.rows == same.cost.rows
    whole = expected.finals.paths.trial(ALL, 0).test_outcomes.read_bytes()
    assert store.finals.paths.trial(ALL, 0).test_outcomes.read_bytes() == whole
    (found,) = json.loads(store.paths.best.read_text())["studies"][0]["final"]
    assert (found["state"], found["test"]["num_rows"]) == ("complete", 30)
    assert reconcile(store, dry_run=True)[0]


@pytest.mark.parametrize(("method", "number"), MOMENTS)
def test_a_kill_at_any_write_loses_and_repeats_nothing(fresh, trained, monkeypatch, method, number):
    store, spent = fresh, Ledger(fresh.paths.ledger).cost.rows
    with monkeypatch.context() as patch:
        kill_after(patch, method, number)
        with pytest.raises(Killed):
            train(store)
    assert train(store) == 0
    check_whole(store, trained)
    # A chunk that was paid and not recorded is in the account twice, and in the trial's cost once.
    cost = store.finals.read_trial(ALL, 0).cost.rows
    assert spent + cost <= Ledger(store.paths.ledger).cost.rows <= spent + cost + 40


_SESSION = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from pytest import MonkeyPatch
from sweeper.sweep.final import FinalOptions, train_final
from tests.e2e.test_final_repair import kill_after

outputs, method, number = sys.argv[1:]
kill_after(MonkeyPatch(), method, int(number), kill=lambda: os.kill(os.getpid(), signal.SIGKILL))
train_final("tiny", FinalOptions(), outputs=Path(outputs), console=Console(), overrides=["executor=process"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "number"), [("write_trial", 3), ("write_adapter", 1), ("write_test_outcomes", 1)])
def test_sigkill_with_a_worker_process(fresh, trained, method, number):
    store = fresh
    command = [sys.executable, "-c", _SESSION, str(store.root.parent), method, str(number)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert store.paths.holder.exists()  # it had no time to tidy up
    assert train(store) == 0
    check_whole(store, trained)


@pytest.mark.slow
def test_record_adapter_and_runs_are_restored_from_and_in_mlflow(tmp_path, tiny_bert, tiny_cache):
    from tests.e2e.test_reconcile import _close_mlflow

    rows = write_rows(tmp_path / "rows.jsonl")
    run_sweep([*overrides_of(tmp_path, rows, tiny_bert, tiny_cache), "tracker=mlflow", "budget.trials=2"])
    store = TrialStore(tmp_path / "outputs" / "tiny")
    train(store)
    paths = store.finals.paths.trial(ALL, 0)
    before = files(paths.folder)
    truncate(paths.record)
    shutil.rmtree(paths.adapter)
    is_clean, page = reconcile(store)
    assert is_clean, page
    assert "restored from MLflow's copy" in page
    assert files(paths.folder) == before  # the model card, too
    _close_mlflow()
    moved = tmp_path / "moved"  # MLflow remembers the state of a database by its path
    shutil.copytree(store.root.parent, moved)
    (moved / "mlflow.db").unlink()
    store = TrialStore(moved / "tiny")
    is_clean, page = reconcile(store)
    assert is_clean, page
    assert "the study is missing (1 trials)" in page
    assert ALL in page
    _close_mlflow()
