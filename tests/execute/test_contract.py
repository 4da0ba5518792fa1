"""What every executor guarantees to the controller."""

from __future__ import annotations

import pytest

from sweeper.config.settings import ExecutorSettings
from sweeper.execute import make_executor
from sweeper.execute.base import AdaptersScored, ScoreAdapters, StudyOpened, WorkerReady
from sweeper.execute.inline import InlineExecutor
from sweeper.execute.process import ProcessExecutor
from sweeper.types import ChunkReport, ChunkRequest
from tests.builders import make_opening, make_spec
from tests.execute.echo import factory

WAIT_S = 60


@pytest.fixture(params=["inline", "process"])
def executor(request, tmp_path):
    made = InlineExecutor(factory(), 2) if request.param == "inline" else ProcessExecutor(factory(), 2, logs=tmp_path)
    yield made
    made.stop()


def replies(executor, num_replies):
    """The next replies, by worker, in the order in which they come."""
    found = []
    while len(found) < num_replies:
        ready = executor.wait(WAIT_S)
        assert ready, "no worker answers"
        found += [(handle.index, handle.receive()) for handle in ready]
    return found


def test_every_worker_reports_that_it_is_ready(executor):
    handles = executor.start()
    assert [handle.index for handle in handles] == [0, 1]
    ready = dict(replies(executor, 2))
    assert {index: reply.notes[:2] for index, reply in ready.items()} == {
        0: ("hello", "index=0"),
        1: ("hello", "index=1"),
    }
    assert all(isinstance(reply, WorkerReady) for reply in ready.values())


def test_workers_that_are_already_started_are_not_started_again(executor):
    ahead = executor.start()
    assert executor.start() == ahead
    assert [index for index, _ in sorted(replies(executor, 2))] == [0, 1]
    assert executor.wait(0.0) == []


def test_requests_are_answered_by_the_worker_that_was_asked(executor):
    _, second = executor.start()
    replies(executor, 2)
    second.send(make_opening("trec"))
    assert replies(executor, 1) == [(1, StudyOpened(references={"trec": {"answered": 1.0}}))]
    second.send(ChunkRequest())
    assert replies(executor, 1) == [(1, ChunkReport(elapsed_s=2.0))]
    second.send(ScoreAdapters(split="test", adapters={7: (make_spec(7), {"x": b"rows"})}))
    assert replies(executor, 1) == [(1, AdaptersScored(outcomes={7: b"rows"}))]


def test_waiting_returns_nothing_when_no_request_was_sent(executor):
    executor.start()
    replies(executor, 2)
    assert list(executor.wait(0.01)) == []


def test_a_restarted_worker_is_new_and_has_the_same_index(executor):
    first, _ = executor.start()
    replies(executor, 2)
    first.send(make_opening("trec"))
    replies(executor, 1)
    fresh = executor.restart(first)
    assert fresh.index == first.index
    assert isinstance(replies(executor, 1)[0][1], WorkerReady)
    fresh.send(make_opening("trec"))
    assert replies(executor, 1)[0][1].references == {"trec": {"answered": 1.0}}


def test_a_retired_worker_is_never_returned_again(executor):
    first, second = executor.start()
    replies(executor, 2)
    executor.retire(first)
    second.send(ChunkRequest())
    assert [index for index, _ in replies(executor, 1)] == [1]
    assert list(executor.wait(0.01)) == []


def test_stopping_twice_or_before_the_start_is_no_error(executor):
    executor.stop()
    executor.start()
    executor.stop()
    executor.stop()


@pytest.mark.parametrize(("name", "kind"), [("inline", InlineExecutor), ("process", ProcessExecutor)])
def test_the_executor_is_found_by_its_name(name, kind, tmp_path):
    settings = ExecutorSettings(name=name, device="cpu")
    assert isinstance(make_executor(settings, factory(), logs=tmp_path), kind)
