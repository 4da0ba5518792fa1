import io
import json
import re
from html import unescape
from itertools import pairwise

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from sweeper.analysis.best import best_configurations
from sweeper.analysis.frames import trial_frame
from sweeper.analysis.report import write_reports
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.store.trials import TrialStore
from sweeper.types import Failure, FailureKind, Phase, TrialState
from tests.builders import (
    ADAPTER,
    DEFAULT_PARAMS,
    SPACE,
    make_default,
    make_infeasible,
    make_measurement,
    make_study,
    make_sweep,
    make_trial,
)
from tests.report_sweeps import EVIL

TREC = "trec-minilm-lora"


def make_space():
    return SearchSpace(
        (
            Dimension(key="lora.r", scale=Scale.LOG2, text=SPACE["lora.r"], low=1, high=64),
            Dimension(key="lora.alpha_ratio", scale=Scale.LOG, text=SPACE["lora.alpha_ratio"], low=0.25, high=8),
            Dimension(key="lora.dropout", scale=Scale.LINEAR, text=SPACE["lora.dropout"], low=0, high=0.2),
            Dimension(
                key="train.learning_rate", scale=Scale.LOG, text=SPACE["train.learning_rate"], low=1e-4, high=1e-2
            ),
        )
    )


def report_of(tmp_path, trials, *, study=None, **options):
    study = study or make_study()
    store = make_sweep(tmp_path / "mine", [(study, trials)], adapters=options.pop("adapters", ()))
    paths = write_reports(store, **options)
    return paths["report.md"].read_text(), json.loads(paths["best.json"].read_text())["studies"][0]


@pytest.fixture
def trials():
    return [
        make_default(0.80),
        make_trial(1, 0.91, params={"lora.r": 4}),
        make_trial(2, 0.905),
        make_trial(3, 0.7, state=TrialState.PRUNED, chunks=3),
        make_infeasible(4),
        make_trial(5, state=TrialState.RUNNING, chunks=1),
    ]


def test_best_json_contains_the_best_configuration_with_alpha(tmp_path, trials):
    _, study = report_of(tmp_path, trials)
    best = study["best"]
    assert (best["trial"], best["value"], best["num_parameters"]) == (1, 0.91, 9000)
    assert best["params"] == {
        "lora.r": 4, "lora.alpha": 8, "lora.alpha_ratio": 2.0, "lora.dropout": 0.05, "train.learning_rate": 0.00123
    }  # fmt: skip
    assert best["hyperparameters"]["train.learning_rate"] == 0.00123
    assert best["hyperparameters"]["lora.use_rslora"] is False
    assert best["metrics"]["validation/accuracy"] == 0.91


def test_best_json_contains_the_comparisons_of_the_best(tmp_path, trials):
    _, study = report_of(tmp_path, trials)
    assert study["default"]["value"] == 0.80
    assert study["gain_over_default"]["gain"] == pytest.approx(0.11)
    assert study["gain_over_default"]["is_noise"] is False


def test_best_json_counts_trials_and_cost(tmp_path, trials):
    _, study = report_of(tmp_path, trials)
    assert study["trials"] == {"running": 1, "complete": 3, "pruned": 1, "infeasible": 1, "failed": 0}
    assert study["num_trials"] == 6
    assert study["rows_trained"] == 250 * (3 * 12 + 3 + 1)
    assert study["tokens"] == 13 * study["rows_trained"]
    assert study["device_s"] == 0.5 * (3 * 12 + 3 + 1)


def test_references_are_not_counted_as_trials(tmp_path):
    _, study = report_of(tmp_path, [make_trial(0, 0.9), make_default(0.8, 1, phase=Phase.REFERENCE)])
    assert (study["num_trials"], study["num_references"], study["default"]["value"]) == (1, 1, 0.8)


def test_hyperparameters_at_a_bound_are_reported_with_advice(tmp_path):
    trial = make_trial(0, 0.9, params={"lora.r": 64, "lora.dropout": 0.0})
    report, study = report_of(tmp_path, [trial], space=make_space())
    assert study["at_bounds"] == {"lora.r": "high", "lora.dropout": "low"}
    assert re.search(r"`lora\.r` = 64 is at the high end.*widen it", report)
    assert re.search(r"`lora\.dropout` = 0 is at the low end.*the limit of the hyperparameter", report)


