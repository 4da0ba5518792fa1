"""The benchmarks: the arithmetic of their tables from recorded rows; their driver and peer script on tiny models."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, TrainingArguments

from benchmarks import checkpoints, configuration, confirmations, controller, long_run, machine_speed
from benchmarks.arithmetic import (
    LinearShape,
    best_evaluation_so_far,
    best_so_far,
    forward_and_backward_flops,
    median_ratio,
    paired_difference,
    product_flops,
    table,
    time_to_reach,
    trials_per_hour,
)
from benchmarks.commands import Finished, PssSampler, _StoreWatch, run_command, run_peer
from benchmarks.configuration import HEAD_RATIO, compose_equal_work
from benchmarks.context import Context, Sizes
from benchmarks.drive import Driver
from benchmarks.inputs import load_inputs
from benchmarks.operators import KINDS, OperatorTimes, kind_of
from benchmarks.peers import optuna_trainer
from benchmarks.plots import plot_time_to_score
from benchmarks.record import Results
from benchmarks.report import render_report
from benchmarks.sections import (
    equal_work,
    language_model,
    layout,
    limit,
    make_sweep,
    memory,
    parity,
    profile,
    throughput,
    time_to_score,
)
from sweeper.analysis.report import write_reports
from sweeper.config.space import Dimension, Scale
from tests.builders import make_confirmed_sweep
from tests.doubles import save_tiny_bert, write_rows
from tests.e2e.conftest import overrides_of
from tests.train.tiny import no_peft_deprecation

ROOT = Path(__file__).parents[1]


def trial(begun_s, ended_s, *, process=0, accuracy=0.5, state="complete"):
    return {"begun_s": begun_s, "ended_s": ended_s, "process": process, "accuracy": accuracy, "state": state}


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(f"| {start}"))


def test_rate_leaves_out_what_is_before_the_first_and_after_the_last_trial():
    assert trials_per_hour([trial(100, 110), trial(110, 120)], by_process=True) == pytest.approx(360)


def test_rates_of_processes_are_added_so_that_an_idle_one_costs_nothing():
    trials = [trial(0, 10, process=1), trial(0, 40, process=2)]
    assert trials_per_hour(trials, by_process=True) == pytest.approx(360 + 90)
    assert trials_per_hour(trials, by_process=False) == pytest.approx(2 * 90)


def test_ratio_is_the_median_of_paired_ratios():
    assert median_ratio([10, 30, 20], [5, 5, 5]) == (4, 2, 6)


def test_curve_holds_improvements_of_complete_trials_in_the_order_of_their_end():
    trials = [
        trial(0, 30, accuracy=0.9),
        trial(0, 10, accuracy=0.6),
        trial(0, 20, accuracy=0.95, state="pruned"),
        trial(0, 25, accuracy=0.6),
    ]
    assert best_so_far(trials) == [(10, 0.6), (30, 0.9)]


def test_a_target_that_is_never_reached_takes_infinitely_long():
    curve = [(10.0, 0.6), (30.0, 0.9)]
    assert time_to_reach(curve, 0.9) == 30
    assert time_to_reach(curve, 0.91) == math.inf


def test_interval_of_paired_differences_is_that_of_students_t():
    found = paired_difference([0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.2, 0.4])
    assert found.median == pytest.approx(0.05)
    half = 3.182446 * found.deviation / 2
    assert found.mean == pytest.approx(0.05)
    assert found.deviation == pytest.approx(math.sqrt(0.01 / 3))
    assert (found.low, found.high) == (pytest.approx(0.05 - half), pytest.approx(0.05 + half))


def test_frozen_product_costs_as_much_backward_unless_nothing_below_is_trained():
    first, later = LinearShape(3, 5, False), LinearShape(3, 5, True)
    assert product_flops(first, tokens=7) == 2 * 3 * 5 * 7
    assert product_flops(later, tokens=7) == 2 * 2 * 3 * 5 * 7


def test_counted_operations_by_hand():
    layers = [LinearShape(3, 5, False), LinearShape(5, 3, True), LinearShape(3, 4, True, first_token_only=True)]
    num_rows, tokens, squares, rank = 2, 2 + 4, 2 * 2 + 4 * 4, 2
    frozen = (2 * 15 + 4 * 15) * tokens + 4 * 12 * num_rows
    lora = (2 * rank * (3 * 8 - 3) + 2 * rank * 3 * 8) * tokens + 2 * rank * 3 * 7 * num_rows
    attention = 12 * 3 * (2 * squares + tokens)  # two whole blocks, and one query a row in the last
    counted = forward_and_backward_flops(layers, [2, 4], rank=rank, num_blocks=3, width=3)
    assert counted == frozen + lora + attention


def test_language_models_are_compared_with_their_peers():
    rows = [
        {"what": "time", "contender": "sweeper", "trials_per_hour": 100.0, "trials": [1, 2]},
        {"what": "time", "contender": "tuned", "trials_per_hour": 25.0, "trials": [1]},
        *(
            {"what": "memory", "contender": name, "lanes": 4, "peak_bytes": size * 2**20}
            for name, size in {"worker": 1000, "sweep": 1200, "default": 4000}.items()
        ),
    ]
    shown = language_model.render(rows)
    assert line_of(shown, "the same, tuned").endswith("| 1 | 144 | 4 |")
    assert line_of(shown, "4 processes of the default script").endswith("| 4000 | 4 |")
    assert language_model.render(rows[:3]) == "Not complete."


def test_table_shows_three_digits_and_never():
    assert table(["a", "b"], [[1.23456, math.inf]]).splitlines()[-1] == "| 1.23 | never |"


def test_only_the_newest_run_is_rendered_and_none_is_lost(tmp_path):
    Results(tmp_path, "2026-01-01T00:00:00Z").append("memory", {"what": "old"})
    results = Results(tmp_path, "2026-01-02T00:00:00Z")
    results.append("memory", {"what": "new"})
    assert [row["what"] for row in results.latest("memory")] == ["new"]
    assert [row["what"] for row in results.all("memory")] == ["old", "new"]


def equal_work_row(contender, seconds, *, count, wall_s, repetition=0):
    trials = [trial(10 + i * seconds, 10 + (i + 1) * seconds) for i in range(count)]
    return {
        "run": "r",
        "contender": contender,
        "repetition": repetition,
        "dataset": "trec",
        "wall_s": wall_s,
        "trials": trials,
    }


def test_equal_work_includes_start_up_in_24_trials():
    rows = [
        equal_work_row("sweeper", 5, count=4, wall_s=35),  # 15 s of start and end, 5 s a trial
        equal_work_row("default", 60, count=2, wall_s=140),  # 20 s, 60 s
        equal_work_row("tuned", 25, count=2, wall_s=70),
        equal_work_row("ray", 25, count=2, wall_s=70),
    ]
    text = equal_work.render(rows)
    assert "**12.0** (12.0 to 12.0)" in line_of(text, "Optuna")
    assert line_of(text, "Optuna").endswith(f"| {20 + 24 * 60} | {(20 + 24 * 60) / (15 + 24 * 5):.3g} |")


def test_equal_work_compares_complete_repetitions_only():
    rows = [equal_work_row(name, 5, count=2, wall_s=30) for name in equal_work.NAMES]
    rows += [equal_work_row("sweeper", 50, count=2, wall_s=30, repetition=1)]
    assert "1 repetition(s)" in equal_work.render(rows)


def score_row(contender, trials, *, dataset="trec", seed=0, wall_s=100):
    return {
        "run": "r",
        "contender": contender,
        "dataset": dataset,
        "seed": seed,
        "form": "standard",
        "validation_rows": 400,
        "wall_s": wall_s,
        "trials": trials,
    }


def scored(*scores, state="complete"):
    return trial(0, scores[-1][0], accuracy=scores[-1][1], state=state) | {"scores": list(scores)}


def test_curve_of_evaluations_counts_pruned_trials_too():
    trials = [scored((10, 0.6), (30, 0.9)), scored((20, 0.95), state="pruned"), scored((25, 0.7), (40, 0.96))]
    assert best_evaluation_so_far(trials) == [(10, 0.6), (20, 0.95), (40, 0.96)]


def test_target_is_one_standard_error_below_the_tuned_scripts_best_complete_trial():
    tuned = [scored((60, 0.5), (90, 0.84)), scored((70, 0.99), state="pruned")]
    (found,) = time_to_score.outcomes([score_row("tuned", tuned)])
    assert found.target == pytest.approx(0.84 - math.sqrt(0.84 * 0.16 / 400))
    assert (found.best, found.complete_s, found.evaluation_s) == (0.84, 90, 70)


def test_speedup_is_the_ratio_of_the_times_to_the_same_target():
    rows = [
        score_row("tuned", [scored((60, 0.5), (90, 0.84))]),
        score_row("sweeper", [scored((15, 0.83), (30, 0.83)), scored((50, 0.85))]),
    ]
    ours = next(found for found in time_to_score.outcomes(rows) if found.contender == "sweeper")
    assert (ours.complete_s, ours.evaluation_s) == (30, 15)
    assert (ours.complete_ratio, ours.evaluation_ratio) == (3, 6)


def test_run_that_does_not_reach_the_target_counts_as_a_speedup_of_zero_in_the_median():
    rows = [score_row("tuned", [scored((90, 0.84))], seed=seed) for seed in range(3)]
    rows += [score_row("sweeper", [scored((at, score))], seed=seed) for seed, at, score in RUNS]
    line = line_of(time_to_score.render(rows), "sweeper | 3")
    assert line == "| sweeper | 3 | 2 | **2.0 (0.0 to 3.0)** | 2.0 (0.0 to 3.0) |"
    assert "| 0.8217 | 45 | 45 | 100 | 2.0 |" in line_of(time_to_score.render(rows), "trec | sweeper")


RUNS = [(0, 30, 0.83), (1, 10, 0.5), (2, 45, 0.9)]
"""Seed, seconds and score: speedups of 3, 0 and 2."""


def test_dataset_and_seed_without_a_complete_trial_of_the_tuned_script_has_no_target():
    rows = [score_row("tuned", [scored((70, 0.99), state="pruned")]), score_row("sweeper", [scored((30, 0.83))])]
    assert time_to_score.outcomes(rows) == []
    assert time_to_score.render(rows) == "Not complete."


def make_context(tmp_path, **sizes):
    return Context(
        results=Results(tmp_path / "results", "2026-01-01T00:00:00Z"),
        cache=tmp_path / "cache",
        scratch=tmp_path / "scratch",
        sizes=Sizes(**sizes),
    )


def test_resumed_time_to_score_measures_what_is_left_in_an_order_that_rotates_with_the_seed(tmp_path, monkeypatch):
    measured = []

    def contend(_, dataset, seed, contender):
        measured.append((dataset, seed, contender))
        return Finished(wall_s=9.0, trials=[scored((5, 0.5))])

    monkeypatch.setattr(time_to_score, "_contend", contend)
    monkeypatch.setattr(time_to_score, "record_speed", lambda *_: None)
    monkeypatch.setattr(Context, "prepare", lambda *_: {"num_rows": {"validation": 400}})
    sizes = {"score_datasets": ("trec", "tweets"), "score_contenders": ("tuned", "sweeper")}
    time_to_score.run(make_context(tmp_path, score_seeds=(0,), **sizes))
    assert measured == [(d, 0, c) for d in ("trec", "tweets") for c in ("tuned", "sweeper")]
    measured.clear()
    time_to_score.run(make_context(tmp_path, score_seeds=(0, 1), **sizes))
    assert measured == [(d, 1, c) for d in ("trec", "tweets") for c in ("sweeper", "tuned")]


def test_only_sections_that_skip_their_rows_can_be_resumed(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--resume", "--results", str(tmp_path)]
    done = subprocess.run([*command, "limit"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "--resume continues one of the sections time_to_score, make_sweep" in done.stderr


def test_resumed_run_keeps_its_name_and_lists_every_commit(tmp_path):
    results = Results(tmp_path, "2026-01-01T00:00:00Z")
    for commit in ("a" * 40, "b" * 40, "b" * 40):
        results.append("runs", {"note": "long", "git": {"commit": commit, "dirty": False}})
    assert results.machine_of(results.run)["commits"] == ["a" * 10, "b" * 10]


def test_curves_are_drawn_for_every_dataset(tmp_path):
    rows = [score_row("tuned", [scored((5, 0.5), (9, 0.8))], dataset=name) for name in ("a", "b", "c", "d")]
    rows += [score_row("sweeper", [scored((5, 0.5), state="pruned")], dataset="a")]
    plot_time_to_score(rows, time_to_score.NAMES, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def speed_row(section, bfloat16, float32):
    rates = {"bfloat16": bfloat16 * 1e9, "float32": float32 * 1e9}
    return {"section": section, "cpu": "EPYC", "mhz": 2596.1, "product_flops": rates}


def test_every_table_has_the_speed_of_the_machine_before_and_after_its_own_section(tmp_path):
    results = Results(tmp_path, "2026-01-01T00:00:00Z")
    results.append("memory", {"what": "worker"})
    for row in (speed_row("memory", 410, 100), speed_row("memory", 421, 100), speed_row("limit", 200, 50)):
        results.append("machine_speed", row)
    Results(tmp_path, "2026-01-02T00:00:00Z").append("machine_speed", speed_row("memory", 300, 70))
    wanted = "EPYC at 2596 MHz; products of 2048 x 2048 on one thread: bfloat16 410 to 421, float32 100 GFLOP/s."
    assert wanted in render_report(results)


def test_rate_of_products_is_counted_in_operations_per_second(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(machine_speed.time, "perf_counter", lambda: float(next(clock)))
    found = machine_speed.measure_speed(0.0, size=4)
    assert set(found["product_flops"].values()) == {2 * 4**3}


def test_options_leave_out_the_overrides_of_other_datasets(tmp_path):
    overrides = ("dataset.trec.train_rows=64", "dataset.trec_fine.train_rows=32", "train.epochs=1")
    context = make_context(tmp_path, overrides=overrides)
    assert context.overrides_for("trec") == ["dataset.trec.train_rows=64", "train.epochs=1"]
    options = context.equal_work_options("budget.trials=2")
    assert options.index("train.epochs=3") < options.index("train.epochs=1") < options.index("budget.trials=2")
    assert "train.epochs=3" not in context.ours_options()


def test_equal_work_does_not_follow_the_defaults_of_epochs_and_head(tmp_path):
    config = compose_equal_work("trec", tmp_path)
    assert (config.settings.train.epochs, config.settings.train.head_lr_ratio) == (3, 1)
    assert HEAD_RATIO not in config.space.keys
    assert compose_equal_work("trec", tmp_path, ["train.epochs=1"]).settings.train.epochs == 1


def test_a_variant_is_a_dataset_like_those_of_conf(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "variants", lambda _: {"tweets": {"name": "tweets", "path": "x.jsonl"}})
    assert configuration.variant_dir("trec", tmp_path) is None
    config = compose_equal_work("tweets", tmp_path, ["dataset.tweets.train_rows=7"])
    assert (config.settings.dataset["tweets"].path, config.settings.dataset["tweets"].train_rows) == ("x.jsonl", 7)
    context = make_context(tmp_path)
    assert context.ours_options(dataset="tweets")[:2] == ["--config-dir", str(tmp_path / "cache" / "variants" / "conf")]


def test_the_script_searches_the_heads_learning_rate_only_if_asked_to():
    ratio = Dimension(key=HEAD_RATIO, scale=Scale.LOG, text="", low=2, high=50)
    suggested = {"log2_r": 3, "alpha_ratio": 1.0, "dropout": 0.1, "learning_rate": 1e-3, "head_lr_ratio": 20.0}
    drawn = optuna.trial.FixedTrial(suggested)
    assert HEAD_RATIO not in optuna_trainer._suggest(drawn, None)
    assert optuna_trainer._suggest(drawn, ratio)[HEAD_RATIO] == 20.0
    low, high = (drawn.distributions["head_lr_ratio"].low, drawn.distributions["head_lr_ratio"].high)
    assert (low, high) == (2, 50)


def test_the_head_has_its_own_learning_rate_and_every_parameter_one_group(tmp_path):
    pytest.importorskip("accelerate")
    trial_module = pytest.importorskip("benchmarks.peers.trial")
    base = AutoModelForSequenceClassification.from_pretrained(save_tiny_bert(tmp_path / "model"), num_labels=3)
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["classifier"])
    with no_peft_deprecation():
        model = get_peft_model(base, lora)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, weight_decay=0.1, use_cpu=True, report_to="none"
    )
    optimizer = trial_module.HeadRatioTrainer(head_lr_ratio=20, model=model, args=arguments).create_optimizer()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)
    for name, parameter in trained.items():
        assert rates[id(parameter)] == pytest.approx(2e-2 if "modules_to_save" in name else 1e-3), name


def trial_record(number, *, state, scores, phase="search"):
    measurements = [
        {"chunk": chunk, "metrics": {"validation/accuracy": score} if score else {"train/loss": 1.0}}
        for chunk, score in enumerate(scores, start=1)
    ]
    spec = {"study": "s", "number": number, "phase": phase, "params": {}}
    return {"spec": spec, "state": state, "measurements": measurements}


def test_trial_is_timed_by_the_changes_of_its_file(tmp_path):
    path = tmp_path / "bench" / "studies" / "s" / "trials" / "0000" / "trial.json"
    path.parent.mkdir(parents=True)
    watch = _StoreWatch(tmp_path)
    for at, state, scores in ((3, "running", []), (7, "running", [0.5]), (8, "running", [0.5, None]), DONE, LATER):
        path.write_text(json.dumps(trial_record(0, state=state, scores=scores)))
        os.utime(path, (1000 + at, 1000 + at))
        watch.look()
    (found,) = watch.trials(1000)
    assert (found["begun_s"], found["ended_s"], found["state"], found["accuracy"]) == (3, 12, "complete", 0.8)
    assert found["scores"] == [(7, 0.5), (12, 0.8)]


DONE = (12, "complete", [0.5, None, 0.8])
LATER = (99, "complete", [0.5, None, 0.8])
"""A rewrite of the record after the trial has ended."""


def test_trials_outside_the_search_are_not_counted(tmp_path):
    path = tmp_path / "bench" / "studies" / "s" / "trials" / "0000" / "trial.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(trial_record(0, state="complete", scores=[0.9], phase="reference")))
    watch = _StoreWatch(tmp_path)
    watch.look()
    assert watch.trials(0) == []


def test_first_adapter_counts_from_the_first_trial_and_leaves_out_pruned_ones():
    def record(state, started, finished):
        moment = "2026-01-01T00:00:{:06.3f}+00:00"
        return {"state": state, "started_at": moment.format(started), "finished_at": moment.format(finished)}

    records = [record("complete", 10.5, 40), record("pruned", 10, 20), record("complete", 11, 30.25)]
    trials = [scored((25, 0.4), (38, 0.5)) | {"begun_s": 9}, scored((21, 0.3)) | {"begun_s": 8}]
    found = make_sweep.milestones(records, trials)
    assert found == {"training_s": 8, "first_score_s": 13, "first_adapter_s": 20.25}


def sweep_row(checkout, repetition, wall_s, test):
    times = {"wall_s": wall_s, "training_s": 10.0, "first_score_s": 5.0, "first_adapter_s": 20.0}
    studies = [{"dataset": "trec", "validation": 0.9, "test": test}]
    commit = {"commit": checkout * 6}
    return {"checkout": checkout, "repetition": repetition, "commit": commit, "studies": studies, **times}


def test_sweeps_are_compared_in_pairs_and_by_held_out_rows():
    rows = [sweep_row("older", 0, 400, 0.85), sweep_row("present", 0, 200, 0.86)]
    rows += [sweep_row("present", 1, 100, 0.88), sweep_row("older", 1, 400, 0.85)]
    shown = make_sweep.render(rows)
    assert line_of(shown, "whole command") == "| whole command | 150 | 400 | **3.00** (2.00 to 4.00) |"
    assert line_of(shown, "trec") == "| trec | 0.9000 | 0.8700 | 0.9000 | 0.8500 |"
    assert "older checkout" not in make_sweep.render(rows[1:3])


def test_memory_ratios_are_to_the_worker_and_to_the_sweep():
    sizes = {"worker": 100, "sweep": 200, "default": 800}
    rows = [{"what": what, "trials": 8, "peak_bytes": size * 2**20, "num_processes": 8} for what, size in sizes.items()]
    assert line_of(memory.render(rows), "8 processes of the default").endswith("| 800 | 8 | 4 |")


def test_throughput_ratio_is_to_one_lane_of_the_same_dataset():
    rows = [
        {"dataset": "trec", "workers": workers, "threads": 1, "lanes": lanes, "tokens_per_step": 1.0}
        | {"rows_per_s": rate, "tokens_per_s": 1.0}
        for workers, lanes, rate in ((1, 1, 50.0), (2, 8, 200.0))
    ]
    assert line_of(throughput.render(rows), "trec | 2 x 1").endswith("| 4 |")


def test_limit_adds_the_rates_of_the_workers_and_takes_the_mean_of_before_and_after():
    products = [{"flops": 10.0, "elapsed_s": 1.0}] * 2
    slower = [{"flops": 6.0, "elapsed_s": 1.0}] * 2
    loop = {"chunks": [{"flops_needed": 4.0, "flops_performed": 5.0, "elapsed_s": 1.0}]}
    row = limit._row(products, [loop, loop], slower)
    assert row == {"limit": 16.0, "needed": 8.0, "performed": 10.0}
    assert "50.0%" in limit.render([{**row, "dataset": "trec", "lanes": 8, "dtype": "bfloat16"}])


@pytest.mark.parametrize(
    ("name", "shapes", "is_integer", "kind"),
    [
        ("mm", [(128, 384), (384, 1536)], False, "frozen"),
        ("_linear_pointwise", [(128, 384), (1536, 384), (1536,)], False, "frozen"),
        ("bmm", [(8, 160, 384), (8, 384, 16)], False, "adapters"),
        ("baddbmm_", [(8, 160, 384), (8, 160, 16), (8, 16, 384)], False, "adapters"),
        ("bmm", [(1536, 13, 32), (1536, 32, 16)], False, "attention"),
        ("sub_", [(8, 4096), (8, 1)], True, "dropout"),
        ("sub_", [(8, 4096), (8, 1)], False, "other"),
        ("_fused_adamw_", [], False, "optimizer"),
        ("gelu_backward", [(8, 4), (8, 4)], False, "elementwise"),
        ("view", [(8, 4)], False, "other"),
    ],
)
def test_operators_are_classified_by_name_and_shape(name, shapes, is_integer, kind):
    assert kind_of(name, shapes, num_lanes=8, is_integer=is_integer) == kind


def test_operators_of_the_backward_pass_are_counted_too():
    weight = torch.randn(4, 4, requires_grad=True)
    with OperatorTimes(1) as times:
        torch.mm(torch.randn(2, 4), weight).sum().backward()
    assert times.calls["frozen"] == 2
    assert times.seconds["frozen"] > 0


def test_profile_leaves_what_no_operator_accounts_for():
    kinds = {kind: {"seconds": 1.0, "calls": 10} for kind in KINDS}
    row = {"dataset": "trec", "ranks": [1, 8], "elapsed_s": len(KINDS) + 3.0, "rows": 100, "kinds": kinds}
    text = profile.render([row])
    assert line_of(text, "products with frozen") == "| products with frozen weights | 10.0% | 10 | 10 |"
    assert line_of(text, "what no operator") == "| what no operator accounts for | 30.0% | 30 |  |"


def test_parity_shows_the_mean_differences():
    rows = [
        {
            "packed": 0.8 + i / 100,
            "packed_other_seed": 0.8,
            "stock": 0.79 + i / 100,
            "packed_model_dropout": 0.82 + i / 100,
        }
        for i in range(4)
    ]
    assert "+0.0100" in line_of(parity.render(rows), "packed - stock")
    assert "+0.0200" in line_of(parity.render(rows), "packed with model.dropout=0.1 - packed")
    assert "+0.0300" in line_of(parity.render(rows), "packed with model.dropout=0.1 - stock")


def test_layouts_are_compared_with_one_process():
    rows = [
        {"contender": "tuned", "processes": 1, "threads": 2, "trials": [trial(0, 30), trial(30, 60)]},
        {"contender": "tuned", "processes": 2, "threads": 1, "trials": [trial(0, 40), trial(0, 40, process=1)]},
    ]
    assert line_of(layout.render(rows), "tuned | 2").endswith("| 1.5 |")


def test_the_error_of_a_failing_command_has_its_output(tmp_path):
    with pytest.raises(RuntimeError, match="no such thing"):
        run_command(["-c", "raise SystemExit('no such thing')"], scratch=tmp_path)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="PSS is Linux's")
def test_peak_memory_counts_the_processes_that_are_kept():
    every, none = PssSampler(), PssSampler(keep=lambda _: False)
    every.sample(os.getpid())
    none.sample(os.getpid())
    assert every.peak_bytes > 2**20
    assert every.num_processes >= 1
    assert none.peak_bytes == 0


def test_report_is_rendered_from_recorded_rows_alone(tmp_path):
    rows = [{"what": w, "trials": 8, "peak_bytes": 2**20, "num_processes": 1} for w in ("worker", "sweep", "default")]
    for row in rows:
        Results(tmp_path, "2026-01-01T00:00:00Z").append("memory", row)
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--render", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "## Peak memory" in done.stdout
    assert (tmp_path / "bench.md").read_text() == done.stdout
    assert json.loads((tmp_path / "memory.jsonl").read_text().splitlines()[0])["what"] == "worker"


def test_the_tuned_script_uses_the_faster_layout(tmp_path):
    results = Results(tmp_path, "2026-01-01T00:00:00Z")
    assert "--tuned" in layout.tuned_layout(results)
    slow, fast = [trial(0, 30), trial(30, 60)], [trial(0, 20), trial(20, 40)]
    results.append("layout", {"contender": "tuned", "processes": 1, "threads": 5, "trials": fast})
    results.append("layout", {"contender": "tuned", "processes": 5, "threads": 1, "trials": slow})
    assert layout.tuned_layout(results) == ["--tuned", "--processes", "1", "--threads", "5"]


CONFIGURATIONS = [
    {"lora.r": rank, "lora.alpha_ratio": 1.0, "lora.dropout": 0.1, "train.learning_rate": 1e-3} for rank in (2, 4)
]


@pytest.fixture
def tiny(tmp_path):
    """Overrides of a tiny model and dataset."""
    overrides = overrides_of(
        tmp_path, write_rows(tmp_path / "rows.jsonl"), save_tiny_bert(tmp_path / "model"), tmp_path / "cache"
    )
    return [text for text in overrides if not text.startswith(("dataset=", "cache="))]


@pytest.mark.slow
def test_the_driver_trains_measures_and_scores(tmp_path, tiny):
    opening = {"dataset": "files", "cache": str(tmp_path / "cache"), "threads": 1, "overrides": tiny}
    with Driver(opening, tmp_path / "drive") as driver:
        driver.send({"do": "train", "lanes": 2, "chunks": 2})
        chunks = driver.receive()["chunks"]
        driver.send({"do": "profile", "ranks": [2, 8]})
        kinds = driver.receive()["kinds"]
        driver.send({"do": "trials", "configurations": CONFIGURATIONS, "seed": 0, "lanes": 2})
        scores = driver.receive()["scores"]
    assert [chunk["rows"] for chunk in chunks] == [64, 64]
    assert all(0 < chunk["flops_needed"] <= chunk["flops_performed"] for chunk in chunks)
    assert kinds["frozen"]["calls"] > 0
    assert len(scores) == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_peer_script_trains_the_shared_configurations(tmp_path, tiny):
    pytest.importorskip("accelerate")
    options = ["--dataset", "files", "--cache", str(tmp_path / "cache"), "--trials", "2", "--shared", "0", "1"]
    inputs = load_inputs("files", tmp_path / "cache", [*tiny, "train.chunks_per_epoch=0"])
    assert 0 < inputs.rows_per_epoch <= len(inputs.rows.train)
    finished = run_peer("optuna_trainer", [*options, "--threads", "1", "--set", *tiny], scratch=tmp_path / "peer")
    assert [row["state"] for row in finished.trials] == ["complete", "complete"]


@pytest.mark.slow
def test_both_ways_to_save_large_lanes_are_measured_in_turn(tmp_path):
    rows = checkpoints.measure(tmp_path, mb=0.1, lanes=2, rounds=2)
    assert [(row["chunk"], row["way"]) for row in rows] == [(n, way) for n in (1, 2) for way in ("pipe", "file")]
    assert all(0 < row["worker_s"] <= row["reply_s"] <= row["total_s"] for row in rows)
    kept = [path.stat().st_size for path in tmp_path.rglob("checkpoint-2.safetensors")]
    assert len(kept) == 4
    assert all(100_000 <= size < 101_000 for size in kept)
    assert len(checkpoints.describe(rows).splitlines()) == 2 + 2


def test_the_cost_of_the_controller_is_measured_in_parts(tmp_path):
    parts = controller.measure(tmp_path, trials=40, workers=2, lanes=3)
    assert 3 <= len(parts) <= 10  # several trials may end at once, and skip a part
    assert [part.trials for part in parts] == sorted(part.trials for part in parts)
    assert parts[-1].trials == 40
    assert all(part.cpu_ms_per_trial > 0 and part.rss_mb > 0 for part in parts)
    assert any(part.rung_wait_ms_p99 > 0 for part in parts)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_run_opens_no_file_and_no_thread_for_each_trial(tmp_path):
    samples = long_run.measure(tmp_path, trials=40, tracker="none")
    late = samples[len(samples) // 2 :]
    for name in ("controller_files", "worker_files", "controller_threads", "worker_threads"):
        assert max(getattr(sample, name) for sample in late) - getattr(late[0], name) <= 1, name
    assert late[-1].controller_mb - late[0].controller_mb < 8
    assert late[-1].worker_mb - late[0].worker_mb < 8
    assert long_run.slopes(samples)["store_kb_per_trial"] < 24


def test_growth_is_given_per_hundred_trials_and_compared_with_bounds():
    base = dict.fromkeys(long_run.Sample.__dataclass_fields__, 0)
    samples = [
        long_run.Sample(**{**base, "trials": n, "controller_mb": 100 + 0.08 * n, "store_kb": 10 * n})
        for n in range(0, 500, 20)
    ]
    found = long_run.slopes(samples)
    assert found["controller_mb"] == pytest.approx(8)
    assert found["store_kb_per_trial"] == pytest.approx(10)
    assert long_run.too_steep(found).startswith("controller_mb 8.00 > ")
    assert long_run.too_steep({**found, "controller_mb": 1.0}) == ""


def test_confirmations_are_read_from_best_json_and_counted_once(tmp_path, monkeypatch):
    store = make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}, test=["peft_default", "trial 9"])
    store.write_sweep({**store.read_sweep(), "settings": {**store.read_sweep()["settings"], "seed": 3}})
    write_reports(store)
    monkeypatch.setattr("sys.argv", ["confirmations", str(store.root), "--results", str(tmp_path)])
    confirmations.main()
    confirmations.main()
    text = (tmp_path / "confirmations.md").read_text()
    assert "| trec | 3 | 400 | trial 9 | +0.1000 [" in text
    # Both score 0.9 on the test rows: more than expected of one, less than expected of the other.
    assert "0 of 2 test scores lie in the range" in text
