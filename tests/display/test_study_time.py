"""The final table and the report show the same time for the same study."""

from __future__ import annotations

import io

from rich.console import Console

from sweeper.analysis.report import write_reports
from sweeper.display.progress import progress_from_disk
from sweeper.display.tables import final_table
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.types import TrialState
from tests.builders import make_default, make_study, make_sweep, make_trial


def at(clock_time):
    return f"2026-11-22T{clock_time}+00:00"


def test_two_sessions_with_a_break_take_the_same_time_on_screen_and_in_the_report(tmp_path):
    trials = [
        make_default(0.8, started_at=at("10:00:10.000"), finished_at=at("10:01:00.500")),
        make_trial(1, 0.9, started_at=at("10:00:10.000"), finished_at=at("12:00:30.000")),  # continues after the break
        make_trial(2, state=TrialState.RUNNING, started_at=at("12:00:20.000")),
    ]
    store = make_sweep(tmp_path / "mine", [(make_study(), trials)])
    for number, (begin, end) in enumerate([("10:00:00", "10:01:30"), ("12:00:00", "12:00:50")], 1):
        record = SessionRecord(number=number, begun_at=at(begin), saved_at=at(end), ended_at=at(end))
        path = SessionLog(store.root).path(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(to_bytes(record))

    console = Console(width=120, record=True, file=io.StringIO())
    [progress] = progress_from_disk(store, budget=10)
    console.print(final_table([progress]))
    report = write_reports(store)["report.md"].read_text()

    assert progress.wall_s == 80 + 50
    assert " 2:10 " in console.export_text()
    assert "| 2 min 10 s |" in report
    assert progress.trials_per_hour == 3600 * 2 / 130
