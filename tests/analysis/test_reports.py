import io
import json
import re

import pandas as pd
import pytest

from sweeper.analysis.best import best_configurations
from sweeper.analysis.load import load_trials
from sweeper.analysis.report import write_reports
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.store.trials import TrialStore
from sweeper.types import Failure, FailureKind, Phase, TrialState
from tests.builders import SPACE, make_default, make_infeasible, make_study, make_sweep, make_trial

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
    assert (study["default"]["value"], study["frozen_probe"]) == (0.80, 0.82)
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
        study["frozen_probe"],
    ]
    assert found == [pytest.approx(value, abs=5e-5) for value in expected]


def test_a_clear_lead_is_not_called_noise(tmp_path, trials):
    report, study = report_of(tmp_path, trials)
    line = report[report.index("- Compared with the default recipe") :]
    assert f"{study['gain_over_default']['gain']:+.4f}" in line
    assert "within the noise" not in line[: line.index("- Compared with the frozen probe")]


def test_a_lead_within_noise_is_called_noise(tmp_path):
    report, study = report_of(tmp_path, [make_default(0.90), make_trial(1, 0.91)])
    line = report[report.index("- Compared with the default recipe") :]
    assert study["gain_over_default"]["is_noise"]
    assert "within the noise" in line[: line.index("- Compared with the frozen probe")]


def test_a_best_below_the_probe_is_called_worse(tmp_path):
    report, _ = report_of(tmp_path, [make_trial(0, 0.5)])
    assert "is **worse** by more than 2 standard errors" in report[report.index("- Compared with the frozen probe") :]


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
    table = load_trials(make_sweep(tmp_path / "mine", studies))
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
