"""Two commands with one name and different settings: exactly one of them trains, and no study is mixed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

import sweeper
from sweeper.analysis import report
from sweeper.cli import app
from sweeper.config.compose import compose
from sweeper.errors import SweepLocked, SweepMismatch
from sweeper.store import lock
from sweeper.store.lock import hold, hold_report
from sweeper.store.trials import TrialStore
from sweeper.sweep import run as run_module
from sweeper.sweep.reports import current_best

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMALL = ["budget.trials=2", "train.epochs=1"]
OTHER = ["seed=7", "train.epochs=2"]
STUDY = "tiny-tinybert-lora"


@pytest.fixture
def own(tiny):
    return [*tiny, *SMALL]


@pytest.fixture
def other(tiny):
    return [*tiny, *SMALL, *OTHER]


@pytest.fixture
def store(tmp_path):
    return TrialStore(tmp_path / "outputs" / "tiny")


def seeds(store):
    return {trial.spec.seed for trial in store.trials(STUDY)}


def once(action):
    """Return a function that performs an action the first time it is called."""
    actions = [action]
    return lambda: actions.pop()() if actions else None


def test_a_sweep_that_another_command_starts_during_the_wait_is_not_resumed(own, other, store, monkeypatch):
    start_other = once(lambda: sweeper.run(other))
    wait = run_module.wait_for_window

    def wait_while_another_starts(*arguments, **options):
        start_other()
        return wait(*arguments, **options)

    monkeypatch.setattr(run_module, "wait_for_window", wait_while_another_starts)
    with pytest.raises(SweepMismatch, match="was started with other settings"):
        sweeper.run(own)
    assert seeds(store) == {7}


def test_a_sweep_that_another_command_starts_just_before_the_lock_is_not_resumed(own, other, store, monkeypatch):
    start_other = once(lambda: sweeper.run(other))

    @contextmanager
    def hold_too_late(locked):
        start_other()
        with hold(locked):
            yield

    monkeypatch.setattr(run_module, "hold", hold_too_late)
    with pytest.raises(SweepMismatch, match="was started with other settings"):
        sweeper.run(own)
    assert seeds(store) == {7}
    best = json.loads(store.paths.best.read_text())
    assert best["studies"][0]["best"]["seed"] == 7


def test_a_sweep_that_is_finished_during_the_wait_is_done(own, store, monkeypatch, capsys):
    finish = once(lambda: sweeper.run(own))
    wait = run_module.wait_for_window

    def wait_while_another_finishes(*arguments, **options):
        finish()
        return wait(*arguments, **options)

    monkeypatch.setattr(run_module, "wait_for_window", wait_while_another_finishes)
    sweeper.run(own)
    assert "is done" in capsys.readouterr().out
    assert len(list(store.paths.sessions.glob("*.json"))) == 1


def test_a_locked_sweep_is_left_alone(own, store):
    with hold(store):
        before = sorted(store.root.rglob("*"))
        with pytest.raises(SweepLocked):
            sweeper.run(own)
        assert sorted(store.root.rglob("*")) == before


def test_of_two_commands_that_start_together_one_trains_and_the_other_says_why_not(own, other, store):
    command = [sys.executable, "-m", "sweeper.cli", "run"]
    started = [
        subprocess.Popen([*command, *overrides], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for overrides in (own, other)
    ]
    ended = [(process.communicate()[0], process.returncode) for process in started]
    assert sorted(code for _, code in ended) in ([0, 2], [0, 75]), ended
    assert not any("Traceback" in output for output, _ in ended), ended
    (loser,) = [output for output, code in ended if code]
    assert "was started with other settings" in loser or "is being run by" in loser
    assert len(seeds(store)) == 1
    assert len(store.trials(STUDY)) == 2


# Reports.


def test_outside_the_window_no_report_is_written_while_a_session_runs(own, store):
    sweeper.run(own)
    config = compose(own)
    store.paths.report_html.unlink()
    with hold(store):
        best = current_best(store, config)
        assert not store.paths.report_html.exists()
    assert best["studies"][0]["num_trials"] == 2
    current_best(store, config)
    assert store.paths.report_html.exists()


def test_no_report_is_written_for_a_sweep_with_other_settings(own, other, store):
    sweeper.run(other)
    store.paths.report_html.unlink()
    with pytest.raises(SweepMismatch):
        current_best(store, compose(own))
    assert not store.paths.report_html.exists()


def test_the_report_command_writes_while_a_session_runs(own, store):
    sweeper.run(own)
    store.paths.report_html.unlink()
    with hold(store):
        app(["report", "tiny", "--outputs", str(store.root.parent)], standalone_mode=False)
    assert store.paths.report_html.exists()


def test_trials_are_read_only_while_no_other_process_writes_the_report(own, store, monkeypatch):
    """Otherwise a report that was computed earlier could replace a later one."""
    sweeper.run(own)
    read = []
    monkeypatch.setattr(report, "best_configurations", lambda *_arguments, **_options: read.append(1))
    monkeypatch.setattr(lock, "_REPORT_TIMEOUT_S", 0.0)
    with hold_report(store), pytest.raises(SweepLocked, match="writing the report"):
        report.write_reports(store)
    assert not read


def test_outside_its_window_a_command_of_another_sweep_writes_nothing(own, other, store):
    sweeper.run(other)
    store.paths.report_html.unlink()
    page = io.StringIO()
    with pytest.raises(SweepMismatch):
        sweeper.sweep.run.run_sweep([*own, "budget.window=00:00-00:01"], console=Console(file=page))
    assert not store.paths.report_html.exists()
