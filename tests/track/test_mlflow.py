"""MLflow's URIs, environment variables and database."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.errors import ConfigError, TrackerError
from sweeper.track import mlflow as ours
from sweeper.track.mlflow import artifact_folder, open_audit, prepare_database, set_environment, tracking_uri


def test_the_default_is_a_database_in_the_outputs_folder_by_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("", Path("outputs")) == f"sqlite:///{tmp_path}/outputs/mlflow.db"


def test_a_relative_database_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("sqlite:///mine.db", Path("outputs")) == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize("uri", ["http://host:5000", "postgresql://me:pw@db/mlflow", "databricks"])
def test_other_uris_stay_as_they_are(uri):
    assert tracking_uri(uri, Path("outputs")) == uri


def test_an_unsupported_uri_is_an_error_with_a_remedy_and_without_the_password():
    with pytest.raises(ConfigError, match=r"tracker\.uri=ftp://me:\*\*\*@host.*sqlite:///"):
        tracking_uri("ftp://me:secret@host", Path("outputs"))


def test_a_tracking_server_chooses_the_folder_for_artifacts():
    assert artifact_folder("http://host:5000", Path("outputs")) == ""


def test_with_a_database_artifacts_go_to_the_outputs_folder(tmp_path):
    assert artifact_folder("sqlite:///x.db", tmp_path / "my outputs") == f"file://{tmp_path}/my%20outputs/mlartifacts"


def test_variables_that_the_user_has_set_are_not_changed(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    set_environment()
    assert (os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("9", "20")


def test_an_interrupted_creation_leaves_no_partial_database(tmp_path, monkeypatch):
    def killed(uri):
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(ours, "_make_schema", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()

    def made(uri):
        assert not Path(uri.removeprefix("sqlite:///")).exists(), "the partial database was not removed"
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"whole")

    monkeypatch.setattr(ours, "_make_schema", made)
    prepare_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").read_bytes() == b"whole"


def test_an_empty_file_and_its_journal_are_replaced_and_never_filled_in_place(tmp_path, monkeypatch):
    # A connection that reopens a database that was moved away leaves an empty file. A kill while MLflow fills that one
    # leaves some of its tables, and it refuses such a database from then on.
    database = tmp_path / "mlflow.db"
    database.touch()
    stale = [tmp_path / "mlflow.db-journal", tmp_path / ".mlflow.db.tmp-journal"]
    for journal in stale:
        journal.write_bytes(b"stale")

    def made(uri):
        assert not any(journal.exists() for journal in stale)
        assert uri != f"sqlite:///{database}"
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"whole")

    monkeypatch.setattr(ours, "_make_schema", made)
    prepare_database(f"sqlite:///{database}")
    assert database.read_bytes() == b"whole"


def test_reading_a_database_of_another_schema_is_an_error_of_ours(schema, tmp_path):
    shutil.copy(schema, tmp_path / "mlflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '75868b020152'")
    with pytest.raises(TrackerError, match="out-of-date database schema"):
        open_audit(f"sqlite:///{tmp_path}/mlflow.db", sweep="s1")


def test_an_existing_database_is_not_changed(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_bytes(b"mine")
    monkeypatch.setattr(ours, "_make_schema", lambda _: pytest.fail("created again"))
    prepare_database(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.slow
def test_processes_that_start_together_share_one_intact_database(tmp_path):
    code = "import sys; from sweeper.track.mlflow import *; set_environment(); prepare_database(sys.argv[1])"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/mlflow.db"]
    children = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [child.wait(100) for child in children] == [0, 0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    database.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]
