"""Complete sweeps of a tiny model: from overrides to files, repeated, extended, and with changed settings."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from rich.console import Console

import sweeper
from sweeper.cli import main
from sweeper.config.trial_length import trial_rungs
from sweeper.errors import ConfigError, SweepLocked, SweepMismatch
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import SessionLog
from sweeper.store.trials import TrialStore
from sweeper.sweep.final import FinalOptions, train_final
from sweeper.sweep.run import run_sweep
from sweeper.types import Phase, TrialState
from tests.doubles import write_rows
from tests.e2e.conftest import overrides_of

ROOT = Path(__file__).parents[2]
STUDY = "tiny-tinybert-lora"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "tiny"


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_bert, tiny_cache):
    """A sweep that is done: its overrides, its folder and its result. Tests change nothing in it."""
    place = tmp_path_factory.mktemp("done")
    overrides = overrides_of(place, write_rows(place / "rows.jsonl"), tiny_bert, tiny_cache)
    return overrides, place / "outputs" / "tiny", sweeper.run(overrides)


@pytest.fixture
def copied(done, folder):
    """The overrides of a copy of that sweep, in ``folder``."""
    overrides, original, _ = done
    shutil.copytree(original.parent, folder.parent)
    return [*overrides, f"outputs={folder.parent}"]


def trial_files(folder):
    return {path: path.read_bytes() for path in sorted(folder.glob("studies/*/trials/*/trial.json"))}


def test_the_result_is_the_content_of_best_json(done):
    _, folder, result = done
    assert result == sweeper.load(folder) == json.loads((folder / "best.json").read_text())
    (study,) = result["studies"]
    assert (study["dataset"], study["model"], study["method"]) == ("tiny", "tinybert", "lora")
    assert set(study["best"]["params"]) >= {"lora.r", "lora.alpha", "lora.dropout", "train.learning_rate"}
    assert study["num_trials"] == 5
    assert 0 <= study["best"]["value"] <= 1
    assert study["default"]["origin"] == "recipe:peft_default"
    probe = study["baselines"]["frozen_probe"]
    assert 0 <= probe["value"] <= 1
    assert probe["gain"]["gain"] == pytest.approx(study["best"]["value"] - probe["value"])
    assert study["beats_baselines"] is (study["baseline_warning"] is None)
    assert study["best"]["best_rung"]["epoch"] in (0.5, 1.0, 2.0)
    assert (study["num_rows"]["train"], study["num_available"]) == (64, 90)
    assert 0 < study["wall_s"] < 600


def test_a_sweep_leaves_report_table_adapters_and_log(done):
    _, folder, _ = done
    trials = TrialStore(folder).trials(STUDY)
    with (folder / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(trials) == len(sweeper.load(folder).trials) == 5
    assert "tinybert" in (folder / "report.md").read_text()
    for trial in trials:
        adapter = folder / "studies" / STUDY / "trials" / f"{trial.spec.number:04d}" / "adapter"
        assert (adapter / "adapter_model.safetensors").exists() is (trial.state is TrialState.COMPLETE)
    assert "worker 0 is ready: base weights: float32" in (folder / "sweep.log").read_text()


def test_the_status_is_read_from_disk(tiny, tmp_path, monkeypatch, capsys):
    sweeper.run([*tiny, "budget.trials=2"])
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["sweeper", "status", "tiny", "--outputs", str(tmp_path / "outputs")])
    with pytest.raises(SystemExit) as ended:
        main()
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"Sweep tiny, in {tmp_path / 'outputs' / 'tiny'}" in text.replace("\n", "")
    assert "2 of 2" in text


def test_a_reference_is_trained_once_after_the_search_and_a_sweep_without_it_is_not_done(tiny, folder):
    overrides = [*tiny, "search.references=[{name: plain, params: {train.head_lr_ratio: 1.0}}]", "budget.trials=2"]
    (study,) = sweeper.run(overrides)["studies"]
    assert (study["num_trials"], study["num_references"]) == (2, 1)
    reference = folder / "studies" / STUDY / "trials" / "1000001"
    record = json.loads((reference / "trial.json").read_text())
    shutil.rmtree(reference)
    sweeper.run(overrides)
    assert (
        json.loads((reference / "trial.json").read_text())["measurements"][-1]["metrics"]
        == (record["measurements"][-1]["metrics"])
    )
    before = trial_files(folder)
    assert len(before) == 3
    sweeper.run(overrides)
    assert trial_files(folder) == before


def test_a_sweep_on_the_loss_is_minimised(tiny):
    (study,) = sweeper.run([*tiny, "task.metric=loss"])["studies"]
    assert study["direction"] == "minimize"
    assert study["best"]["value"] <= study["default"]["value"]


def test_two_datasets_are_two_studies(tiny, tmp_path):
    more = tmp_path / "conf" / "dataset"
    more.mkdir(parents=True)
    rows = write_rows(tmp_path / "other.jsonl", seed=1)
    sizes = "train_rows: 64\nvalidation_rows: 30\ntest_rows: 30\n"
    (more / "other.yaml").write_text(f"# @package dataset.other\nsource: files\npath: {rows}\n{sizes}")
    overrides = [text.replace("dataset=files", "dataset=[files,other]") for text in tiny]
    outcome = run_sweep([*overrides, "budget.trials=2"], config_dir=more.parent)
    assert [study["name"] for study in outcome.best["studies"]] == [STUDY, "other-tinybert-lora"]
    assert [study["num_trials"] for study in outcome.best["studies"]] == [2, 2]


# The same command again.

AGAIN = """
import json, sys
import sweeper
sweeper.run(json.loads(sys.argv[1]))
heavy = [name for name in ("torch", "transformers", "peft", "mlflow", "datasets") if name in sys.modules]
print("heavy:", heavy)
"""


def test_running_a_finished_sweep_again_exits_at_once_and_changes_nothing(done):
    overrides, folder, _ = done  # not a copy, whose first report would have another path
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", AGAIN, json.dumps(overrides)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "Sweep tiny is done" in done.stdout
    assert "budget.trials=10" in done.stdout
    assert "heavy: []" in done.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_larger_budget_continues_with_the_same_trials(copied, folder):
    before = trial_files(folder)
    assert len(before) == 5
    (study,) = sweeper.run([*copied, "budget.trials=7"])["studies"]
    assert study["num_trials"] == 7
    assert {path: content for path, content in trial_files(folder).items() if path in before} == before


@pytest.mark.slow
def test_a_sweep_in_two_sessions_is_the_same_as_in_one(tiny, tmp_path):
    steady = [*tiny, "search=random", "search.pruner=none"]
    sweeper.run([*steady, "budget.trials=4"])
    sweeper.run([*steady, "budget.trials=6"])
    sweeper.run([*steady, "budget.trials=6", f"outputs={tmp_path / 'one'}"])
    two, one = (TrialStore(tmp_path / outputs / "tiny").trials(STUDY) for outputs in ("outputs", "one"))
    assert [(t.spec, t.state, t.initial_hash) for t in two] == [(t.spec, t.state, t.initial_hash) for t in one]
    losses = [[m.metrics["train/loss"] for t in trials for m in t.measurements] for trials in (two, one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("change", ["executor.lanes=2", "tracker=mlflow", "budget.device_hours=1"])
def test_settings_of_place_may_change(copied, folder, change):
    before = trial_files(folder)
    assert sweeper.run([*copied, change])["studies"][0]["num_trials"] == 5
    assert trial_files(folder) == before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("train.epochs=3", "train.epochs: 2 before, 3 now"),
        ("seed=1", "seed: 0 before, 1 now"),
        ("lora.r=choice(4,8)", "space.dimensions.lora.r"),
        ("dataset.files.train_rows=60", "dataset.files.train_rows: 64 before, 60 now"),
    ],
)
def test_a_sweep_is_not_resumed_with_changed_settings(tiny, folder, change, text):
    sweeper.run([*tiny, "budget.trials=1"])
    before = trial_files(folder)
    with pytest.raises(SweepMismatch) as caught:
        sweeper.run([*tiny, change])
    assert text in str(caught.value)
    assert "name=second" in str(caught.value)
    assert trial_files(folder) == before


def test_a_sweep_is_not_resumed_with_changed_data(tiny, tmp_path):
    sweeper.run([*tiny, "budget.trials=1"])
    write_rows(tmp_path / "rows.jsonl", seed=5)
    with pytest.raises(SweepMismatch, match="rows of tiny have changed"):
        sweeper.run([*tiny, "budget.trials=2"])


def test_without_a_name_changed_settings_start_another_sweep(tiny, tmp_path):
    unnamed = [text for text in tiny if not text.startswith("name=")]
    sweeper.run([*unnamed, "budget.trials=1"])
    sweeper.run([*unnamed, "budget.trials=1", "seed=1"])
    names = [path.name for path in (tmp_path / "outputs").iterdir()]
    assert len(names) == 2
    assert all(name.startswith("tiny-tinybert-default-") for name in names)


HOLDER = """
import sys
from pathlib import Path
from sweeper.store.lock import hold
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import SessionLog
from sweeper.store.trials import TrialStore

