"""Records of sessions, their summaries, notifications, and waiting for a window."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sweeper.config.settings import BudgetSettings, NotifySettings, SweepSettings
from sweeper.display.progress import study_progress
from sweeper.display.summary import failures_since, session_line, summary_text, summary_title
from sweeper.figures.tally import TrialTally
from sweeper.store.ledger import Ledger
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import Prediction, SessionLog, SessionRecord, StudyTally
from sweeper.store.trials import TrialStore
from sweeper.sweep.session_recorder import SessionRecorder
from sweeper.sweep.window_wait import wait_for_window
from sweeper.types import Cost, Failure, FailureKind, TrialState
from tests.builders import make_default, make_study, make_trial
from tests.doubles import FakeClock

OVERNIGHT = BudgetSettings(window="22:00-07:00", time_zone="Europe/Berlin", device_hours=10)
SESSION = SessionRecord(
    number=3,
    begun_at="2026-01-01T21:00:00+00:00",
    saved_at="2026-01-02T05:58:00+00:00",
    ended_at="2026-01-02T05:58:00+00:00",
    reason="budget.window=22:00-07:00 closes at 07:00",
    device_s=9000.0,
    before={"trec-minilm-lora": StudyTally(states={"complete": 2, "running": 1}, best=0.8, best_trial=1)},
    after={"trec-minilm-lora": StudyTally(states={"complete": 4, "pruned": 1}, best=0.9, best_trial=4)},
    predictions=(Prediction(at="2026-01-01T21:05:00+00:00", ends_at="2026-01-02T05:28:00+00:00"),),
)
LATER = "2026-01-02T01:00:00+00:00"


def progress_of(trials, *, budget=10):
    study = make_study()
    return study_progress(study, TrialTally(study, trials), budget=budget, wall_s=90.0, default="peft_default")


def text_of(session=SESSION, *, trials=None, earlier=(), failures=None, budget=OVERNIGHT):
    progress = [progress_of([make_default(0.8), make_trial(4, 0.9)] if trials is None else trials)]
    return summary_text(
        session, progress, failures=failures or {}, budget=budget, device_s=7 * 3600.0, earlier=list(earlier)
    )


def failed(number, kind, state, *, finished_at=LATER, message="no luck"):
    failure = Failure(kind=kind, message=message)
    return make_trial(number, state=state, failure=failure, finished_at=finished_at)


# The text.


def test_the_summary_has_local_times_and_the_cost_of_the_session():
    assert text_of().startswith("Thu 01 Jan 22:00 to Fri 02 Jan 06:58: 3 trials done, 2.50 device hours.\n")
    assert "Reason for the end: budget.window=22:00-07:00 closes at 07:00." in text_of()


def test_the_summary_has_the_best_score_and_its_change():
    before = replace(SESSION, number=2, after=SESSION.before)
    assert "- trec: 2/10 trials; best 0.900 ± 0.015, +0.100 since the last summary (trial 4: " in text_of(
        earlier=[before]
    )


def test_an_equal_best_score_is_called_unchanged():
    assert "best 0.900 ± 0.015, unchanged (trial 4" in text_of(earlier=[replace(SESSION, number=2)])


def test_a_first_session_has_nothing_to_compare_with():
    assert "best 0.900 ± 0.015 (trial 4" in text_of()


def test_a_study_without_a_complete_trial_is_in_the_summary():
    assert "- trec: 0/10 trials; no complete trial yet" in text_of(trials=[])


def test_the_summary_has_the_remaining_budget_and_the_next_window():
    assert "Left in the budget: 8 trials of trec (about 6:00), 3.00 device hours." in text_of()
    assert "Next window: Fri 02 Jan 22:00 (budget.window=22:00-07:00)." in text_of()


def test_a_sweep_that_is_done_has_no_next_window():
    text = text_of(trials=[make_default(0.8)], budget=replace(OVERNIGHT, window="22:00-07:00"))
    assert "Next window" in text
    done = summary_text(
        SESSION, [progress_of([make_default(0.8)], budget=1)], failures={}, budget=OVERNIGHT, device_s=0.0, earlier=[]
    )
    assert "Next window" not in done
    assert "Left in the budget: no trial" in done


def test_the_first_prediction_is_compared_with_the_end():
    line = "Predicted end: Fri 02 Jan 06:28, as predicted Thu 01 Jan 22:05; it ended 30:00 later."
    assert line in text_of()


def test_killed_sessions_are_counted():
    ended = replace(SESSION, number=1, after=SESSION.before)
    killed = replace(SESSION, number=2, ended_at="", reason="")
    assert "Since the last summary, 1 session was killed, with 3 trials done." in text_of(earlier=[ended, killed])
    assert "was killed" not in text_of(earlier=[killed, ended])


def test_failures_are_listed_with_cause_trials_and_outcome():
    trials = [
        failed(3, FailureKind.OUT_OF_MEMORY, TrialState.INFEASIBLE, message="CUDA out of memory"),
        failed(5, FailureKind.LOST_WORKER, TrialState.COMPLETE, message="worker 0 was killed\nby SIGKILL"),
        failed(6, FailureKind.LOST_WORKER, TrialState.FAILED),
        make_trial(7, 0.5),
    ]
    text = text_of(failures={"trec": failures_since(trials, SESSION.begun_at)})
    assert (
        "- trec: the worker's process died (lost_worker), trials 5, 6; 1 of them continued: worker 0 was killed" in text
    )
    assert "(out_of_memory), trial 3: CUDA out of memory" in text


def test_failures_of_earlier_sessions_are_left_out():
    old = failed(3, FailureKind.ERROR, TrialState.FAILED, finished_at="2026-01-01T20:59:59+00:00")
    assert failures_since([old], SESSION.begun_at) == []


def test_long_messages_and_many_trials_are_cut():
    trials = [failed(n, FailureKind.ERROR, TrialState.FAILED, message="x" * 1000) for n in range(20)]
    text = text_of(failures={"trec": failures_since(trials, SESSION.begun_at)})
    [line] = [line for line in text.splitlines() if "xx" in line]
    assert "0, 1, 2, 3, 4, 5, 6, 7, ...: " in line
    assert len(line) < 300


def test_the_title_shows_whether_the_session_failed():
    assert summary_title("mine", SESSION) == "Sweep mine: session 3 ended, 3 trials done"
    assert "session 3 failed" in summary_title("mine", replace(SESSION, has_failed=True))


def test_the_line_of_a_running_session_has_its_predicted_end():
    line = session_line(replace(SESSION, ended_at="", reason=""), OVERNIGHT)
    assert line == (
        "Session 3 started Thu 01 Jan 22:00, predicted to end Fri 02 Jan 06:28; last saved Fri 02 Jan 06:58."
    )
    assert session_line(SESSION, OVERNIGHT).startswith("Session 3 ended Fri 02 Jan 06:58: budget.window=")
    assert session_line(replace(SESSION, has_failed=True), OVERNIGHT).startswith("Session 3 failed Fri 02 Jan 06:58: ")


# The files.


def test_a_session_is_read_as_it_was_written(tmp_path):
    sessions = SessionLog(tmp_path)
    sessions.path(3).parent.mkdir()
    sessions.path(3).write_bytes(to_bytes(SESSION))
    assert sessions.read() == [SESSION]
    assert sessions.next_number() == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"number": 1}', "{}", '{"nonsense": 1}'])
def test_a_damaged_session_is_left_out_and_never_overwritten(tmp_path, content):
    sessions = SessionLog(tmp_path)
    sessions.path(1).parent.mkdir()
    sessions.path(1).write_text(content)
    assert sessions.read() == []
    assert sessions.next_number() == 2


# The record.


class Bench:
    """A session whose studies and clock the test controls."""

    def __init__(self, folder, notify, monkeypatch, budget=OVERNIGHT):
        self.clock, self.sent = FakeClock("2026-01-01T21:00+00:00"), []
        self.store = TrialStore(folder / "mine")
        self.store.write_sweep({"settings": {"search": {"recipes": []}}, "provenance": {}})
        self.store.write_study(make_study())
        self.settings = SweepSettings(budget=budget, notify=notify)
        self.ledger = Ledger(self.store.root / "ledger.json", self.clock)
        monkeypatch.setattr("sweeper.sweep.session_recorder.send", lambda _notify, *message: self.sent.append(message))

    def session(self, *, trials=(), error=None, is_bad=False):
        for trial in trials:
            self.store.write_trial(trial)
        recorder = SessionRecorder(self.store, self.settings, self.clock)
        with recorder.notifying(), recorder.recording_errors():
            recorder.start(self.ledger, [progress_of([])])
            self.ledger.charge(Cost(device_s=60.0))
            self.clock.pass_s(600)
            recorder.update([progress_of(trials)], None)
            if error is not None:
                raise error
            recorder.end("all is done", [progress_of(trials)], has_failed=is_bad)
        return recorder


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, NotifySettings(urls=["json://localhost"]), monkeypatch)


def test_a_session_is_recorded_from_its_start_and_a_killed_one_has_no_end(bench):
    with pytest.raises(KeyboardInterrupt):
        bench.session(trials=[make_default(0.8)], error=KeyboardInterrupt())
    [record] = SessionLog(bench.store.root).read()
    assert (record.number, record.ended_at, record.reason, record.num_finished) == (1, "", "", 1)
    assert record.saved_at == "2026-01-01T21:10:00.000+00:00"
    assert bench.sent == []


def test_the_end_of_a_session_is_written_and_sent(bench):
    bench.session(trials=[make_default(0.8)])
    [record] = SessionLog(bench.store.root).read()
    assert (record.ended_at, record.reason, record.device_s) == ("2026-01-01T21:10:00.000+00:00", "all is done", 60.0)
    [(title, text)] = bench.sent
    assert title == "Sweep mine: session 1 ended, 1 trial done"
    for name in ("summary.md", "sessions/0001.md"):
        assert (bench.store.root / name).read_text() == f"# {title}\n\n{text}"


def test_a_clock_that_is_set_back_ends_no_session_before_its_start(bench):
    bench.clock.pass_s = lambda _seconds: bench.clock.set("2025-12-31T12:00+00:00")
    bench.session(trials=[make_default(0.8)])
    [record] = SessionLog(bench.store.root).read()
    assert record.ended_at == record.begun_at == "2026-01-01T21:00:00.000+00:00"


def test_the_progress_is_saved_although_the_clock_was_set_back(bench):
    recorder = SessionRecorder(bench.store, bench.settings, bench.clock)
    recorder.start(bench.ledger, [progress_of([])])
    bench.clock.set("2025-12-31T12:00+00:00")
    recorder.update([progress_of([make_default(0.8)])], None)
    [record] = SessionLog(bench.store.root).read()
    assert record.num_finished == 1


def test_device_hours_are_those_of_the_session(bench):
    bench.session()
    bench.session()
    assert [record.device_s for record in SessionLog(bench.store.root).read()] == [60.0, 60.0]


def test_an_error_is_reported_with_its_message_and_raised(bench):
    with pytest.raises(RuntimeError):
        bench.session(error=RuntimeError("no worker is left"))
    [(title, text)] = bench.sent
    assert title == "Sweep mine: session 1 failed, 0 trials done"
    assert "Reason for the end: no worker is left." in text


def test_an_error_is_reported_even_if_the_store_cannot_be_read(bench):
    def damage():
        bench.store.paths.study_record("trec-minilm-lora").write_text("{")
        bench.store.paths.study_backup("trec-minilm-lora").write_text("{")
        return RuntimeError("all is lost")

    with pytest.raises(RuntimeError, match="all is lost"):
        bench.session(error=damage())
    assert bench.sent == [("Sweep mine: session 1 failed", "all is lost")]


def test_an_error_before_the_start_of_a_session_is_reported(bench):
    recorder = SessionRecorder(bench.store, bench.settings, bench.clock)
    with pytest.raises(RuntimeError), recorder.notifying(), recorder.recording_errors():
        raise RuntimeError("the data is gone")
    assert bench.sent == [("Sweep mine could not start", "the data is gone")]


@pytest.mark.parametrize(
    ("when", "state", "is_sent"),
    [
        ("end", TrialState.COMPLETE, True),
        ("failure", TrialState.COMPLETE, False),
        ("failure", TrialState.FAILED, True),
        ("never", TrialState.FAILED, False),
    ],
)
def test_notify_when_decides_what_is_sent(tmp_path, monkeypatch, when, state, is_sent):
    bench = Bench(tmp_path, NotifySettings(urls=["json://localhost"], when=when), monkeypatch)
    bench.session(trials=[make_trial(0, 0.8, state=state)])
    assert bool(bench.sent) is is_sent


def test_without_a_url_nothing_is_sent(tmp_path, monkeypatch):
    bench = Bench(tmp_path, NotifySettings(), monkeypatch)
    bench.session()
    assert bench.sent == []


def test_files_that_cannot_be_written_do_not_end_a_session(bench, caplog):
    (bench.store.root / "sessions").write_text("in the way")
    (bench.store.root / "summary.md").mkdir()
    bench.session()
    assert len(bench.sent) == 1
    assert sum("was not written" in record.getMessage() for record in caplog.records) >= 3


def test_predictions_are_recorded_at_doubling_intervals(bench):
    recorder = SessionRecorder(bench.store, bench.settings, bench.clock)
    recorder.start(bench.ledger, [progress_of([])])
    for _ in range(2 * 360):
        bench.clock.pass_s(10)
        recorder.update([progress_of([])], bench.clock())
    [record] = SessionLog(bench.store.root).read()
    elapsed = [(FakeClock(p.at)() - FakeClock(record.begun_at)()).total_seconds() for p in record.predictions]
    assert elapsed == [10 * 2**n for n in range(10)]


def test_the_predicted_end_is_shown_with_its_limit(bench):
    recorder = SessionRecorder(bench.store, bench.settings, bench.clock)
    recorder.start(bench.ledger, [])
    assert recorder.prediction_text(None) == ""
    predicted = recorder.prediction_text(FakeClock("2026-01-02T05:00+00:00")())
    assert predicted == "Predicted to end Fri 06:00 (budget.window=22:00-07:00 closes at 07:00)."


def test_the_ledger_is_plain_json(bench):
    bench.session(trials=[make_default(0.8)])
    content = json.loads((bench.store.root / "sessions" / "0001.json").read_text())
    assert content["after"]["trec-minilm-lora"]["states"] == {"complete": 1}


# Waiting.


def waited(budget, begin, *, after=False):
    clock, lines, naps = FakeClock(begin), [], []

    def sleep(seconds):
        naps.append(seconds)
        clock.pass_s(seconds)

    may = wait_for_window(budget, clock, print_line=lines.append, after=after, sleep=sleep)
    return may, clock().isoformat(), lines, naps


def test_an_open_window_is_not_waited_for():
    assert waited(OVERNIGHT, "2026-01-01T21:30+00:00") == (True, "2026-01-01T21:30:00+00:00", [], [])
    assert waited(BudgetSettings(), "2026-01-01T12:00+00:00")[0] is True


def test_for_a_closed_window_the_next_opening_is_printed():
    may, _, lines, naps = waited(OVERNIGHT, "2026-01-01T12:00+00:00")
    assert (may, naps) == (False, [])
    assert lines == [
        "Not started: budget.window=22:00-07:00 opens Thu 01 Jan 22:00. Run the same command again then, or set "
        "budget.wait=true to wait for it."
    ]


def test_waiting_ends_when_the_window_opens_and_sleeps_are_short():
    may, now, lines, naps = waited(replace(OVERNIGHT, wait=True), "2026-01-01T20:50:30+00:00")
    assert (may, now) == (True, "2026-01-01T21:00:00+00:00")
    assert lines == ["Waiting: budget.window=22:00-07:00 opens Thu 01 Jan 22:00."]
    assert max(naps) <= 20


def test_after_a_session_the_next_window_is_awaited_even_if_this_one_is_open():
    assert (
        waited(replace(OVERNIGHT, wait=True), "2026-01-02T05:59:50+00:00", after=True)[1] == "2026-01-02T21:00:00+00:00"
    )


@pytest.mark.parametrize("window", ["", "22:00-07:00"])
def test_a_window_after_the_deadline_is_not_awaited(window):
    budget = BudgetSettings(window=window, deadline="2026-01-01T12:00", time_zone="UTC", wait=True)
    may, _, lines, naps = waited(budget, "2026-01-01T12:30+00:00")
    assert (may, naps) == (False, [])
    assert "No time is left" in lines[0]
