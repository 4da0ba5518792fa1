"""Sessions in the report: predicted and actual end, in the time zone of the sweep."""

from __future__ import annotations

from sweeper.analysis.report import write_reports
from sweeper.analysis.sessions import session_rows
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import Prediction, SessionLog, SessionRecord, StudyTally
from tests.builders import make_study, make_sweep, make_trial

SESSION = SessionRecord(
    number=1,
    begun_at="2026-01-01T21:00:00+00:00",
    saved_at="2026-01-02T05:58:00+00:00",
    ended_at="2026-01-02T05:58:00+00:00",
    reason="budget.window=22:00-07:00 closes at 07:00",
    device_s=9000.0,
    after={"trec-minilm-lora": StudyTally(states={"complete": 4, "running": 2})},
    predictions=(
        Prediction(at="2026-01-01T21:05:00+00:00", ends_at="2026-01-02T05:28:00+00:00"),
        Prediction(at="2026-01-01T21:10:00+00:00", ends_at="2026-01-02T06:00:00+00:00"),
    ),
)


def sweep_with(tmp_path, *records):
    store = make_sweep(tmp_path / "mine", [(make_study(), [make_trial(0, 0.8)])])
    for record in records:
        path = SessionLog(store.root).path(record.number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(to_bytes(record))
    return store


def test_the_first_prediction_is_compared_with_the_end(tmp_path):
    [row] = session_rows(sweep_with(tmp_path, SESSION), {"budget": {"time_zone": "Europe/Berlin"}})
    assert (row.started, row.ended) == ("2026-01-01 22:00", "2026-01-02 06:58")
    assert (row.num_trials, row.device_h) == (4, 2.5)
    assert (row.predicted, row.error_s) == ("2026-01-02 06:28 (at 2026-01-01 22:05)", 1800.0)


def test_a_killed_session_has_no_prediction_error(tmp_path):
    killed = SessionRecord(
        number=2, begun_at=SESSION.begun_at, saved_at=SESSION.saved_at, predictions=SESSION.predictions
    )
    [row] = session_rows(sweep_with(tmp_path, killed), {"budget": {"time_zone": "UTC"}})
    assert (row.ended, row.num_trials, row.error_s) == ("2026-01-02 05:58 or later", 0, None)
    assert row.reason == "killed, or still running"


def test_the_report_has_a_row_for_each_session(tmp_path):
    text = write_reports(sweep_with(tmp_path, SESSION))["report.md"].read_text()
    [line] = [line for line in text.splitlines() if line.startswith("| 1 | 2026")]
    assert line.endswith("| 30 min 00 s later |")
    assert "budget.window=22:00-07:00 closes at 07:00 | 4 | 2.50 |" in line


def test_without_sessions_the_report_has_no_section_for_them(tmp_path):
    assert "## Sessions" not in write_reports(sweep_with(tmp_path))["report.md"].read_text()
