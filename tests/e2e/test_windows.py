"""A sweep that its window divides into sessions; everything but the time is real: model, store, search, report."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta

import pytest
from rich.console import Console

from sweeper.store.sessions import SessionLog
from sweeper.store.trials import TrialStore
from sweeper.sweep.run import run_sweep
from sweeper.types import TrialState
from tests.doubles import write_rows
from tests.e2e.conftest import overrides_of

STUDY = "tiny-tinybert-lora"
pytestmark = pytest.mark.slow


class ChunkClock:
    """A clock that advances by a minute with each stored chunk of a trial, and not otherwise."""

    def __init__(self, store):
        self.store = store
        self.start_session(1)

    def start_session(self, day):
        self.start = datetime.fromisoformat(f"2026-01-{day:02d}T22:00+00:00")
        self.before = self.num_chunks()

    def num_chunks(self):
        return sum(trial.chunks_done for trial in self.store.trials(STUDY))

    def __call__(self):
        return self.start + timedelta(minutes=self.num_chunks() - self.before)


class Sweep:
    """A sweep that is run in one session per day."""

    def __init__(self, overrides, folder, *, window=""):
        self.overrides = [*overrides, f"outputs={folder}", f'budget.window="{window}"', "budget.time_zone=UTC"]
        self.store = TrialStore(folder / "tiny")
        self.clock = ChunkClock(self.store)
        self.shown = io.StringIO()

    def session(self, day):
        self.clock.start_session(day)
        console = Console(file=self.shown, width=200)
        return run_sweep(self.overrides, console=console, clock=self.clock)

    def sessions(self):
        outcomes = [self.session(1)]
        while outcomes[-1].is_paused:
            outcomes.append(self.session(len(outcomes) + 1))
            assert len(outcomes) < 20
        return outcomes

    def outcome(self):
        """Return what must not depend on interruptions: specs, states and scores, to the last bit."""
        trials = self.store.trials(STUDY)
        return [(t.spec, t.state, [(m.chunk, dict(m.metrics)) for m in t.measurements]) for t in trials]

    def weights(self):
        paths = sorted(self.store.root.glob("studies/*/trials/*/adapter/*.safetensors"))
        return {path.parent.parent.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def longer():
    """A loss differs from trial to trial even in a model that learns little, so that some are pruned."""
    varied = ["lora.dropout=interval(0,0.2)", "train.learning_rate=tag(log,interval(1e-4,1e-1))"]
    return ["budget.trials=10", "task.metric=loss", *varied]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_bert, tiny_cache, longer):
    folder = tmp_path_factory.mktemp("uninterrupted")
    overrides = overrides_of(folder, write_rows(folder / "rows.jsonl"), tiny_bert, tiny_cache)
    sweep = Sweep([*overrides, *longer], folder / "outputs")
    assert not sweep.session(1).is_paused
    return sweep


@pytest.mark.parametrize("closes", ["22:10", "22:04"])
def test_an_interrupted_sweep_equals_an_uninterrupted_one(tiny, longer, tmp_path, uninterrupted, closes):
    interrupted = Sweep([*tiny, *longer], tmp_path / "interrupted", window=f"22:00-{closes}")
    outcomes = interrupted.sessions()
    assert len(outcomes) >= 2
    first = outcomes[0]
    assert (first.is_paused, first.stopped_by) == (True, "")
    assert first.reason.startswith(f"budget.window=22:00-{closes} closes at {closes}")
    assert interrupted.outcome() == uninterrupted.outcome()
    assert interrupted.weights() == uninterrupted.weights()
    origins = [trial.spec.origin for trial in uninterrupted.store.trials(STUDY)]
    assert "gp" in origins
    assert {TrialState.PRUNED, TrialState.COMPLETE} <= {state for _, state, _ in uninterrupted.outcome()}


def test_sessions_are_recorded_in_files_and_in_the_report(tiny, longer, tmp_path):
    sweep = Sweep([*tiny, *longer], tmp_path, window="22:00-22:10")
    num_sessions = len(sweep.sessions())
    sessions = SessionLog(sweep.store.root).read()
    assert [session.number for session in sessions] == list(range(1, num_sessions + 1))
    assert all(session.ended_at for session in sessions)
    assert sum(session.num_finished for session in sessions) == 10
    assert all(session.predictions for session in sessions)
    assert sessions[-1].reason == "nothing is left to do"
    for number in range(1, num_sessions + 1):
        assert (sweep.store.root / "sessions" / f"{number:04d}.md").exists()
    first = (sweep.store.root / "sessions" / "0001.md").read_text()
    assert "closes at 22:10" in first
    assert "Next window: Fri 02 Jan 22:00" in first
    last = (sweep.store.root / "summary.md").read_text()
    assert f"# Sweep tiny: session {num_sessions} ended" in last
    assert "tiny: 10/10 trials" in last
    report = (sweep.store.root / "report.md").read_text()
    assert "## Sessions" in report
    assert f"| {num_sessions} | 2026-01-0{num_sessions} 22:00 |" in report


def test_with_wait_one_command_runs_all_sessions(tiny, longer, tmp_path, monkeypatch):
    sweep = Sweep([*tiny, *longer, "budget.wait=true"], tmp_path, window="22:00-22:10")
    waits = []

    def next_session(*_, after=False, **__):
        if after:
            waits.append(sweep.clock())
            sweep.clock.start_session(len(waits) + 1)
        return True

    monkeypatch.setattr("sweeper.sweep.run.wait_for_window", next_session)
    outcome = sweep.session(1)
    assert (outcome.is_paused, outcome.reason) == (False, "")
    assert len(waits) == len(SessionLog(sweep.store.root).read()) - 1 >= 1


def test_outside_its_window_a_sweep_prints_the_next_opening_and_exits(tiny, tmp_path):
    sweep = Sweep(tiny, tmp_path, window="03:00-04:00")
    outcome = sweep.session(1)
    assert outcome.is_paused
    assert "budget.window=03:00-04:00 opens Fri 02 Jan 03:00" in sweep.shown.getvalue()
    assert not sweep.store.root.exists()


def test_a_sweep_that_cannot_start_sends_a_notification(tiny, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "sweeper.sweep.session_recorder.send", lambda _settings, title, text: sent.append((title, text))
    )
    sweep = Sweep([*tiny, "notify.urls=[json://localhost]", "notify.when=failure"], tmp_path)
    sweep.overrides = [o for o in sweep.overrides if "train_rows" not in o] + ["dataset.files.labels=[no,such]"]
    with pytest.raises(Exception, match="label"):
        sweep.session(1)
    assert [title for title, _ in sent] == ["Sweep tiny could not start"]


def test_notification_urls_are_neither_stored_nor_logged(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("sweeper.sweep.session_recorder.send", lambda *_: None)
    sweep = Sweep([*tiny, "notify.urls=[json://hunter2/token]", "budget.trials=1"], tmp_path)
    sweep.session(1)
    assert json.loads((sweep.store.root / "sweep.json").read_text())["settings"]["notify"]["urls"] == ["json://***"]
    for path in sweep.store.root.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in sweep.shown.getvalue()
