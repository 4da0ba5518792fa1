"""The block ``confirmation`` of best.json: candidates with known truths, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from sweeper.analysis.best import best_configurations
from sweeper.analysis.report import render_report
from sweeper.config.settings import ConfirmSettings
from sweeper.figures.confirmation import ConfirmationRecord, ConfirmationState
from sweeper.figures.recipes import confirmation_origin
from sweeper.types import Phase, TrialState
from tests.builders import SPACE, make_confirmed_sweep, make_default, make_study, make_sweep, make_trial

SCHEMA = json.loads((Path(__file__).parents[2] / "analysis" / "best.schema.json").read_text(encoding="utf-8"))


def block(store):
    return best_configurations(store)["studies"][0]["confirmation"]


def test_a_sweep_without_a_confirmation_has_no_block(tmp_path):
    assert block(make_sweep(tmp_path / "sweep", [(make_study(), [make_default(0.9)])])) is None


def test_a_candidate_that_is_better_is_recommended(tmp_path):
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}))
    assert (found["best"], found["recommended"], found["default"]) == ("trial 9", "trial 9", "peft_default")
    difference = found["candidates"][1]["against_default"]
    assert difference["verdict"] == "better"
    assert difference["gain"]["estimate"] == pytest.approx(0.1)
    assert 0 < difference["gain"]["low"] < 0.1 < difference["gain"]["high"]
    assert found["verdict"].startswith("Trial 9 (")
    assert "is better than the default recipe by +0.100" in found["verdict"]
    assert found["equivalent"] == ["trial 9"]


def test_a_lead_that_may_be_chance_leaves_the_default(tmp_path):
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.9, "trial 9": 0.9025}))
    assert (found["best"], found["recommended"]) == ("trial 9", "peft_default")
    assert found["candidates"][1]["against_default"]["verdict"] == "undecided"
    assert found["equivalent"] == ["peft_default", "trial 9"]
    assert "Use the default." in found["verdict"]
    assert any("To settle" in line and "validation rows" in line for line in found["advice"])


def test_a_default_that_scores_best_is_recommended(tmp_path):
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.95, "trial 9": 0.85}))
    assert (found["best"], found["recommended"], found["simplest"]) == ("peft_default",) * 3
    assert found["candidates"][1]["against_default"]["verdict"] == "worse"
    assert "No candidate scores higher than the default recipe" in found["verdict"]


def test_a_probe_that_is_not_beaten_comes_first_in_the_verdict(tmp_path):
    study = make_study(references={"frozen_probe": {"validation/accuracy": 0.99}})
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}, study=study))
    assert not found["baseline"]["beaten"]
    assert found["verdict"].startswith("No adapter is better than the probe (0.990)")


def test_optimism_is_the_search_score_minus_that_of_fresh_seeds(tmp_path):
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}))
    assert found["optimism"]["candidate"] == "trial 9"
    assert found["optimism"]["estimate"] == pytest.approx(0.02)
    assert found["optimism"]["low"] < 0.02 < found["optimism"]["high"]
    assert found["candidates"][0]["optimism"] == pytest.approx(0.0)


def test_scores_on_test_rows_are_reported_and_choose_nothing(tmp_path):
    found = block(
        make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}, test=["peft_default", "trial 9"])
    )
    test = found["candidates"][1]["test"]
    assert test["num_rows"] == 1000
    assert test["value"] == pytest.approx(0.9)
    assert test["interval"]["low"] < 0.9 < test["interval"]["high"]
    assert test["expected"]["estimate"] == pytest.approx(0.95)
    width = found["candidates"][1]["metrics"]["validation/accuracy"]
    assert test["expected"]["high"] - test["expected"]["low"] > width["high"] - width["low"], "test rows vary, too"
    assert found["recommended"] == "trial 9"


def test_every_metric_of_the_task_has_an_interval(tmp_path):
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}))
    names = {"validation/accuracy", "validation/macro_f1", "validation/mcc", "validation/loss"}
    assert set(found["candidates"][0]["metrics"]) == names
    assert set(found["candidates"][1]["against_default"]["metrics"]) == names - {"validation/accuracy"}
    assert found["candidates"][1]["against_default"]["metrics"]["validation/loss"]["estimate"] > 0


def test_the_best_under_a_cap_has_few_parameters(tmp_path):
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}))
    assert found["best_under_cap"] == "peft_default"
    found = block(
        make_confirmed_sweep(tmp_path / "wide", {"peft_default": 0.85, "trial 9": 0.95}, max_parameters=10**9)
    )
    assert found["best_under_cap"] == "trial 9"


def test_seeds_after_a_failed_one_do_not_count(tmp_path):
    store = make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95})
    study = store.studies()[0].name
    second = [t for t in store.trials(study) if t.spec.origin == confirmation_origin("trial 9")][1]
    store.write_trial(make_trial(second.spec.number, state=TrialState.FAILED, origin=second.spec.origin, seed=51,
                                 phase=Phase.CONFIRMATION))  # fmt: skip
    found = block(store)
    assert [len(candidate["seeds"]) for candidate in found["candidates"]] == [3, 1]
    assert found["candidates"][1]["metrics"] == {}
    assert found["recommended"] == "peft_default"


def test_a_skipped_confirmation_says_why(tmp_path):
    store = make_sweep(tmp_path / "sweep", [(make_study(), [make_default(0.9)])])
    record = ConfirmationRecord(
        state=ConfirmationState.SKIPPED, num_searched=1, settings=ConfirmSettings(), reason="max_share is too small"
    )
    store.write_confirmation(store.studies()[0].name, record)
    found = block(store)
    assert found["recommended"] is None
    assert found["verdict"] == "Nothing was confirmed: max_share is too small."


def test_a_best_trial_at_a_bound_asks_for_a_wider_space_and_a_late_one_for_more_trials(tmp_path):
    study = make_study(space={**SPACE, "lora.r": "tag(log2,interval(1,16))"})
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}, study=study))
    wider, longer = found["advice"]
    assert wider == "`lora.r` = 16 is at the high end of the space: widen it and search again."
    assert longer.startswith("Search on: trial 9 came late in a search of 2 trials")
    assert "budget.trials=4" in longer


def test_where_nothing_is_open_the_advice_is_to_stop(tmp_path):
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.95, "trial 9": 0.85}))
    assert [line[:10] for line in found["advice"]] == ["Stop here:"]


def test_rows_that_training_leaves_over_are_mentioned(tmp_path):
    study = make_study(num_available=3980)
    found = block(make_confirmed_sweep(tmp_path, {"peft_default": 0.95, "trial 9": 0.85}, study=study))
    assert "trials used 1,000 of 3,980" in found["advice"][0]


def test_the_report_has_the_verdict_first_and_every_candidate(tmp_path):
    store = make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}, test=["trial 9"])
    best = best_configurations(store)
    text = render_report(store, best)
    verdict = best["studies"][0]["confirmation"]["verdict"]
    assert text.index(verdict) < text.index("## How to read the numbers")
    assert "| **trial 9** |" in text
    assert "| better: +0.1000 [" in text


@pytest.mark.parametrize("scores", [{"peft_default": 0.85, "trial 9": 0.95}, {"peft_default": 0.9, "trial 9": 0.9}])
def test_the_block_is_what_the_schema_documents(tmp_path, scores):
    best = best_configurations(make_confirmed_sweep(tmp_path, scores, test=list(scores)))
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(best, allow_nan=False)))
