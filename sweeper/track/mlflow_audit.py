"""Reads the runs of a study from MLflow, so that they can be compared with the store; deletes duplicate or wrong runs.

`sweeper.recovery` calls this through `sweeper.track.open_audit`. Missing runs are added by `Tracker.show`. MLflow has a
copy of the record and the adapter of every finished trial, so a damaged store can be repaired from it. Importing this
module imports mlflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeper.errors import TrackerError
from sweeper.store.paths import TRIAL_FILE
from sweeper.types import TrialState, ViewedTrial
from sweeper.urls import redact_urls

__all__ = ["MlflowAudit"]

_PAGE = 1000
_PAUSED = "paused"


class MlflowAudit:
    """Reads and deletes a sweep's runs.

    Args:
        uri: Tracking URI.
        sweep: Name of the sweep.

    Raises:
        TrackerError: The server or database cannot be used, e.g. since another version of MLflow wrote its schema.
    """

    def __init__(self, uri: str, *, sweep: str) -> None:
        try:
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        except (MlflowException, OSError) as error:
            raise _unreadable(error) from error
        self._uri, self._sweep = uri, sweep

    def read(self, study: str, metric: str) -> list[ViewedTrial] | None:
        """Return the runs of a study, or None if there is no such experiment.

        Args:
            study: Name of the study.
            metric: Name of its objective.

        Raises:
            TrackerError: MLflow does not answer.
        """
        try:
            return self._read(f"{self._sweep}/{study}", metric)
        except (MlflowException, OSError) as error:
            raise _unreadable(error) from error

    def _read(self, name: str, metric: str) -> list[ViewedTrial] | None:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage == "deleted":
            return None
        found: list[ViewedTrial] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment.experiment_id], max_results=_PAGE, page_token=token)
            found += [_viewed(run, metric) for run in page if "trial" in run.data.tags]
            token = page.token
            if not token:
                return found

    def remove(self, runs: Iterable[ViewedTrial]) -> None:
        """Move runs to MLflow's trash, which is not shown; ``mlflow gc`` empties it."""
        for run in runs:
            self._client.delete_run(run.key)

    def kept_record(self, run: ViewedTrial) -> bytes | None:
        """Return the copy of ``trial.json`` among a finished run's artifacts; None if there is none.

        Raises:
            TrackerError: The artifacts cannot be reached.
        """
        with _translate_errors():
            if TRIAL_FILE not in {each.path for each in self._client.list_artifacts(run.key)}:
                return None
            with tempfile.TemporaryDirectory() as folder:
                return Path(self._client.download_artifacts(run.key, TRIAL_FILE, folder)).read_bytes()

    def kept_adapter(self, run: ViewedTrial) -> Mapping[str, bytes]:
        """Return the files of a run's logged adapter; empty if there is none.

        Raises:
            TrackerError: The artifacts cannot be reached.
        """
        with _translate_errors():
            tag = self._client.get_run(run.key).data.tags.get("adapter", "")
            model_id = tag.removeprefix("models:/")
            location = self._artifact_location(model_id) if model_id else ""
            if not location or not self._client.list_logged_model_artifacts(model_id):
                return {}
            with tempfile.TemporaryDirectory() as folder:
                # MLflow resolves the location: it may be quoted, on a server, or in a bucket.
                copy = Path(download_artifacts(artifact_uri=location, dst_path=folder, tracking_uri=self._uri))
                return {path.name: path.read_bytes() for path in copy.glob("adapter_*")}

    def _artifact_location(self, model_id: str) -> str:
        """Return the URI of a logged model's files; empty if MLflow has no such model."""
        try:
            return str(self._client.get_logged_model(model_id).artifact_location)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ""
            raise


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise errors as `TrackerError`: a copy that cannot be reached now must not be taken for one that is lost."""
    try:
        yield
    except Exception as error:  # each kind of storage has a library, with errors of its own
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> TrackerError:
    cause = redact_urls(f"{type(error).__name__}: {error}").splitlines()[0]
    return TrackerError(
        f"MLflow cannot be read ({cause}). To do without it, run the same command with the sweep's overrides and "
        "tracker=none"
    )


def _viewed(run: Run, metric: str) -> ViewedTrial:
    tags = run.data.tags
    final = run.data.metrics.get(f"final/{metric.removeprefix('validation/')}")
    return ViewedTrial(
        number=int(tags["trial"]),
        state=_state(run.info.status, tags.get("state", "")),
        value=final,
        key=run.info.run_id,
    )


def _state(status: str, tag: str) -> str:
    """Return the state on which tag and status agree; both if they contradict each other."""
    expected = {
        TrialState.COMPLETE: "FINISHED",
        TrialState.PRUNED: "FINISHED",
        TrialState.INFEASIBLE: "FAILED",
        TrialState.FAILED: "FAILED",
        TrialState.RUNNING: "RUNNING",
    }
    if tag == TrialState.RUNNING and status == "SCHEDULED":
        return _PAUSED
    if tag in set(TrialState) and expected[TrialState(tag)] == status:
        return tag
    return f"{tag or 'no state'} ({status})"
