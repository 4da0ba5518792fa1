"""The thread and its queue, with a writer that a test controls."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from sweeper.track.background import BackgroundTracker, Pace
from sweeper.types import TrialState
from tests.doubles import wait_until
from tests.track.builders import complete, study, trial

AT_ONCE = Pace(interval_s=0, retry_s=0.01)
LONG_S = 10.0


class Recorder:
    """Records what is sent; fails a given number of times; blocks while `free` is not set."""

    def __init__(self):
        self.sent, self.forgotten, self.paused = [], [], 0
        self.failures: dict[int, int] = {}
        self.tries = self.report_tries = 0
        self.reports, self.refuses_reports = [], False
        self.free, self.entered = threading.Event(), threading.Event()
        self.free.set()

    def show(self, study, trial, files):  # noqa: ARG002  the protocol's name
        self.tries += 1
        self.entered.set()
        assert self.free.wait(LONG_S)
        number = trial.spec.number
        if self.failures.get(number, 0):
            self.failures[number] -= 1
            raise ConnectionError("refused by http://me:secret@host:1")
        self.sent.append((number, trial, tuple(files)))

    def keep_report(self, study, files):
        self.report_tries += 1
        assert self.free.wait(LONG_S)
        if self.refuses_reports:
            raise ConnectionError("refused")
        self.reports.append((study.name, tuple(files)))

    def forget(self, study):
        self.forgotten.append(study)

    def pause(self):
        self.paused += 1


@pytest.fixture
def writer():
    return Recorder()


@pytest.fixture
def tracker(writer):
    tracker = BackgroundTracker(lambda: writer, where="MLflow", pace=AT_ONCE)
    yield tracker
    writer.free.set()
    tracker.close(LONG_S)


def test_closing_sends_everything_that_was_shown(tracker, writer):
    tracker.show(study(), complete(1))
    tracker.show(study(), complete(2))
    assert tracker.close(LONG_S) == {"shown": 2, "missed": 0}
    assert sorted(number for number, *_ in writer.sent) == [1, 2]


def test_only_the_latest_record_of_a_trial_waits_for_a_slow_server(tracker, writer):
    writer.free.clear()
    tracker.show(study(), trial(chunks=1))
    assert writer.entered.wait(LONG_S)
    for chunks in range(2, 6):
        tracker.show(study(), trial(chunks=chunks))
    writer.free.set()
    tracker.close(LONG_S)
    assert [sent.chunks_done for _, sent, _ in writer.sent] == [1, 5]


def test_a_finished_record_and_its_files_survive_a_late_record_of_the_running_trial(tracker, writer):
    writer.free.clear()
    tracker.show(study(), trial(1))
    assert writer.entered.wait(LONG_S)
    tracker.show(study(), complete(7), [Path("adapter")])
    tracker.show(study(), trial(7, chunks=5))
    writer.free.set()
    tracker.close(LONG_S)
    assert [(sent.state, files) for number, sent, files in writer.sent if number == 7] == [
        (TrialState.COMPLETE, (Path("adapter"),))
    ]


def test_a_later_call_without_files_does_not_drop_those_of_an_earlier_one(tracker, writer):
    writer.free.clear()
    tracker.show(study(), trial(1))
    assert writer.entered.wait(LONG_S)
    tracker.show(study(), complete(), [Path("adapter")])
    tracker.show(study(), complete())
    writer.free.set()
    tracker.close(LONG_S)
    assert writer.sent[-1][2] == (Path("adapter"),)


def test_a_failed_record_is_sent_again_after_reading_what_the_server_has(tracker, writer):
    writer.failures = {7: 2}
    tracker.show(study(), complete(), [Path("adapter")])
    wait_until(lambda: writer.sent)
    assert writer.forgotten == ["trec-minilm-lora"] * 2
    assert writer.sent[0][2] == (Path("adapter"),)
    assert tracker.close(LONG_S) == {"shown": 1, "missed": 0}


def test_trials_that_always_fail_do_not_keep_others_waiting(tracker, writer):
    writer.failures = {1: 10**6, 2: 10**6, 3: 10**6}
    for number in range(1, 6):
        tracker.show(study(), complete(number))
    wait_until(lambda: len(writer.sent) == 2)
    assert tracker.close(LONG_S) == {"shown": 2, "missed": 3}


def test_a_dead_server_is_not_called_for_every_waiting_trial(writer):
    tracker = BackgroundTracker(lambda: writer, where="MLflow", pace=Pace(interval_s=0, retry_s=LONG_S))
    writer.failures = dict.fromkeys(range(50), 10**6)
    writer.free.clear()
    for number in range(50):
        tracker.show(study(), complete(number))
    writer.free.set()
    assert tracker.close(LONG_S) == {"shown": 0, "missed": 50}
    assert writer.tries <= 5


def test_creating_the_writer_is_retried(writer):
    tries = []

    def make():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("no route")
        return writer

    tracker = BackgroundTracker(make, where="MLflow", pace=AT_ONCE)
    tracker.show(study(), complete())
    wait_until(lambda: writer.sent)
    assert tracker.close(LONG_S)["missed"] == 0


def test_closing_waits_no_longer_than_its_timeout(writer):
    tracker = BackgroundTracker(lambda: writer, where="MLflow", pace=AT_ONCE)
    writer.free.clear()
    tracker.show(study(), complete())
    start = time.monotonic()
    assert tracker.close(0.05) == {"shown": 0, "missed": 1}
    assert time.monotonic() - start < 2
    writer.free.set()


def test_running_trials_are_marked_as_waiting_at_the_end(tracker, writer):
    tracker.show(study(), trial(chunks=1))
    tracker.close(LONG_S)
    assert writer.paused == 1


def test_nothing_is_opened_when_nothing_is_shown():
    tracker = BackgroundTracker(lambda: pytest.fail("opened"), where="MLflow", pace=AT_ONCE)
    assert tracker.close(LONG_S) == {"shown": 0, "missed": 0}


def test_what_is_shown_after_closing_counts_as_missed(tracker):
    tracker.close(LONG_S)
    tracker.show(study(), complete())
    assert tracker.close(LONG_S) == {"shown": 0, "missed": 1}


def test_failures_are_logged_once_a_minute_with_their_cause_and_without_the_password(writer, caplog):
    now = [0.0]
    where = "MLflow at http://me:secret@host:1"
    tracker = BackgroundTracker(lambda: writer, where=where, pace=AT_ONCE, clock=lambda: now[0])
    writer.failures = {7: 10**6}
    with caplog.at_level(logging.DEBUG):
        tracker.show(study(), complete())
        wait_until(lambda: writer.tries > 5)
        assert len(warnings_of(caplog)) == 1
        now[0] = 61.0
        wait_until(lambda: len(warnings_of(caplog)) == 2)
        tracker.close(LONG_S)
    assert "ConnectionError: refused" in warnings_of(caplog)[0]
    assert "http://me:***@host:1" in caplog.text
    assert "secret" not in caplog.text


def test_the_problem_is_reported_until_the_view_is_up_to_date(tracker, writer):
    writer.failures = {7: 3}
    assert tracker.problem == ""
    writer.free.clear()
    tracker.show(study(), complete(7))
    writer.free.set()
    wait_until(lambda: writer.tries >= 1 and tracker.problem)
    assert tracker.problem == "MLflow: ConnectionError: refused by http://me:***@host:1"
    wait_until(lambda: not tracker.problem)
    assert [number for number, *_ in writer.sent] == [7]


REPORT = [Path("report.html")]
STUDIES = [study(), study(name="other")]


def test_the_report_is_sent_after_closing_for_each_study(tracker, writer, caplog):
    tracker.show(study(), complete())
    tracker.close(LONG_S)
    tracker.keep_report(STUDIES, REPORT, LONG_S)
    assert writer.reports == [("trec-minilm-lora", tuple(REPORT)), ("other", tuple(REPORT))]
    assert caplog.text == ""


def test_a_report_that_is_refused_is_logged_and_raises_nothing(tracker, writer, caplog):
    tracker.show(study(), complete())
    tracker.close(LONG_S)
    writer.refuses_reports = True
    tracker.keep_report(STUDIES, REPORT, LONG_S)
    assert "ConnectionError: refused" in caplog.text
    assert "the latest report is not in MLflow" in caplog.text


def test_a_report_takes_no_longer_than_its_timeout(tracker, writer, caplog):
    tracker.show(study(), complete())
    tracker.close(LONG_S)
    writer.free.clear()
    start = time.monotonic()
    tracker.keep_report(STUDIES, REPORT, 0.05)
    assert time.monotonic() - start < 2
    assert "the latest report is not in MLflow" in caplog.text


def test_a_report_is_not_tried_if_trials_could_not_be_sent(tracker, writer):
    writer.failures = {7: 10**6}
    tracker.show(study(), complete())
    tracker.close(LONG_S)
    tracker.keep_report(STUDIES, REPORT, LONG_S)
    assert writer.report_tries == 0


def test_a_report_is_not_tried_while_the_thread_still_sends(tracker, writer):
    writer.free.clear()
    tracker.show(study(), complete())
    assert writer.entered.wait(LONG_S)
    tracker.close(0.01)
    tracker.keep_report(STUDIES, REPORT, LONG_S)
    assert writer.report_tries == 0


def test_a_report_without_trials_opens_nothing():
    tracker = BackgroundTracker(lambda: pytest.fail("opened"), where="MLflow", pace=AT_ONCE)
    tracker.close(LONG_S)
    tracker.keep_report(STUDIES, REPORT, LONG_S)


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "search continues" in record.getMessage()]
