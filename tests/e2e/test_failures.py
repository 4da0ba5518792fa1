"""Failures of a real sweep in the terminal, the report and the exit code."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

import sweeper.cli
from sweeper.errors import DiskFull, StorageDown
from sweeper.store.trials import TrialStore
from sweeper.tasks.text_classification import Task
from sweeper.types import FailureKind, TrialState

STUDY = "tiny-tinybert-lora"
pytestmark = pytest.mark.slow


def invoke(*arguments):
    result = CliRunner().invoke(sweeper.cli.app, arguments, catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


def test_a_task_with_a_bug_ends_the_sweep_early_with_the_cause_and_an_exit_code(tiny, tmp_path, monkeypatch):
    def row_loss(*_):
        raise ValueError("labels and logits differ in shape")

    monkeypatch.setattr(Task, "row_loss", row_loss)
    overrides = [*tiny, "executor.retry_s=0", "budget.trials=30", "executor.abort_after_failures=4"]
    code, _ = invoke("run", *overrides)
    assert code == 3
    store = TrialStore(tmp_path / "outputs" / "tiny")
    trials = store.trials(STUDY)
    assert len(trials) < 30
    assert {(trial.state, trial.failure.kind) for trial in trials} == {(TrialState.FAILED, FailureKind.ERROR)}
    assert "in row_loss" in trials[0].failure.traceback
    report = (store.root / "report.md").read_text()
    assert "was aborted: its first" in report
    assert "error: ValueError: labels and logits differ in shape" in report
    code, shown = invoke("status", "tiny", "--outputs", str(tmp_path / "outputs"))
    assert code == 0
    assert f"{STUDY} was aborted: its first" in shown
    assert re.search(r"tiny: \d failed \(error\)", shown)
    assert "Read the traceback" in shown
    assert invoke("run", *overrides)[0] == 3
    assert len(store.trials(STUDY)) == len(trials)


@pytest.mark.parametrize(("error", "code"), [(DiskFull("no space"), 4), (StorageDown("locked"), 5)])
def test_causes_that_end_a_sweep_have_their_own_exit_codes(monkeypatch, capsys, error, code):
    def run_sweep(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("sweeper.sweep.run.run_sweep", run_sweep)
    monkeypatch.setattr("sys.argv", ["sweeper", "run"])
    with pytest.raises(SystemExit) as ended:
        sweeper.cli.main()
    assert ended.value.code == code
    assert f"Error: {error}" in capsys.readouterr().err


def test_a_sweep_does_not_start_on_a_disk_that_is_nearly_full(tiny):
    with pytest.raises(DiskFull, match=r"executor\.min_free_mb=1000000000"):
        sweeper.run([*tiny, "executor.min_free_mb=1000000000"])
