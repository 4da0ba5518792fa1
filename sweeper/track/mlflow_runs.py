"""Sends MLflow what is missing from the runs of trials.

A run is found by its tag ``trial``, in this process or a later one, so nothing is sent twice. One more run per
experiment has the sweep's report, and no such tag. Blocks, and raises whatever MLflow raises: `background` calls it in
a thread. Importing this module imports mlflow.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mlflow.entities import LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from sweeper.track import mlflow_saved_view as saved_view
from sweeper.track import mlflow_view as view
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["MlflowRuns"]

_MAX_METRICS = 1000
_MAX_PARAMS = 100
_PAGE = 1000
_KEPT = "files_kept"
"""Tag of a run whose artifacts are complete; lists their names."""
_ADAPTER = "adapter"
"""Tag that names the logged model of a run. Set before the upload, so that a restart continues with this model."""
_NOTE = "mlflow.note.content"
_NOTE_HASH = "sweeper.note_sha256"
"""Tag of an experiment: the hash of the note that we wrote. A note that a user has changed is not overwritten."""
_EDITED = "edited by a user"
_REPORT = "report"
"""Tag of the run that has the sweep's report instead of a trial; its value is the sweep."""


@dataclass(slots=True)
class _KnownRun:
    """What MLflow has of a trial."""

    experiment_id: str
    run_id: str
    status: str = "RUNNING"
    chunk: int = 0
    metrics: set[str] = field(default_factory=set)
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    is_done: bool = False
    """Whether this process has sent the finished trial. It never changes again, so the details are dropped."""

    def finish(self) -> None:
        """Drop the details, which take tens of megabytes for a thousand trials."""
        self.is_done = True
        self.metrics, self.params, self.tags = set(), set(), {}

    @classmethod
    def of(cls, run: Run) -> _KnownRun:
        data = run.data
        chunk = int(data.metrics.get(view.CHUNKS, 0))
        return cls(
            run.info.experiment_id,
            run.info.run_id,
            run.info.status,
            chunk,
            set(data.metrics),
            set(data.params),
            dict(data.tags),
        )


@dataclass(slots=True)
class _Experiment:
    """What MLflow has of a study."""

    id: str
    note: str = ""
    report: str = ""
    """Id of the run that has the report; empty if there is none yet."""
    runs: dict[int, _KnownRun] = field(default_factory=dict)


