"""Failures in the output of `sweeper status`."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeper.display.failure_table import cause_counts, failure_view
from sweeper.store.health import Health, HealthFile, read_health
from sweeper.store.trials import TrialStore
from sweeper.types import Failure, FailureKind, TrialState
from tests.builders import make_infeasible, make_study, make_sweep, make_trial

LOST = Failure(kind=FailureKind.LOST_WORKER, message="worker 1 was killed by SIGKILL\nand more")


def shown(store):
    console = Console(width=100, record=True, file=io.StringIO())
    view = failure_view(store)
    if view is not None:
        console.print(view)
    return " ".join(console.export_text().split())


@pytest.fixture
def sweep(tmp_path):
    def make(trials):
        make_sweep(tmp_path / "mine", [(make_study(), trials)])
        return TrialStore(tmp_path / "mine")

    return make


def test_a_sweep_without_failures_shows_nothing(sweep):
    assert failure_view(sweep([make_trial(0, 0.9)])) is None


def test_failed_trials_are_shown_with_cause_and_remedy(sweep):
    failed = make_trial(3, state=TrialState.FAILED, chunks=0, failure=LOST, num_retries=2)
    text = shown(sweep([make_trial(0, 0.9), failed, make_infeasible(4)]))
    for part in ("3 lost_worker 2 worker 1 was killed by SIGKILL", "lower executor.lanes", "4 out_of_memory"):
        assert part in text
    assert "and more" not in text


def test_causes_of_trials_that_continued_are_counted_too():
    trials = [
        make_trial(0, 0.9, failure=LOST),
        make_trial(1, state=TrialState.FAILED, failure=LOST),
        make_infeasible(2),
        make_infeasible(3),
        make_trial(4, 0.9),
    ]
    expected = "2 infeasible (out_of_memory), 1 failed (lost_worker), 1 continued after lost_worker"
    assert cause_counts(trials) == expected


def test_problems_outside_the_trials_are_shown(sweep):
    store = sweep([make_trial(0, 0.9)])
    HealthFile(store.root).write(Health(devices={"1": "it died"}, studies={"toy": "no hope"}, tracker="refused"))
    text = shown(store)
    for part in ("Worker 1 was disabled: it died", "toy was aborted: no hope", "The tracker is behind: refused"):
        assert part in text


def test_health_is_written_only_when_it_changes(tmp_path):
    file = HealthFile(tmp_path)
    file.write(Health())
    assert not list(tmp_path.iterdir())
    file.write(Health(tracker="locked"))
    assert read_health(tmp_path) == Health(tracker="locked")
    (tmp_path / "health.json").unlink()
    file.write(Health(tracker="locked"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '{"moon": 1}', "3"])
def test_health_that_cannot_be_read_is_none(tmp_path, content):
    (tmp_path / "health.json").write_text(content)
    assert read_health(tmp_path) == Health()


def test_a_message_cannot_control_the_terminal(sweep):
    evil = Failure(kind=FailureKind.ERROR, message="[red]a\x1b[2J\x1b]52;c;eA==\x07b")
    text = shown(sweep([make_trial(0, state=TrialState.FAILED, chunks=0, failure=evil)]))
    assert "[red]a[2J]52;c;eA==b" in text
