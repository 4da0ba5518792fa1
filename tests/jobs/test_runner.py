"""A session of a job, with a real sweep of tiny trials."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import timedelta

import pytest
from rich.console import Console

from sweeper.clock import utc_now
from sweeper.errors import SweeperError
from sweeper.jobs.runner import plan_job, run_job
from sweeper.jobs.settings import load_job
from sweeper.store.lock import hold
from sweeper.store.sessions import SessionLog
from tests.e2e.conftest import tiny, tiny_bert, tiny_cache  # noqa: F401 - fixtures

SMALL = ("budget.trials=2", "train.epochs=1")


@pytest.fixture
def job(jobs_dir, tiny):  # noqa: F811 - the fixture
    """A job of two tiny trials, whose outputs lie in its folder."""
    overrides = [override for override in tiny if not override.startswith("outputs=")]
    (jobs_dir / "mine.yaml").write_text(json.dumps({"overrides": [*overrides, *SMALL]}))
    return load_job(jobs_dir / "mine.yaml")


def _run(job):
    output = io.StringIO()
    code = run_job(job, console=Console(file=output, width=200))
    return code, output.getvalue()


def test_a_session_searches_in_the_jobs_folder_and_reports(job):
    code, output = _run(job)
    assert code == 0
    report = job.folder / "outputs" / "tiny" / "report.html"
    assert f"Report: {report}" in output
    assert "tiny" in report.read_text()
    assert len(SessionLog(job.folder / "outputs" / "tiny").read()) == 1


def test_a_job_without_a_report_prints_no_report(job):
    _, output = _run(dataclasses.replace(job, report=False))
    assert "Report:" not in output


def test_a_second_session_leaves_the_first_alone_and_exits_with_0(job):
    plan = plan_job(job)
    with hold(plan.store):
        code, output = _run(job)
    assert code == 0
    assert "sweep tiny is being run by process" in output
    assert "This session of job mine exits" in output
    assert "Report:" not in output


def test_a_session_that_ends_in_an_error_reports_nevertheless(job, monkeypatch):
    _run(job)
    plan = plan_job(job)
    (plan.store.root / "report.md").unlink()

    def fail(*_arguments, **_options):
        raise SweeperError("no worker is left")

    monkeypatch.setattr("sweeper.sweep.run.run_sweep", fail)
    with pytest.raises(SweeperError, match="no worker is left"):
        _run(job)
    assert (plan.store.root / "report.md").exists()


def test_a_session_ends_with_the_exit_code_of_its_sweep(job, monkeypatch):
    outcome = type("Outcome", (), {"exit_code": 143})
    monkeypatch.setattr("sweeper.sweep.run.run_sweep", lambda *_arguments, **_options: outcome)
    assert _run(job)[0] == 143


def test_outside_its_window_a_session_exits_with_0_and_searches_nothing(job):
    now = utc_now()
    times = [f"{now + timedelta(hours=hours):%H:%M}" for hours in (3, 4)]
    code, output = _run(dataclasses.replace(job, window="-".join(times), time_zone="UTC"))
    assert code == 0
    assert times[0] in output
    assert not list(job.folder.glob("outputs/tiny/studies/*/trials/*"))


def test_the_environment_file_is_read(job, monkeypatch, tmp_path):
    (tmp_path / "sweeper").mkdir()
    (tmp_path / "sweeper" / "environment").write_text("SWEEPER_TEST_OUTPUTS=elsewhere\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SWEEPER_TEST_OUTPUTS", "")
    monkeypatch.delenv("SWEEPER_TEST_OUTPUTS")
    _run(dataclasses.replace(job, overrides=(*job.overrides, "outputs=${oc.env:SWEEPER_TEST_OUTPUTS}")))
    assert (job.folder / "elsewhere" / "tiny" / "report.md").exists()