def test_the_report_mentions_that_the_best_is_at_no_bound(tmp_path, trials):
    report, study = report_of(tmp_path, trials, space=make_space())
    assert study["at_bounds"] == {}
    assert "No hyperparameter of the best is at a bound" in report


def test_a_best_reference_outside_the_space_has_no_bounds(tmp_path):
    trial = make_trial(0, 0.9, params={"lora.r": 256}, phase=Phase.REFERENCE)
    report, study = report_of(tmp_path, [trial], space=make_space())
    assert study["at_bounds"] is None
    assert "outside the search space" in report


def test_the_numbers_of_the_report_are_those_of_best_json(tmp_path, trials):
    report, study = report_of(tmp_path, trials)
    row = next(line for line in report.splitlines() if line.startswith("| trec |"))
    found = [float(number) for number in re.findall(r"\b\d\.\d{4}\b", row)]
    best, default = study["best"], study["default"]
    expected = [
        best["value"],
        best["standard_error"],
        default["value"],
        default["standard_error"],
        study["baselines"]["frozen_probe"]["value"],
    ]
    assert found == [pytest.approx(value, abs=5e-5) for value in expected]


def test_a_clear_lead_is_not_called_noise(tmp_path, trials):
    report, study = report_of(tmp_path, trials)
    line = report[report.index("- Compared with the default recipe") :]
    assert f"{study['gain_over_default']['gain']:+.4f}" in line
    assert "within the noise" not in line[: line.index("- Compared with the probe")]


def test_a_lead_within_noise_is_called_noise(tmp_path):
    report, study = report_of(tmp_path, [make_default(0.90), make_trial(1, 0.91)])
    line = report[report.index("- Compared with the default recipe") :]
    assert study["gain_over_default"]["is_noise"]
    assert "within the noise" in line[: line.index("- Compared with the probe")]


def test_a_best_below_the_probe_is_called_worse(tmp_path):
    report, _ = report_of(tmp_path, [make_trial(0, 0.5)])
    assert "is **worse** by more than 2 standard errors" in report[report.index("- Compared with the probe") :]


def test_best_json_has_every_baseline_and_whether_the_best_of_them_is_beaten(tmp_path, trials):
    references = {"frozen_probe": {"validation/accuracy": 0.82}, "frozen_probe_head": {"validation/accuracy": 0.84}}
    report, study = report_of(tmp_path, trials, study=make_study(references=references))
    assert (study["best_baseline"], study["beats_baselines"]) == ("frozen_probe_head", True)
    assert study["baseline_warning"] is None
    assert study["gain_over_best_baseline"] == study["baselines"]["frozen_probe_head"]["gain"]
    assert study["gain_over_best_baseline"]["gain"] == pytest.approx(0.07)
    assert {name: found["value"] for name, found in study["baselines"].items()} == {
        "frozen_probe_head": 0.84, "frozen_probe": 0.82
    }  # fmt: skip
    assert "no adapter is" not in report
    assert "0.8400 (probe on the head's input)" in next(x for x in report.splitlines() if x.startswith("| trec |"))
    assert "- Compared with the probe (0.8200)" in report
    assert "- Compared with the probe on the head's input (0.8400)" in report


def test_a_study_without_a_baseline_has_no_answer(tmp_path, trials):
    report, study = report_of(tmp_path, trials, study=make_study(references={}))
    assert (study["best_baseline"], study["beats_baselines"], study["baselines"]) == (None, None, {})
    assert study["gain_over_best_baseline"] is None
    assert "No comparison with a baseline: none was measured" in report
    assert "no adapter is" not in report
    assert "A baseline is" not in report


def test_without_a_complete_trial_no_baseline_is_beaten(tmp_path):
    _, study = report_of(tmp_path, [make_infeasible(0)])
    assert (study["best_baseline"], study["beats_baselines"]) == ("frozen_probe", False)
    assert (study["gain_over_best_baseline"], study["baseline_warning"]) == (None, None)


def make_reference(number, value, **changes):
    origin = changes.pop("origin", "recipe:plain_peft")
    return make_trial(number, value, phase=Phase.REFERENCE, origin=origin, **changes)


