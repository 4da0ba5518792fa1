"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.cli import main
from sweeper.config.keys import all_keys
from tests.builders import make_default, make_study, make_sweep, make_trial

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in this process; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweeper", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dataset=trek"], "dataset=trek: there is no dataset 'trek'. Did you mean 'trec'?"),
        (["run", "lora.r=interval(4,8"], "this is not an override"),
        (["config", "budget.trails=4"], "Did you mean 'budget.trials'?"),
        (["status"], "no sweep has been run yet"),
        (["status", "mine"], "there is no sweep 'mine'"),
        (["report", "mine"], "there is no sweep 'mine'"),
        (["reproduce", "mine"], "is not <sweep>/<study>/<trial>"),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert message in err


def test_brackets_in_a_mistake_are_shown_as_they_are(run):
    _, _, err = run("run", "dataset=[trec,trek]")
    assert "dataset=[trec,trek]" in err


def test_a_mistake_cannot_control_the_terminal(run):
    _, _, err = run("run", "dataset=\x1b[2Jtrek")
    assert "dataset=[2Jtrek" in err


def test_without_arguments_the_commands_are_listed(run):
    _, out, err = run()
    for command in ("run", "status", "report", "config", "reproduce", "ui"):
        assert command in out + err


def test_an_unknown_command_is_an_error(run):
    code, _, err = run("rnu")
    assert code == 2
    assert "rnu" in err


def test_the_configuration_is_printed_as_yaml(run):
    code, out, _ = run("config", "dataset=trec", "lora.r=choice(4,8)")
    assert code == 0
    assert "lora.r: choice(4,8)" in out


def test_every_key_is_explained_in_full_however_narrow_the_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("config", "--help-keys")
    assert code == 0
    for key, entry in all_keys().items():
        assert key in out
        assert entry.doc in out


def test_keys_can_be_searched_with_other_tools(run):
    _, out, _ = run("config", "--help-keys")
    (line,) = [line for line in out.splitlines() if line.startswith("dataset.<name>.validation_rows ")]
    assert "Rows that score a trial" in line


def test_a_mistake_shows_no_traceback():
    command = [sys.executable, "-m", "sweeper.cli", "run", "dataset=trek"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Did you mean 'trec'?" in done.stderr


def test_report_writes_the_reports_and_prints_where(run, tmp_path):
    trials = [make_default(0.8), make_trial(1, 0.9, params={"lora.r": 64})]
    store = make_sweep(tmp_path / "outputs" / "mine", [(make_study(), trials)])
    code, out, _ = run("report", "mine")
    assert code == 0
    assert str(store.paths.report_html) in out.replace("\n", "")
    assert "trec" in store.paths.report_html.read_text()
    assert json.loads(store.paths.best.read_text())["studies"][0]["at_bounds"] == {"lora.r": "high"}


def test_status_describes_the_last_session(run, tmp_path):
    from sweeper.store.serialization import to_bytes
    from sweeper.store.sessions import SessionLog, SessionRecord

    store = make_sweep(tmp_path / "outputs" / "mine", [(make_study(), [make_trial(0, 0.8)])])
    kept = store.read_sweep()
    kept["settings"]["budget"] = {"trials": 4, "time_zone": "Europe/Berlin"}
    store.write_sweep(kept)
    moment = "2026-01-02T05:58:00+00:00"
    record = SessionRecord(number=2, begun_at=moment, saved_at=moment, ended_at=moment, reason="all is done")
    SessionLog(store.root).path(2).parent.mkdir()
    SessionLog(store.root).path(2).write_bytes(to_bytes(record))
    _, out, _ = run("status")
    assert "Session 2 ended Fri 02 Jan 06:58: all is done." in out


def test_the_option_wait_sets_the_key(run, monkeypatch):
    asked = []
    outcome = type("Outcome", (), {"exit_code": 0})
    monkeypatch.setattr("sweeper.sweep.run.run_sweep", lambda overrides, **_: asked.append(overrides) or outcome)
    assert run("run", "--wait", "dataset=trec")[0] == 0
    assert asked == [["dataset=trec", "budget.wait=true"]]
