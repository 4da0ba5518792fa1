"""An MLflow database per test; its schema takes seconds, so it is created once and copied."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from sweeper.track.mlflow import artifact_folder, connect, prepare_database, set_environment, tracking_uri


@dataclass
class Place:
    """A prepared outputs folder."""

    outputs: Path

    @property
    def uri(self) -> str:
        return tracking_uri("", self.outputs)

    @property
    def client(self):
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.uri, self.uri)

    def connect(self, **tags: str):
        return connect(self.uri, artifacts=artifact_folder(self.uri, self.outputs), sweep="s1", tags=tags)

    def close(self) -> None:
        """Close the database, as the end of a process does."""
        _close_engine(self.outputs)

    def runs(self, study: str = "trec-minilm-lora"):
        experiment = self.client.get_experiment_by_name(f"s1/{study}")
        runs = self.client.search_runs([experiment.experiment_id], "tags.trial != ''")
        return sorted(runs, key=lambda run: int(run.data.tags["trial"]))

    def reports(self, study: str = "trec-minilm-lora"):
        experiment = self.client.get_experiment_by_name(f"s1/{study}")
        return self.client.search_runs([experiment.experiment_id], "tags.report = 's1'")

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run_id, key)]


@pytest.fixture(scope="session")
def schema(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("schema")
    set_environment()
    prepare_database(tracking_uri("", folder))
    return folder / "mlflow.db"


@pytest.fixture
def place(schema, tmp_path) -> Place:
    outputs = tmp_path / "out puts"
    outputs.mkdir()
    shutil.copy(schema, outputs / "mlflow.db")
    yield Place(outputs)
    _close_engine(outputs)


def _close_engine(outputs: Path) -> None:
    # mlflow caches every engine; a connection that stays open becomes a ResourceWarning later
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.pop(tracking_uri("", outputs), None)
    if engine is not None:
        engine.dispose()
