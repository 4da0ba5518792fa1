"""Every display of a study mentions a cap on its training rows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeper.analysis.report import write_reports
from sweeper.display.progress import study_progress
from sweeper.display.tables import final_table, progress_table
from sweeper.figures.tally import TrialTally
from sweeper.figures.training_rows import capped_rows
from sweeper.track.mlflow_view import experiment_note
from tests.builders import make_study, make_sweep, make_trial

CAPPED = "1,000 of 50,000 rows"


@pytest.mark.parametrize(
    ("num_available", "text"), [(50_000, CAPPED), (1001, "1,000 of 1,001 rows"), (1000, ""), (0, "")]
)
def test_only_a_cap_is_mentioned(num_available, text):
    assert capped_rows(make_study(num_available=num_available)) == text


@pytest.mark.parametrize("table", [progress_table, final_table])
def test_tables_mention_the_cap(table):
    study = make_study(num_available=50_000)
    tally = TrialTally(study, [make_trial(0, 0.9)])
    progress = study_progress(study, tally, budget=4, wall_s=9.0, default="peft_default")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table([progress]))
    assert CAPPED in console.export_text()


@pytest.mark.parametrize(("num_available", "is_capped"), [(50_000, True), (1000, False)])
def test_report_and_mlflow_mention_the_cap(tmp_path, num_available, is_capped):
    study = make_study(num_available=num_available)
    report = write_reports(make_sweep(tmp_path / "mine", [(study, [make_trial(0, 0.9)])]))["report.md"].read_text()
    for text in (report, experiment_note(study, "mine", "link")):
        assert (CAPPED in text) is is_capped
        assert ("train_rows" in text) is is_capped