with hold(TrialStore(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_controller_is_rejected_while_the_first_is_running(tiny, folder):
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(SweepLocked, match=f"is being run by process {first.pid} of "):
            sweeper.run(tiny)
        first.stdin.close()
    assert sweeper.run([*tiny, "budget.trials=1"])["studies"][0]["num_trials"] == 1


# Errors that only data, model or sampler reveal: nothing is stored, so the corrected command may use the same name.


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ("task.metric=acuracy", "Did you mean 'accuracy'?"),
        ("search.storage=postgres://x", "database"),
    ],
)
def test_a_late_error_leaves_no_sweep_on_disk(tiny, folder, mistake, text):
    with pytest.raises(ConfigError) as caught:
        sweeper.run([*tiny, mistake])
    assert text in str(caught.value)
    assert not (folder / "sweep.json").exists()
    assert sweeper.run([*tiny, "budget.trials=1"])["studies"][0]["num_trials"] == 1


# Where it is called from.

SCRIPT = """
import json, sys
import sweeper
print("trials:", sweeper.run(json.loads(sys.argv[1]))["studies"][0]["num_trials"])
"""


@pytest.mark.slow
def test_a_plain_script_needs_no_main_guard_to_use_processes(tiny, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    overrides = [*tiny, "executor=process", "executor.workers=2", "budget.trials=3"]
    command = [sys.executable, str(script), json.dumps(overrides)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.count("trials: 3") == 1


def _stored_states(folder):
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    try:
        return [trial.state.is_finished() for trial in optuna.load_study(study_name=None, storage=storage).trials]
    finally:
        storage.engine.dispose()


@pytest.mark.parametrize("end", ["killed", "failed", "tracker behind"])
def test_a_sweep_whose_last_session_ended_badly_is_finished_by_the_same_command(copied, folder, end):
    """All trials may have finished, but Optuna and MLflow may lack the last ones."""
    for path in folder.glob("optuna.db*"):
        path.unlink()
    sweeper.run(copied)
    assert not (folder / "optuna.db").exists()  # it was done, so that nothing was opened
    if end == "killed":
        (folder / "holder.json").write_text("{}")
    elif end == "failed":
        log = SessionLog(folder)
        last = dataclasses.replace(log.read()[-1], has_failed=True)
        log.path(last.number).write_bytes(to_bytes(last))
    else:
        (folder / "health.json").write_text(json.dumps({"tracker": "not up to date"}))
    before = trial_files(folder)
    sweeper.run(copied)
    assert _stored_states(folder) == [True] * 5
    assert trial_files(folder) == before
    sessions = len(SessionLog(folder).read())
    sweeper.run(copied)
    assert len(SessionLog(folder).read()) == sessions


def test_a_second_sweep_starts_with_what_the_first_found_and_keeps_to_it_when_the_first_is_gone(
    tiny, folder, monkeypatch
):
    monkeypatch.setattr("sweeper.sweep.warm_start._MIN_TRIALS", 3)
    sweeper.run([*tiny, "budget.trials=3"])
    second = [*tiny, "name=second", "search.recipes=[]"]
    sweeper.run([*second, "budget.trials=1"])
    store = TrialStore(folder.with_name("second"))
    portfolio = store.read_study(STUDY).portfolio
    assert [point.source for point in portfolio] == ["tiny/tiny"] * 2
    shutil.rmtree(folder)
    sweeper.run([*second, "budget.trials=2"])
    assert store.read_study(STUDY).portfolio == portfolio
    specs = [trial.spec for trial in store.trials(STUDY)]
    assert [spec.params for spec in specs] == [point.params for point in portfolio]
    assert [spec.origin for spec in specs] == ["portfolio:tiny/tiny"] * 2


@pytest.mark.slow
def test_a_sweep_searches_epochs_and_a_trial_of_it_is_trained_on_all_rows(tiny, folder):
    reference = "{name: longer, params: {lora.r: 8, train.epochs: 5}}"
    kept = [each for each in tiny if not each.startswith(("train.epochs", "search.references", "confirm", "budget"))]
    searched = ["train.epochs=choice(1,2,4)", f"search.references=[{reference}]", "budget.trials=12"]
    confirming = ["confirm=default", "confirm.max_share=2", "confirm.seeds=2", "confirm.max_seeds=2"]
    run_sweep([*kept, *searched, *confirming])
    store = TrialStore(folder)
    study = store.read_study(STUDY)
    assert (study.epochs, study.num_chunks, study.rungs) == (4, 8, (1, 2, 4, 8))
    trials = store.trials(STUDY)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert {trial.spec.phase for trial in complete} == set(Phase) - {Phase.FINAL}
    for trial in complete:
        assert trial.chunks_done == 2 * trial.spec.train.epochs
        if trial.spec.phase is not Phase.CONFIRMATION:
            scored = [each.chunk for each in trial.measurements if each.is_rung]
            assert scored == list(trial_rungs(study.rungs, trial.chunks_done))
    assert {trial.spec.train.epochs for trial in trials if trial.spec.phase is Phase.SEARCH} == {1, 2, 4}
    assert [trial.chunks_done for trial in trials if trial.spec.phase is Phase.REFERENCE] == [10]
    before = trial_files(folder)
    run_sweep([*kept, *searched, *confirming])
    assert trial_files(folder) == before
    assert "up to 4 epochs a trial" in store.paths.report.read_text()
    short = next(t for t in complete if t.spec.train.epochs == 1 and t.spec.phase is Phase.SEARCH)
    options = FinalOptions(trial=short.spec.number)
    assert train_final("tiny", options, outputs=folder.parent, console=Console(file=io.StringIO())) == 0
    finals = TrialStore(store.paths.final)
    (record,) = finals.studies()
    (final,) = finals.trials(record.name)
    assert (final.spec.train.epochs, final.chunks_done) == (1, record.chunks_per_epoch)