def test_every_reference_has_its_score_and_what_the_default_gains_over_it(tmp_path):
    plain = make_reference(9000, 0.5, params=DEFAULT_PARAMS, fixed={"train.weight_decay": 0.1})
    other = make_reference(
        9001, 0.81, origin="recipe:other", params={**DEFAULT_PARAMS, "lora.r": 4, "lora.dropout": 0.2}
    )
    report, study = report_of(tmp_path, [make_default(0.8), make_trial(1, 0.9), plain, other])
    assert [found["recipe"] for found in study["references"]] == ["plain_peft", "other"]
    assert [found["value"] for found in study["references"]] == [0.5, 0.81]
    assert study["references"][0]["differs_from_default"] == {"train.weight_decay": [0.1, 0.0]}
    assert study["references"][0]["gain_of_default"]["gain"] == pytest.approx(0.3)
    lines = [line for line in report.splitlines() if line.startswith("- Reference")]
    assert lines == [
        "- Reference `plain_peft` (trial 9000, outside the search: `train.weight_decay` = 0.1 instead of 0): "
        "0.5000 ± 0.0250. The default recipe scores **+0.3000** ± 0.0320 against it: this is what "
        "`train.weight_decay` alone is worth.",
        "- Reference `other` (trial 9001, outside the search: `lora.r` = 4 instead of 8, `lora.dropout` = 0.2 instead "
        "of 0): 0.8100 ± 0.0196. The default recipe scores **-0.0100** ± 0.0280 against it, which is within the noise.",
    ]


def test_a_reference_that_is_not_complete_is_not_compared(tmp_path):
    running = make_reference(9000, None, chunks=0, state=TrialState.RUNNING, params=DEFAULT_PARAMS)
    report, study = report_of(tmp_path, [make_default(0.8), running])
    assert study["references"][0]["gain_of_default"] is None
    assert "- Reference `plain_peft` (trial 9000, outside the search): - (running).\n" in report


def test_the_default_recipe_outside_the_space_is_no_reference_to_itself(tmp_path):
    report, study = report_of(tmp_path, [make_trial(0, 0.9), make_default(0.8, 9000, phase=Phase.REFERENCE)])
    assert study["references"] == []
    assert "- Reference" not in report


def rungs_of(*values):
    return tuple(make_measurement(4 * position, value) for position, value in enumerate(values, start=1))


def test_the_best_rung_is_reported_if_it_scored_higher_than_the_last(tmp_path):
    study = make_study(epochs=3)
    trials = [make_default(0.8), make_trial(1, measurements=rungs_of(0.85, 0.92, 0.9))]
    store = make_sweep(tmp_path / "mine", [(study, trials)], adapters=[(TREC, 1)])
    store.write_rung_adapter(TREC, 1, 8, ADAPTER)
    report = write_reports(store)["report.md"].read_text()
    found = json.loads(store.paths.best.read_text())["studies"][0]
    adapter = str(store.rung_adapter_dir(TREC, 1, 8))
    assert found["best"]["value"] == 0.9
    assert found["best"]["best_rung"] == {"chunk": 8, "epoch": 2.0, "value": 0.92, "adapter": adapter}
    assert found["rung_optimism"] == pytest.approx(0.01)
    assert f"It was **best after epoch 2 of 3**, with 0.9200. That adapter is in `{adapter}`.\n" in report
    assert "complete trials would score 0.0100 better on average" in report


def test_a_best_rung_whose_adapter_is_gone_is_reported_without_it(tmp_path):
    report, study = report_of(tmp_path, [make_trial(1, measurements=rungs_of(0.85, 0.92, 0.9))])
    assert study["best"]["best_rung"] == {"chunk": 8, "epoch": 2.0, "value": 0.92, "adapter": None}
    assert "; 3 epochs a trial; " in report
    assert "It was **best after epoch 2 of 3**, with 0.9200.\n" in report


def test_a_last_rung_that_is_the_best_has_the_adapter_of_the_trial(tmp_path):
    report, study = report_of(tmp_path, [make_trial(1, measurements=rungs_of(0.5, 0.9, 0.9))], adapters=[(TREC, 1)])
    assert study["best"]["best_rung"]["chunk"] == 12
    assert study["best"]["best_rung"]["adapter"] == study["best"]["adapter"] is not None
    assert "best after" not in report


def test_a_pruned_default_is_not_compared(tmp_path):
    report, study = report_of(tmp_path, [make_default(0.6, state=TrialState.PRUNED, chunks=3), make_trial(1, 0.9)])
    assert study["gain_over_default"] is None
    assert (
        "No comparison with the default recipe: its trial is pruned, with a score of 0.6000 at its last rung" in report
    )


