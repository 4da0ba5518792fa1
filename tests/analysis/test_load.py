"""A sweep loaded from disk: its frames, its verdicts, its adapters, and what is no sweep."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import sweeper
from sweeper.analysis.best import best_configurations
from sweeper.analysis.frames import verdict_frame
from sweeper.analysis.report import write_reports
from sweeper.errors import SweeperError
from sweeper.types import TrialState
from tests.builders import make_default, make_history, make_study, make_sweep, make_trial

TREC, SMS = "trec-minilm-lora", "sms-minilm-lora"


def interval(estimate):
    return {"estimate": estimate, "low": estimate - 0.01, "high": estimate + 0.01}


def candidate(name, value, **changes):
    """What best.json has of a candidate."""
    seeds = [{"trial": 2_000_000 + n, "seed": n, "value": value, "metrics": {}, "adapter": None} for n in range(3)]
    return {
        "name": name,
        "source": "search",
        "params": {"lora.r": 4},
        "hyperparameters": {"lora.r": 4, "train.learning_rate": 1e-3},
        "num_parameters": 9000,
        "device_s": 12.0,
        "seeds": seeds,
        "metrics": {"validation/accuracy": interval(value), "validation/loss": interval(0.4)},
        "against_default": None,
        "against_best": None,
        "search_value": value + 0.02,
        "optimism": 0.02,
        "test": None,
        **changes,
    }


def confirmation(*candidates, recommended="trial 1"):
    names = {"simplest": "peft_default", "best_under_cap": None, "default": "peft_default"}
    return {"candidates": list(candidates), "recommended": recommended, **names}


@pytest.fixture
def store(tmp_path):
    trec = [
        make_default(0.8),
        make_trial(1, 0.9, measurements=make_history(4, (0.6, 0.9), device_s=1.5)),
        make_trial(2, state=TrialState.RUNNING, chunks=0),
    ]
    sms = make_study("sms")
    adapters = [(TREC, 1), (SMS, 0)]
    return make_sweep(
        tmp_path / "mine", [(make_study(), trec), (sms, [make_trial(0, 0.7, study=sms)])], adapters=adapters
    )


def with_verdicts(store, **changes):
    """Write a best.json in which TREC is confirmed."""
    best = best_configurations(store)
    difference = {"gain": interval(0.05), "verdict": "better", "seeds_needed": None, "rows_needed": None, "metrics": {}}
    test = {"value": 0.88, "metrics": {}, "num_rows": 1000, "interval": interval(0.88)}
    winner = candidate("trial 1", 0.9, against_default=difference, test=test, **changes)
    default = candidate(
        "peft_default", 0.85, source="recipe", against_best={**difference, "verdict": "undecided", "seeds_needed": 9}
    )
    best["studies"][0]["confirmation"] = confirmation(winner, default)
    store.paths.best.write_text(json.dumps(best))
    return sweeper.load(store.root)


def test_a_sweep_is_a_mapping_with_the_content_of_best_json(store):
    write_reports(store)
    sweep = sweeper.load(str(store.root))
    assert sweep == json.loads(store.paths.best.read_text())
    assert sweep["studies"][0]["best"]["trial"] == 1
    assert sweep.study("sms") is sweep.study(SMS) is sweep["studies"][1]


def test_a_sweep_without_a_best_json_has_the_same_content(store):
    found = dict(sweeper.load(store.root))
    write_reports(store)
    assert found == dict(sweeper.load(store.root))


def test_trials_have_a_row_each_over_all_studies(store):
    trials = sweeper.load(store.root).trials
    assert list(zip(trials["study"], trials["trial"], strict=True)) == [(TREC, 0), (TREC, 1), (TREC, 2), (SMS, 0)]
    assert list(trials["value"].dropna()) == [0.8, 0.9, 0.7]
    assert {"lora.r", "lora.alpha", "num_parameters", "device_s", "rows", "phase", "seed"} <= set(trials.columns)


def test_times_of_trials_are_times(store):
    trials = sweeper.load(store.root).trials
    durations_s = (trials["finished_at"] - trials["started_at"]).dt.total_seconds()
    assert durations_s.dropna().to_list() == [120.0, 120.0, 120.0]
    assert trials["finished_at"].isna().to_list() == [False, False, True, False]


def test_trials_csv_has_the_same_columns_as_the_trials(store):
    write_reports(store)
    assert list(pd.read_csv(store.paths.trials_csv).columns) == list(sweeper.load(store.root).trials.columns)


def test_measurements_have_a_row_for_each_chunk_and_a_value_at_rungs_only(store):
    measurements = sweeper.load(store.root).measurements
    own = measurements.query("study == @TREC and trial == 1")
    assert own["chunk"].to_list() == [1, 2, 3, 4]
    assert own["is_rung"].to_list() == [False, True, False, True]
    assert own["value"].dropna().to_list() == [0.6, 0.9]
    assert own["epoch"].to_list() == [0.25, 0.5, 0.75, 1.0]
    assert own["device_s"].to_list() == [1.5, 3.0, 4.5, 6.0]
    assert own["rows"].to_list() == [250, 500, 750, 1000]


def test_verdicts_have_a_row_for_each_candidate(store):
    verdicts = with_verdicts(store).verdicts.set_index("candidate")
    assert list(verdicts.index) == ["trial 1", "peft_default"]
    winner, default = verdicts.loc["trial 1"], verdicts.loc["peft_default"]
    assert (winner["verdict"], winner["gain"], winner["gain_low"]) == ("better", 0.05, pytest.approx(0.04))
    assert (winner["value"], winner["value_high"], winner["num_seeds"]) == (0.9, pytest.approx(0.91), 3)
    assert (winner["test_value"], winner["num_test_rows"]) == (0.88, 1000)
    assert (winner["lora.r"], winner["validation/loss"]) == (4, 0.4)
    assert (winner["is_recommended"], winner["is_default"], winner["is_best_under_cap"]) == (True, False, False)
    assert (default["is_simplest"], default["is_default"], default["is_recommended"]) == (True, True, False)
    assert pd.isna(default["verdict"])
    assert pd.isna(default["seeds_needed"])
    assert default["verdict_against_best"] == "undecided"


def test_a_sweep_without_a_confirmation_has_an_empty_frame_of_verdicts_with_the_same_columns(store):
    verdicts = sweeper.load(store.root).verdicts
    assert verdicts.empty
    full = with_verdicts(store).verdicts
    assert list(verdicts.columns) == [name for name in full.columns if "." not in name and "/" not in name]


def test_a_study_that_was_not_confirmed_has_no_verdict():
    study = {"name": SMS, "dataset": "sms", "metric": "validation/accuracy", "confirmation": None}
    assert verdict_frame({"studies": [study]}).empty


def test_the_adapter_is_that_of_the_best_trial_if_nothing_is_confirmed(store):
    assert sweeper.load(store.root).adapter("trec") == store.adapter_dir(TREC, 1)


@pytest.mark.parametrize(("direction", "number"), [("maximize", 2_000_001), ("minimize", 2_000_000)])
def test_the_adapter_of_a_confirmed_study_is_that_of_the_best_seed(store, direction, number):
    seeds = [
        {"trial": 2_000_000, "seed": 5, "value": 0.89, "adapter": "x"},
        {"trial": 2_000_001, "seed": 6, "value": 0.91, "adapter": "x"},
        {"trial": 2_000_002, "seed": 7, "value": 0.99, "adapter": None},
    ]
    sweep = with_verdicts(store, seeds=seeds)
    sweep.study("trec")["direction"] = direction
    store.write_adapter(TREC, number, {"adapter_config.json": b"{}"})
    assert sweep.adapter("trec") == store.adapter_dir(TREC, number)


def test_the_adapter_is_found_after_the_folder_was_moved(store, tmp_path):
    write_reports(store)
    store.root.rename(tmp_path / "moved")
    assert sweeper.load(tmp_path / "moved").adapter(SMS).is_dir()


def test_a_missing_adapter_is_an_error_with_a_remedy(store):
    store.drop_adapter(TREC, 1)
    with pytest.raises(SweeperError, match=r"the adapter of trial 1 is not on disk.*store\.keep_adapters"):
        sweeper.load(store.root).adapter("trec")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("treck", "has no study 'treck'. Did you mean 'trec'? Its studies: trec-minilm-lora, sms-minilm-lora."),
        ("", "sweep mine has 2 studies, so one must be named. Its studies: trec-minilm-lora, sms-minilm-lora."),
    ],
)
def test_a_study_that_is_not_there_is_an_error_that_names_the_others(store, name, text):
    with pytest.raises(SweeperError) as caught:
        sweeper.load(store.root).study(name)
    assert str(caught.value).endswith(text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("mime", "mime does not exist. Did you mean 'mine'? Sweeps in {outputs}: mine. Give the folder of a sweep"),
        ("", "{outputs} has no sweep.json. Sweeps in {outputs}: mine. Give the folder of a sweep"),
        ("mine/studies", "studies has no sweep.json. {outputs}/mine contains no sweep. Give the folder of a sweep"),
    ],
)
def test_a_path_that_is_no_sweep_is_an_error_with_the_remedy(store, tmp_path, path, text):
    with pytest.raises(SweeperError) as caught:
        sweeper.load(store.root.parent / path)
    assert text.format(outputs=tmp_path) in str(caught.value)
