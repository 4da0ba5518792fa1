"""What is written to a real MLflow database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.keys import searchable_keys
from sweeper.config.settings import LoraSettings, TrainSettings
from sweeper.figures.hyperparameters import params_text
from sweeper.track import mlflow_runs, open_audit
from sweeper.track.mlflow_view import CHUNKS
from sweeper.types import Failure, FailureKind, TrialState
from tests.builders import make_history
from tests.track.builders import adapter_folder, complete, study, trial


def test_a_trial_is_one_flat_run_in_the_experiment_of_its_study(place):
    writer = place.connect(git_commit="abc")
    writer.show(study(), complete(), ())
    (run,) = place.runs()
    assert run.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["git_commit"] == "abc"
    assert run.data.params["lora.alpha"] == "16"
    assert run.data.metrics["best/accuracy"] == 0.8
    assert run.info.end_time - run.info.start_time == 60_000


def test_models_may_be_named_after_any_searched_hyperparameter():
    """MLflow raises for a slash, as in head/lr, so that no adapter would be shown."""
    from mlflow.utils.validation import _validate_logged_model_name

    values = Hyperparameters(LoraSettings(), TrainSettings()).by_key()
    name = mlflow_runs._safe(f"0007 peft_default {params_text({key: values[key] for key in searchable_keys()})}")
    assert "head-lr=30" in name
    _validate_logged_model_name(name)


def test_curves_have_one_point_per_chunk_and_one_score_per_rung(place):
    writer = place.connect()
    writer.show(study(), complete(), ())
    run_id = place.runs()[0].info.run_id
    assert [step for step, _ in place.history(run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert place.history(run_id, "validation/accuracy") == [(2, 0.6), (4, 0.8), (6, 0.7)]


def test_showing_the_same_record_again_sends_nothing(place, monkeypatch):
    writer = place.connect()
    writer.show(study(), complete(), ())
    monkeypatch.setattr(writer, "_client", None)  # any request would raise
    writer.show(study(), complete(), ())


def test_a_trial_that_grows_gets_only_its_new_points(place):
    writer = place.connect()
    for chunks in (1, 3, 6):
        writer.show(study(), trial(chunks=chunks), ())
    run_id = place.runs()[0].info.run_id
    assert [step for step, _ in place.history(run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_later_process_continues_the_run_of_an_earlier_one(place):
    place.connect().show(study(), trial(chunks=3), ())
    place.connect().show(study(), complete(), ())
    (run,) = place.runs()
    assert [step for step, _ in place.history(run.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in place.history(run.info.run_id, "best/accuracy")] == [0]


def test_a_later_process_has_nothing_to_add_to_a_finished_trial(place, tmp_path, monkeypatch):
    files = [adapter_folder(tmp_path)]
    place.connect().show(study(), complete(), files)
    for call in ("log_batch", "create_run", "create_logged_model", "set_tag", "set_terminated", "set_experiment_tag"):
        monkeypatch.setattr(MlflowClient, call, lambda *_, **__: pytest.fail("sent again"))
    place.connect().show(study(), complete(), files)


def test_points_that_arrived_although_the_call_failed_are_not_doubled(place, monkeypatch):
    writer = place.connect()
    writer.show(study(), trial(), ())
    send = MlflowClient.log_batch

    def arrives_but_fails(self, *args, **kwargs):
        send(self, *args, **kwargs)
        raise TimeoutError

    monkeypatch.setattr(MlflowClient, "log_batch", arrives_but_fails)
    with pytest.raises(TimeoutError):
        writer.show(study(), trial(chunks=3), ())
    monkeypatch.undo()
    writer.show(study(), trial(chunks=4), ())  # even if it were not told to read the study again
    run_id = place.runs()[0].info.run_id
    assert [step for step, _ in place.history(run_id, "train/loss")] == [1, 2, 3, 4]


def test_a_record_is_one_call_and_a_long_one_is_few(place, monkeypatch):
    sizes = []
    send = MlflowClient.log_batch

    def counted(self, run_id, metrics=(), params=(), tags=(), **kwargs):
        sizes.append(len(metrics))
        return send(self, run_id, metrics, params, tags, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    writer = place.connect()
    writer.show(study(), complete(1), ())
    assert len(sizes) == 1
    long = complete(2, measurements=make_history(1000, (0.5,)))
    writer.show(study(), long, ())
    assert len(sizes) == 4  # 2,505 points, at most 900 a call
    assert place.runs()[1].data.metrics[CHUNKS] == 1000


def test_an_adapter_becomes_a_model_that_can_be_registered_and_loaded_back(place, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)  # mlflow 3.17 registers through the global URI
    record = tmp_path / "trial.json"
    record.write_text("{}")
    place.connect().show(study(), complete(), [adapter_folder(tmp_path), record])
    client, (run,) = place.client, place.runs()
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert run.data.tags["adapter"] == f"models:/{model.model_id}"
    assert model.status == "READY"
    names = sorted(file.path for file in client.list_logged_model_artifacts(model.model_id))
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["trial.json"]
    assert {metric.key: metric.value for metric in model.metrics}["final/accuracy"] == 0.7
    client.create_registered_model("best")
    version = client.create_model_version("best", source=f"models:/{model.model_id}", model_id=model.model_id)
    assert version.status == "READY"


@pytest.mark.parametrize(
    "call", ["log_model_artifacts", "finalize_logged_model", "log_outputs", "files_kept", "log_batch"]
)
def test_an_interrupted_upload_is_finished_under_the_same_model(place, tmp_path, monkeypatch, call):
    folder, set_tag = adapter_folder(tmp_path), MlflowClient.set_tag

    def cut(*_arguments, **_more):
        raise TimeoutError

    def cut_tag(client, run_id, key, value):
        if key == "files_kept":
            raise TimeoutError
        set_tag(client, run_id, key, value)

    name, fault = ("set_tag", cut_tag) if call == "files_kept" else (call, cut)
    monkeypatch.setattr(MlflowClient, name, fault)
    with pytest.raises(TimeoutError):
        place.connect().show(study(), complete(), [folder])
    monkeypatch.undo()
    place.connect().show(study(), complete(), [folder])
    experiment = place.client.get_experiment_by_name("s1/trec-minilm-lora")
    (model,) = place.client.search_logged_models([experiment.experiment_id])
    assert model.status == "READY"
    (run,) = place.runs()
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert run.info.status == "FINISHED"


def test_files_of_a_running_trial_are_not_uploaded(place, tmp_path):
    place.connect().show(study(), trial(chunks=1), [adapter_folder(tmp_path)])
    assert "adapter" not in place.runs()[0].data.tags


def test_a_running_trial_waits_as_scheduled_between_processes(place):
    writer = place.connect()
    writer.show(study(), trial(chunks=1), ())
    assert place.runs()[0].info.status == "RUNNING"
    writer.pause()
    assert place.runs()[0].info.status == "SCHEDULED"
    place.connect().show(study(), trial(chunks=2), ())
    assert place.runs()[0].info.status == "RUNNING"


def test_an_infeasible_trial_is_shown_as_failed_with_its_cause(place):
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, message="out of memory")
    place.connect().show(study(), trial(chunks=1, state=TrialState.INFEASIBLE, failure=failure), ())
    run = place.runs()[0]
    assert (run.info.status, run.data.tags["state"], run.data.tags["sweeper.failure.kind"]) == (
        "FAILED",
        "infeasible",
        "out_of_memory",
    )


def test_params_that_become_known_later_are_added(place):
    writer = place.connect()
    writer.show(study(), trial(num_parameters=0), ())
    writer.show(study(), trial(chunks=1), ())
    assert place.runs()[0].data.params["num_parameters"] == "1234"


def test_references_that_are_measured_later_are_added_to_the_note(place):
    writer = place.connect()
    writer.show(study(), trial(), ())
    writer.show(study(references={"frozen_probe": {"accuracy": 0.65}}), trial(), ())
    assert (
        "**probe**, without any adapter: accuracy 0.6500"
        in place.client.get_experiment_by_name("s1/trec-minilm-lora").tags["mlflow.note.content"]
    )


def test_a_note_that_a_user_changed_is_not_overwritten(place):
    place.connect().show(study(), trial(), ())
    client = place.client
    experiment_id = client.get_experiment_by_name("s1/trec-minilm-lora").experiment_id
    client.set_experiment_tag(experiment_id, "mlflow.note.content", "mine")
    place.connect().show(study(references={"frozen_probe": {"accuracy": 0.65}}), trial(chunks=1), ())
    assert client.get_experiment(experiment_id).tags["mlflow.note.content"] == "mine"


def test_a_deleted_experiment_is_restored_with_its_runs(place):
    place.connect().show(study(), trial(chunks=1), ())
    place.client.delete_experiment(place.client.get_experiment_by_name("s1/trec-minilm-lora").experiment_id)
    place.connect().show(study(), trial(chunks=2), ())
    assert len(place.runs()) == 1


def test_all_runs_are_found_on_several_pages(place, monkeypatch):
    monkeypatch.setattr(mlflow_runs, "_PAGE", 2)
    writer = place.connect()
    for number in range(5):
        writer.show(study(), trial(number), ())
    later = place.connect()
    for number in range(5):
        later.show(study(), trial(number, chunks=1), ())
    assert len(place.runs()) == 5


def test_a_deleted_database_is_an_error_and_the_next_process_sends_everything(place, schema):
    writer = place.connect()
    writer.show(study(), trial(chunks=1), ())
    database = place.outputs / "mlflow.db"
    for path in place.outputs.glob("mlflow.db*"):
        path.unlink()
    with pytest.raises(MlflowException):
        writer.show(study(), trial(chunks=2), ())
    place.close()  # the process ends
    shutil.copy(schema, database)  # as `prepare_database` does at the start of the next one
    place.connect().show(study(), complete(), ())
    (run,) = place.runs()
    assert run.data.tags["state"] == "complete"
    assert [step for step, _ in place.history(run.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]


def report_files(folder, text):
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in ("report.html", "report.md", "best.json")]
    for path in paths:
        path.write_text(text)
    return paths


def test_the_report_is_a_run_without_metrics_that_later_processes_overwrite(place, tmp_path):
    for text in ("first", "second"):
        writer = place.connect(git_commit="abc")
        writer.show(study(), complete(), ())
        writer.keep_report(study(), report_files(tmp_path / "sweep", text))
    (report,) = place.reports()
    assert (report.info.run_name, report.info.status) == ("report: s1", "FINISHED")
    assert (report.data.metrics, report.data.params) == ({}, {})
    assert "trial" not in report.data.tags
    kept = Path(report.info.artifact_uri.removeprefix("file://").replace("%20", " "))
    contents = {path.name: path.read_text() for path in kept.iterdir()}
    assert contents == dict.fromkeys(("report.html", "report.md", "best.json"), "second")
    assert len(place.runs()) == 1


def test_the_report_is_no_trial_to_the_audit(place, tmp_path):
    writer = place.connect()
    writer.show(study(), complete(), ())
    writer.keep_report(study(), report_files(tmp_path / "sweep", "text"))
    (viewed,) = open_audit(place.uri, sweep="s1").read("trec-minilm-lora", "validation/accuracy")
    assert (viewed.number, viewed.state) == (7, "complete")


def test_the_note_links_the_report_and_is_not_written_again(place, tmp_path, monkeypatch):
    writer = place.connect()
    writer.show(study(), complete(), ())
    writer.keep_report(study(), report_files(tmp_path / "sweep", "text"))
    (report,) = place.reports()
    note = place.client.get_experiment(report.info.experiment_id).tags["mlflow.note.content"]
    link = f"#/experiments/{report.info.experiment_id}/runs/{report.info.run_id}/artifactPath/report.html"
    assert f"[Read the report]({link})" in note
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", lambda *_: pytest.fail("written again"))
    place.connect().show(study(), complete(), ())