def test_the_report_mentions_if_the_default_is_the_best(tmp_path):
    report, study = report_of(tmp_path, [make_default(0.9), make_trial(1, 0.8)])
    assert study["best"]["trial"] == study["default"]["trial"] == 0
    assert "is itself the best" in report


def test_the_report_explains_that_the_best_score_is_optimistic(tmp_path, trials):
    report, study = report_of(tmp_path, trials)
    assert "its score is optimistic" in report
    assert f"up to {study['selection_optimism']:.4f} too high by chance" in report


def test_a_gain_without_standard_error_is_not_called_noise_or_better(tmp_path):
    study = make_study(metric="validation/loss", direction="minimize", references={})
    trials = [make_default(0.5, study=study), make_trial(1, 0.3, study=study)]
    report, found = report_of(tmp_path, trials, study=study)
    assert (found["best"]["trial"], found["best"]["standard_error"]) == (1, None)
    assert found["gain_over_default"] == {"gain": pytest.approx(0.2), "standard_error": None, "is_noise": None}
    assert "no simple\n  standard error" in report


def test_causes_of_infeasible_trials_are_grouped(tmp_path):
    trials = [make_infeasible(0), make_infeasible(1), make_infeasible(2, "loss | is\nnan at step 7")]
    report, _ = report_of(tmp_path, trials)
    assert "CUDA out of memory, tried 2.0 GiB. Trials 0, 1" in report
    assert "loss \\| is. Trial 2" in report


def test_no_text_from_data_becomes_html_a_link_or_code(tmp_path):
    nasty = f"{EVIL} [x](javascript:alert(1)) ![](http://host/x) | **b** `c`"
    study = make_study(nasty, name="trec-minilm-lora", labels=(nasty, "```\n# b"))
    trials = [
        make_default(0.8, study=study),
        make_trial(1, 0.9, study=study, origin=f"recipe:{nasty}"),
        make_infeasible(2, f"{nasty}\n```\n<b>", study=study),
    ]
    report, _ = report_of(tmp_path, trials, study=study, adapters=[(study.name, 1)])
    tokens = MarkdownIt("commonmark").enable("table").parse(report)
    inline = [child for token in tokens for child in token.children or ()]
    assert not [token.content for token in (*tokens, *inline) if token.type.startswith(("html", "image", "link"))]
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert "b" not in headings
    cells = [sum(token.type == "th_open" for token in tokens), sum(token.type == "td_open" for token in tokens)]
    clean = report_of(tmp_path / "clean", [make_default(0.8), make_trial(1, 0.9), make_infeasible(2)])[0]
    tokens = MarkdownIt("commonmark").enable("table").parse(clean)
    assert cells == [sum(token.type == kind for token in tokens) for kind in ("th_open", "td_open")]
    assert EVIL in unescape(report)


def test_failed_and_infeasible_trials_are_listed_separately(tmp_path):
    failure = Failure(kind=FailureKind.LOST_WORKER, message="worker 1 ended")
    report, _ = report_of(tmp_path, [make_trial(0, state=TrialState.FAILED, chunks=0, failure=failure)])
    assert "lost_worker: worker 1 ended" in report
    assert "Infeasible (" not in report


@pytest.mark.parametrize(
    "trials",
    [[], [make_infeasible(0)], [make_trial(0, state=TrialState.RUNNING, chunks=0)]],
    ids=["none", "all infeasible", "running"],
)
def test_a_sweep_without_a_complete_trial_has_a_readable_report(tmp_path, trials):
    report, study = report_of(tmp_path, trials, space=make_space())
    assert study["best"] is None
    assert "No trial is complete, so there is no best configuration" in report
    assert "None" not in report


def test_a_sweep_without_a_study_has_a_readable_report(tmp_path):
    paths = write_reports(make_sweep(tmp_path / "empty", []))
    assert "no study yet" in paths["report.md"].read_text()
    assert json.loads(paths["best.json"].read_text())["studies"] == []
    assert pd.read_csv(paths["trials.csv"]).empty


def test_non_finite_metrics_leave_valid_json(tmp_path):
    study = make_study(metric="validation/loss", direction="minimize")
    trial = make_default(float("nan"), study=study)
    _, found = report_of(tmp_path, [trial, make_trial(1, 0.3, study=study)], study=study)
    assert found["default"]["value"] is None
    assert found["default"]["metrics"]["validation/loss"] is None


