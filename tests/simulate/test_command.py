"""The command: budgets, their summary, the conclusion, and mistakes."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from sweeper.cli import main
from sweeper.config.compose import compose
from sweeper.simulate.plan import budgets_of, conclusion, simulate_budget
from sweeper.simulate.study import simulate_study
from sweeper.store.trials import TrialStore
from tests.builders import make_study
from tests.simulate.recorded import SPACE, FormulaResponse, write_table
from tests.simulate.test_table import study_trial

RANDOM = ["search=random", "budget.trials=8", "executor.lanes=4"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `sweeper simulate` in this process; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweeper", "simulate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call


def rows(out):
    """Return the cells of the printed table's rows."""
    return [line.split() for line in out.splitlines() if re.match(r" *\d+ +\d\.\d{3} ", line)]


def test_a_table_shows_what_each_budget_finds(run, tmp_path):
    write_table(tmp_path / "toy.parquet")
    code, out, _ = run("toy.parquet", *RANDOM, "--runs", "3")
    assert code == 0
    assert "toy, from 112 recorded trials: random, successive_halving, 1 worker, 3 runs of each budget" in out
    found = rows(out)
    assert [row[0] for row in found] == ["2", "4", "8", "16"]
    assert all(0.25 <= float(row[1]) <= 0.92 for row in found)
    assert [row[-1].endswith("%") for row in found] == [True] * 4
    assert re.search(r"8 trials end within 0\.\d{3} of the best of toy in 95% of 3 runs; 8 more gain ", out)


def test_more_workers_take_less_time(run, tmp_path):
    write_table(tmp_path / "toy.parquet")
    search = ["toy.parquet", *RANDOM, "search.pruner=none", "--runs", "1"]
    (one, two) = (rows(run(*search, f"executor.workers={workers}")[1])[-1] for workers in (1, 2))
    assert one[5] == two[5] == one[6]
    seconds = [60 * int(row[6].split(":")[0]) + int(row[6].split(":")[1]) for row in (one, two)]
    assert seconds[1] < 0.65 * seconds[0]  # one worker ends a little before the other


def test_a_sweep_of_ones_own_is_simulated_study_by_study(run, tmp_path):
    store = TrialStore(tmp_path / "outputs" / "mine")
    names = [f"{name}-minilm-lora" for name in ("trec", "sms_spam")]
    store.write_sweep({"studies": names})
    for name in names:
        store.write_study(make_study(name=name, space=SPACE.texts))
        for number in range(14):
            trial = study_trial(number)
            store.write_trial(dataclasses.replace(trial, spec=dataclasses.replace(trial.spec, study=name)))
    code, out, _ = run("mine", *RANDOM, "--runs", "1")
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines() if "recorded trials" in line] == names
    _, out, _ = run(f"mine/{names[1]}", *RANDOM, "--runs", "1")
    assert names[0] not in out
    code, _, err = run("mine/tweets", *RANDOM)
    assert (code, "has no study 'tweets'. Its studies: trec-minilm-lora, sms_spam-minilm-lora." in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.parquet"], "table=missing.parquet: there is no such file"),
        (["mine"], "there is no sweep 'mine'"),
        (["toy.parquet", "dataset=trec"], "dataset=trec: a simulation does not read this key"),
        (["toy.parquet", "lora.r=choice(4,8)"], "lora.r=choice(4,8): a simulation does not read this key"),
        (
            ["toy.parquet", "budget.window=22:00-07:00"],
            "budget.window=22:00-07:00: a simulation does not read this key",
        ),
        (["toy.parquet", "search=tpa"], "Did you mean 'tpe'?"),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(run, tmp_path, arguments, message):
    write_table(tmp_path / "toy.parquet", settings=16, repeated=0)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(("trials", "budgets"), [(24, [6, 12, 24, 48]), (2, [1, 2, 4]), (1, [1, 2])])
def test_budgets_are_a_quarter_half_all_and_twice(trials, budgets):
    assert budgets_of(trials) == budgets


def test_a_summary_is_that_of_the_simulated_studies():
    settings = compose(RANDOM).settings
    response = FormulaResponse()
    found = simulate_budget(response, settings, 8, num_runs=4)
    studies = [
        simulate_study(response, settings.search, seed=seed, num_trials=8, lanes=4, recipe_lanes=2) for seed in range(4)
    ]
    regrets = sorted(study.regret_at() for study in studies)
    assert found.regret == pytest.approx(sum(regrets) / 4)
    assert found.most_regret == pytest.approx(regrets[-1])
    assert found.score == pytest.approx(0.9 - found.regret)
    assert found.device_s == pytest.approx(sum(study.device_s for study in studies) / 4)
    assert found.saved_share == pytest.approx(sum(study.saved_share for study in studies) / 4)


def test_device_hours_end_a_search_early():
    settings = compose([*RANDOM, "budget.device_hours=0.01"]).settings
    found = simulate_budget(FormulaResponse(), settings, 100, num_runs=1)
    assert found.device_s < 45.0


def outcome(trials, regret, most_regret):
    settings = compose(RANDOM).settings
    found = simulate_budget(FormulaResponse(), settings, 2, num_runs=1)
    return dataclasses.replace(found, trials=trials, num_runs=20, regret=regret, most_regret=most_regret)


def test_the_conclusion_names_what_more_trials_gain():
    outcomes = [outcome(12, 0.004, 0.01), outcome(24, 0.002, 0.0042), outcome(48, 0.0008, 0.001)]
    text = "24 trials end within 0.004 of the best of trec in 95% of 20 runs; 24 more gain 0.001 on average."
    assert conclusion(outcomes, 24, "trec") == text
    assert conclusion(outcomes, 48, "trec").endswith("in 95% of 20 runs.")
    same = [*outcomes[:2], outcome(48, 0.0019, 0.004)]
    assert conclusion(same, 24, "trec").endswith("24 more gain nothing.")


def test_the_page_shows_a_command_that_exists():
    page = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text()
    assert "sweeper simulate benchmarks/tables/trec.parquet" in page