class MlflowRuns:
    """Writes one experiment per study, one run per trial and one for the report, without nested runs.

    Args:
        uri: Tracking URI.
        artifacts: URI of the folder for artifacts; empty if a tracking server chooses it.
        sweep: Name of the sweep.
        tags: Tags of every run, e.g. the git commit.
    """

    def __init__(self, uri: str, *, artifacts: str, sweep: str, tags: Mapping[str, str]) -> None:
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._artifacts = artifacts
        self._sweep = sweep
        self._tags = {key: value for key, value in tags.items() if value}
        self._experiments: dict[str, _Experiment] = {}

    def show(self, study: StudyRecord, trial: TrialRecord, files: Sequence[Path]) -> None:
        """Send what is missing from a trial's run: note, files, params, points and tags, then the status."""
        experiment = self._experiments.get(study.name) or self._find_experiment(study)
        self._write_note(experiment, study)
        known = experiment.runs.get(trial.spec.number) or self._create_run(experiment, trial)
        if known.is_done:
            return
        model_id = ""
        if trial.state.is_finished and _KEPT not in known.tags:
            model_id = self._upload(known, study, trial, files)
        self._send(known, study, trial, model_id)
        self._set_status(known, trial)
        if trial.state.is_finished:
            known.finish()

    def keep_report(self, study: StudyRecord, files: Sequence[Path]) -> None:
        """Replace the files of the run that has the report, and link it in the experiment's note."""
        experiment = self._experiments.get(study.name) or self._find_experiment(study)
        if not experiment.report:
            experiment.report = self._create_report(experiment)
        for path in files:
            self._client.log_artifact(experiment.report, str(path))
        self._client.set_terminated(experiment.report)
        self._write_note(experiment, study)

    def forget(self, study: str) -> None:
        """Drop the cached runs of a study; the next call reads them again."""
        self._experiments.pop(study, None)

    def pause(self) -> None:
        """Set running runs to scheduled, since this process no longer trains them."""
        for experiment in self._experiments.values():
            for known in experiment.runs.values():
                if known.status == "RUNNING":
                    self._client.update_run(known.run_id, status="SCHEDULED")
                    known.status = "SCHEDULED"

    def _find_experiment(self, study: StudyRecord) -> _Experiment:
        name = f"{self._sweep}/{study.name}"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            experiment = _Experiment(self._create_experiment(name))
        else:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            note = found.tags.get(_NOTE, "")
            if note and found.tags.get(_NOTE_HASH) != _hash(note):
                note = _EDITED
            experiment = _Experiment(found.experiment_id, note)
            self._find_runs(experiment)
        self._experiments[study.name] = experiment
        return experiment

    def _create_experiment(self, name: str) -> str:
        folder = f"{self._artifacts}/{_safe(name)}" if self._artifacts else None
        # Without this kind, the page asks every visitor to choose one in a dialogue.
        tags = {"mlflow.experimentKind": "custom_model_development", "sweep": self._sweep}
        return self._client.create_experiment(name, artifact_location=folder, tags=tags)

    def _find_runs(self, experiment: _Experiment) -> None:
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment.id], max_results=_PAGE, order_by=["attributes.start_time DESC"], page_token=token
            )
            for run in page:
                if "trial" in run.data.tags:
                    experiment.runs[int(run.data.tags["trial"])] = _KnownRun.of(run)
                elif _REPORT in run.data.tags:
                    experiment.report = run.info.run_id
            token = page.token
            if not token:
                return

    def _write_note(self, experiment: _Experiment, study: StudyRecord) -> None:
        report = saved_view.artifact(experiment.id, experiment.report, "report.html") if experiment.report else ""
        note = view.experiment_note(study, self._sweep, saved_view.page(experiment.id), report)
        if experiment.note in (note, _EDITED):
            return
        self._client.set_experiment_tag(experiment.id, _NOTE, note)
        self._client.set_experiment_tag(experiment.id, _NOTE_HASH, _hash(note))
        self._client.set_experiment_tag(experiment.id, saved_view.TAG, saved_view.saved_view(study))
        experiment.note = note

    def _create_run(self, experiment: _Experiment, trial: TrialRecord) -> _KnownRun:
        number = trial.spec.number
        tags = {"trial": str(number)}
        run = self._client.create_run(
            experiment.id,
            start_time=view.millis(trial.started_at) or None,
            run_name=view.run_name(trial),
            tags={**tags, **_origin()},
        )
        experiment.runs[number] = _KnownRun(experiment.id, run.info.run_id, tags=tags)
        return experiment.runs[number]

    def _create_report(self, experiment: _Experiment) -> str:
        tags = {_REPORT: self._sweep, "sweep": self._sweep, **self._tags, **_origin()}
        run = self._client.create_run(experiment.id, run_name=f"report: {self._sweep}", tags=tags)
        return str(run.info.run_id)

    def _send(self, known: _KnownRun, study: StudyRecord, trial: TrialRecord, model_id: str) -> None:
        params = {k: v for k, v in view.run_params(study, trial).items() if k not in known.params}
        points = [_metric(point) for point in view.points_after(trial, known.chunk)]
        if trial.state.is_finished:
            ends = [point for point in view.summary(study, trial) if point.key not in known.metrics]
            points += [_metric(point, "" if point.key.startswith("cost/") else model_id) for point in ends]
        tags = self._tags | view.run_tags(study, trial, self._sweep)
        tags = {k: v for k, v in tags.items() if known.tags.get(k) != v}
        self._log(known.run_id, points, params, tags)
        known.chunk = max(known.chunk, trial.chunks_done)
        known.metrics.update(metric.key for metric in points)
        known.params.update(params)
        known.tags.update(tags)

    def _log(self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Send in as few calls as MLflow's limits allow; the tags, which include the state, come last."""
        rest, other = iter(metrics), iter([Param(key, value) for key, value in params.items()])
        run_tags = [RunTag(key, value) for key, value in tags.items()]
        while True:
            points, values = list(islice(rest, _MAX_METRICS - _MAX_PARAMS)), list(islice(other, _MAX_PARAMS // 2))
            is_last = len(points) < _MAX_METRICS - _MAX_PARAMS and len(values) < _MAX_PARAMS // 2
            if points or values or (is_last and run_tags):
                self._client.log_batch(run_id, points, values, run_tags if is_last else ())
            if is_last:
                return

    def _upload(self, known: _KnownRun, study: StudyRecord, trial: TrialRecord, files: Iterable[Path]) -> str:
        """Upload files and the adapter; return the id of the adapter's logged model, or an empty string."""
        model_id = ""
        present = [path for path in files if path.exists()]
        for path in present:
            if (path / "adapter_config.json").exists():
                model_id = self._upload_adapter(known, study, trial, path)
            elif path.is_dir():
                self._client.log_artifacts(known.run_id, str(path), path.name)
            else:
                self._client.log_artifact(known.run_id, str(path))
        if not model_id and _ADAPTER in known.tags:
            # Its upload was interrupted, and retention has deleted its files since.
            self._client.delete_logged_model(known.tags.pop(_ADAPTER).removeprefix("models:/"))
            self._client.delete_tag(known.run_id, _ADAPTER)
        if present:
            self._tag(known, _KEPT, ", ".join(path.name for path in present))
        return model_id

    def _upload_adapter(self, known: _KnownRun, study: StudyRecord, trial: TrialRecord, folder: Path) -> str:
        model_id = known.tags.get(_ADAPTER, "").removeprefix("models:/")
        # MLflow refuses an output that a run has already, as after a kill at the end of an interrupted upload.
        is_output = bool(model_id) and self._has_output(known.run_id, model_id)
        if not model_id:
            model = self._client.create_logged_model(
                known.experiment_id,
                name=_safe(view.run_name(trial)),
                source_run_id=known.run_id,
                params=view.run_params(study, trial),
                tags={"format": "peft", "trial": str(trial.spec.number)},
                model_type="lora adapter",
            )
            model_id = model.model_id
            self._tag(known, _ADAPTER, f"models:/{model_id}")
        self._client.log_model_artifacts(model_id, str(folder))
        self._client.finalize_logged_model(model_id, "READY")
        if not is_output:
            self._client.log_outputs(known.run_id, [LoggedModelOutput(model_id, trial.chunks_done)])
        return model_id

    def _has_output(self, run_id: str, model_id: str) -> bool:
        outputs = self._client.get_run(run_id).outputs
        return outputs is not None and any(each.model_id == model_id for each in outputs.model_outputs)

    def _tag(self, known: _KnownRun, key: str, value: str) -> None:
        self._client.set_tag(known.run_id, key, value)
        known.tags[key] = value

    def _set_status(self, known: _KnownRun, trial: TrialRecord) -> None:
        status = view.run_status(trial.state)
        if status == known.status:
            return
        if trial.state.is_finished:
            self._client.set_terminated(known.run_id, status, view.millis(trial.finished_at) or None)
        else:
            self._client.update_run(known.run_id, status=status)
        known.status = status


def _origin() -> dict[str, str]:
    """Return the tags that MLflow shows as the user and the source of a run."""
    return {"mlflow.user": os.environ.get("USER", ""), "mlflow.source.name": "sweeper"}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _safe(name: str) -> str:
    """Return a name without the characters that MLflow rejects in the name of a model."""
    return re.sub(r"[^\w=-]+", "-", name)


def _metric(point: view.Point, model_id: str = "") -> Metric:
    return Metric(point.key, point.value, point.millis, point.step, model_id=model_id or None)