def test_reports_depend_on_the_store_alone(tmp_path, trials):
    store = make_sweep(tmp_path / "mine", [(make_study(), trials)])
    first = {name: path.read_bytes() for name, path in write_reports(store).items()}
    assert first == {name: path.read_bytes() for name, path in write_reports(TrialStore(store.root)).items()}


def test_the_report_lists_the_trials_that_no_other_one_beats_in_score_and_parameters(tmp_path, trials):
    trials.append(make_trial(6, 0.95, params={"lora.r": 32}))
    report, study = report_of(tmp_path, trials)
    assert (study["cost"], study["pareto"]) == ("parameters", [6, 1])
    assert "### Score against trainable parameters" in report
    rows = r"\| 6 \| 0\.9500 ± 0\.\d+ \| 37,000 \| r=32, .*\n\| 1 \| 0\.9100 ± 0\.\d+ \| 9,000 \| r=4, "
    assert re.search(rows, report)


def test_the_report_compares_scores_with_the_cost_of_the_search(tmp_path, trials):
    store = make_sweep(tmp_path / "mine", [(make_study(), trials)])
    sweep = store.read_sweep()
    sweep["settings"]["search"]["cost"] = "device_s"
    store.write_sweep(sweep)
    trials[2] = make_trial(2, 0.905, measurements=(make_measurement(12, 0.905, elapsed_s=1.5),))
    store.write_trial(trials[2])
    report = write_reports(store)["report.md"].read_text()
    assert best_configurations(store)["studies"][0]["pareto"] == [1, 2]
    assert "### Score against device seconds" in report
    assert re.search(r"\| 2 \| 0\.9050 ± 0\.\d+ \| 1\.5 \|", report)


def test_one_trial_that_is_best_in_both_needs_no_table(tmp_path, trials):
    report, study = report_of(tmp_path, trials)
    assert study["pareto"] == [1]
    assert "Score against" not in report


def test_trials_csv_contains_every_trial(tmp_path, trials):
    store = make_sweep(tmp_path / "mine", [(make_study(), trials)])
    text = write_reports(store)["trials.csv"].read_text()
    table = pd.read_csv(io.StringIO(text))
    assert list(table["trial"]) == [0, 1, 2, 3, 4, 5]
    assert list(table["state"]) == [trial.state.value for trial in trials]
    assert list(table["train.learning_rate"]) == [trial.spec.params["train.learning_rate"] for trial in trials]
    assert list(table["lora.alpha"]) == [8, 8, 32, 32, 32, 32]
    assert list(table["value"].dropna()) == [0.80, 0.91, 0.905, 0.7]
    assert list(table["device_s"]) == [trial.cost.device_s for trial in trials]
    assert table["failure"].dropna().to_list() == ["out_of_memory"]


def test_trials_of_studies_with_other_metrics_share_one_table(tmp_path):
    other = make_study("sms", metric="validation/macro_f1")
    studies = [(make_study(), [make_trial(0, 0.9)]), (other, [make_trial(0, 0.8, study=other)])]
    table = trial_frame(make_sweep(tmp_path / "mine", studies))
    assert list(table["study"]) == [TREC, "sms-minilm-lora"]
    assert list(table.columns[-1:]) == ["initial_hash"]
    assert list(table["validation/macro_f1"].dropna()) == [0.8]


def test_the_default_recipe_is_the_first_of_the_recipes(tmp_path):
    store = make_sweep(tmp_path / "mine", [(make_study(), [make_trial(0, 0.9, origin="recipe:double_alpha")])])
    assert best_configurations(store)["default_recipe"] == "peft_default"
    assert best_configurations(store)["studies"][0]["default"] is None


def test_the_report_shows_how_to_load_the_adapter(tmp_path, trials):
    report, study = report_of(tmp_path, trials, adapters=[(TREC, 1)])
    code = re.search(r"```python\n(.*?)```", report, re.DOTALL).group(1)
    compile(code, "snippet", "exec")
    assert study["best"]["adapter"] in code
    assert 'base = "/models/minilm"' in code
    assert '["ABBR", "DESC", "ENTY"]' in code


def test_the_report_mentions_a_missing_adapter(tmp_path, trials):
    report, study = report_of(tmp_path, trials)
    assert study["best"]["adapter"] is None
    assert "adapter of the best trial is not on disk" in report


def test_the_report_contains_the_provenance_of_the_sweep(tmp_path, trials):
    report, study = report_of(tmp_path, trials)
    assert "| git.commit | abc123 |" in report
    assert study["fingerprint"] in report
