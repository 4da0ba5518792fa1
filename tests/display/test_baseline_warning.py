"""Where no adapter is clearly better than the best baseline, every output says so first, in the same sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.analysis.report import write_reports
from sweeper.config.settings import BudgetSettings
from sweeper.display.final_view import final_view
from sweeper.display.progress import progress_from_disk
from sweeper.display.summary import summary_text
from sweeper.display.tables import progress_table
from sweeper.store.sessions import SessionRecord
from tests.builders import make_default, make_study, make_sweep, make_trial

BELOW = "classes47: no adapter is better than the probe (0.623 vs. 0.647 ± 0.024): the probe scores higher; use it."
AS_GOOD = (
    "sms_spam: no adapter is clearly better than the probe (0.983 vs. 0.980 ± 0.007): a logistic regression on frozen "
    "features does as well."
)
SESSION = SessionRecord(
    number=1,
    begun_at="2026-01-01T21:00:00+00:00",
    saved_at="2026-01-02T05:58:00+00:00",
    ended_at="2026-01-02T05:58:00+00:00",
    reason="nothing is left to do",
)


def study_of(dataset, probe):
    return make_study(dataset, references={"frozen_probe": {"validation/accuracy": probe}})


@pytest.fixture
def sweep(tmp_path):
    """A sweep of three datasets: as found in the wild, level with the probe, and clearly above it."""
    return make_sweep(
        tmp_path / "mine",
        [
            (study_of("trec", 0.767), [make_default(0.8), make_trial(1, 0.9)]),
            (study_of("classes47", 0.647), [make_default(0.48), make_trial(1, 0.623)]),
            (study_of("sms_spam", 0.98), [make_default(0.97), make_trial(1, 0.983)]),
        ],
    )


def drawn(shown, **options):
    console = Console(file=io.StringIO(), width=200, **options)
    console.print(shown)
    return console.file.getvalue()


def test_the_terminal_says_so_above_the_final_table(sweep):
    lines = drawn(final_view(progress_from_disk(sweep, budget=4), sweep_dir=sweep.root)).splitlines()
    assert lines[:2] == [f"! {BELOW}", f"! {AS_GOOD}"]


def test_the_summary_says_so_first(sweep):
    progress = progress_from_disk(sweep, budget=4)
    text = summary_text(SESSION, progress, failures={}, budget=BudgetSettings(), device_s=0.0, earlier=[])
    assert text.splitlines()[:3] == [f"- {BELOW}", f"- {AS_GOOD}", ""]


def test_the_report_says_so_above_its_table_and_in_each_section(sweep):
    write_reports(sweep)
    report = sweep.paths.report.read_text()
    assert report.startswith(f"# Sweep mine\n\n- **{BELOW}**\n- **{AS_GOOD}**\n\n| dataset |")
    for dataset, sentence in ("classes47", BELOW), ("sms_spam", AS_GOOD):
        section = report[report.index(f"## {dataset}") :]
        assert section.index(sentence) < section.index("The best is trial")
    section = report[report.index("## trec") : report.index("## classes47")]
    assert "no adapter" not in section


def test_best_json_says_so_before_the_best_trial(sweep):
    write_reports(sweep)
    trec, classes47, sms = json.loads(sweep.paths.best.read_text())["studies"]
    assert [study["beats_baselines"] for study in (trec, classes47, sms)] == [True, False, False]
    assert [study["baseline_warning"] for study in (trec, classes47, sms)] == [None, BELOW, AS_GOOD]
    assert classes47["gain_over_best_baseline"]["gain"] == pytest.approx(-0.024)
    keys = list(classes47)
    assert keys.index("baseline_warning") < keys.index("baselines") < keys.index("best")


def test_the_live_table_marks_a_score_that_beats_no_baseline(sweep):
    text = drawn(progress_table(progress_from_disk(sweep, budget=4)), force_terminal=True, color_system="standard")
    green, yellow = "\x1b[1;32m", "\x1b[1;33m"
    assert f"{green}0.900" in text
    assert f"{yellow}0.623" in text
    assert f"{yellow}0.983" in text


def test_a_sweep_that_beats_every_baseline_has_no_warning(tmp_path):
    store = make_sweep(tmp_path / "mine", [(study_of("trec", 0.767), [make_default(0.8), make_trial(1, 0.9)])])
    write_reports(store)
    texts = [store.paths.report.read_text(), drawn(final_view(progress_from_disk(store, budget=4), sweep_dir=Path()))]
    assert all("no adapter" not in text for text in texts)
