"""Every display of a study mentions a cap on its training rows, and what is cut from them."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from sweeper.analysis.report import write_reports
from sweeper.display.progress import study_progress
from sweeper.display.tables import final_table, progress_table
from sweeper.figures.tally import TrialTally
from sweeper.figures.training_rows import capped_rows, cut_rows, length_sentence, proposal, proposed_cap
from sweeper.track.mlflow_view import experiment_note
from sweeper.types import CutRows
from tests.builders import make_rows_ref, make_study, make_sweep, make_trial

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


def cut_study(**changes):
    cut = {
        "train": CutRows(rows=12, tokens=1500, all_tokens=100_000),
        "validation": CutRows(rows=3, tokens=9, all_tokens=40_000),
    }
    return make_study(rows_ref=make_rows_ref(max_length=192), cut=cut, **changes)


def test_what_is_cut_is_told_by_split():
    assert cut_rows(cut_study()) == "12 rows cut at 192 tokens"
    assert length_sentence(cut_study()) == (
        "Rows have at most 192 tokens; cut to that: 12 of 1,000 train rows (1.5 % of their tokens), "
        "3 of 400 validation rows (under 0.1 % of their tokens)."
    )
    whole = make_study(rows_ref=make_rows_ref(max_length=192))
    assert cut_rows(whole) == ""
    assert length_sentence(whole) == "Rows have at most 192 tokens; cut to that: none."
    assert cut_rows(make_study()) == length_sentence(make_study()) == ""  # of an earlier version


@pytest.mark.parametrize(
    ("num_rows", "available", "cap"),
    [
        (52_000, 52_000, 5000),
        (10_000, 10_000, 2000),
        (9999, 9999, 0),  # not five times as short
        (34_000, 34_000, 3000),
        (1_000_000, 1_000_000, 100_000),
        (52_000, 60_000, 0),  # capped already
        (1000, 1000, 0),
        (52_000, 0, 5000),
    ],
)
def test_a_cap_is_proposed_where_trials_would_be_much_shorter(num_rows, available, cap):
    study = make_study(num_rows={"train": num_rows, "validation": 400}, num_available=available)
    assert proposed_cap(study) == cap
    assert bool(proposal(study)) is bool(cap)


def test_tables_reports_and_mlflow_tell_what_is_cut_and_what_would_save_time(tmp_path):
    study = cut_study(num_available=52_000, num_rows={"train": 52_000, "validation": 400})
    store = make_sweep(tmp_path / "mine", [(study, [make_trial(0, 0.9)])])
    paths = write_reports(store)
    cap = "With train_rows=5000, trials would be about 10 times as short"
    for name in ("report.md", "report.html"):
        text = paths[name].read_text()
        assert "12 of 52,000 train rows (1.5 % of their tokens)" in text
        assert f"Every trial trains on all 52,000 rows. {cap}" in text
    assert "Rows have at most 192 tokens" in experiment_note(study, "mine", "link")
    progress = study_progress(study, TrialTally(study, []), budget=4, wall_s=9.0, default="peft_default")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(final_table([progress]))
    assert "12 rows cut at 192 tokens" in console.export_text()
    best = json.loads(paths["best.json"].read_text())["studies"][0]
    assert best["max_length"] == 192
    assert best["cut"]["validation"] == {"rows": 3, "tokens": 9, "all_tokens": 40_000}
    assert store.read_study(study.name) == study
