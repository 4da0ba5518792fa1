"""A sweep loaded from disk: its frames, its verdicts, its adapters, and what is no sweep."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import sweeper
from sweeper.analysis.report import write_reports
from sweeper.errors import SweeperError
from sweeper.store.outcomes import RowOutcomes
from sweeper.types import TrialState
from tests.builders import (
    ADAPTER,
    make_confirmed_sweep,
    make_default,
    make_history,
    make_measurement,
    make_outcomes,
    make_study,
    make_sweep,
    make_trial,
)

TREC, SMS = "trec-minilm-lora", "sms-minilm-lora"


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


@pytest.fixture
def confirmed(tmp_path):
    """A sweep in which trial 9 was shown to be better than the default recipe; both have three seeds."""
    store = make_confirmed_sweep(tmp_path, {"peft_default": 0.80, "trial 9": 0.95}, test=["trial 9"])
    write_reports(store)
    return store


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


def test_verdicts_have_a_row_for_each_candidate(confirmed):
    sweep = sweeper.load(confirmed.root)
    verdicts = sweep.verdicts.set_index("candidate")
    assert list(verdicts.index) == ["peft_default", "trial 9"]
    winner, default = verdicts.loc["trial 9"], verdicts.loc["peft_default"]
    block = sweep.study()["confirmation"]["candidates"][1]
    assert (winner["verdict"], winner["gain"]) == ("better", block["against_default"]["gain"]["estimate"])
    assert 0 < winner["gain_low"] < 0.15 < winner["gain_high"]
    assert (winner["value"], winner["num_seeds"]) == (pytest.approx(0.95), 3)
    assert winner["value_low"] < 0.95 < winner["value_high"]
    assert (winner["test_value"], winner["num_test_rows"]) == (pytest.approx(0.9), 1000)
    assert (winner["search_value"], winner["optimism"]) == (0.97, pytest.approx(0.02))
    assert (winner["lora.r"], winner["source"]) == (16, "search")
    assert winner["validation/loss_low"] <= winner["validation/loss"] <= winner["validation/loss_high"]
    flags = ["is_recommended", "is_best", "is_equivalent", "is_simplest", "is_best_under_cap", "is_default"]
    assert winner[flags].to_list() == [True, True, True, True, False, False]
    assert default[flags].to_list() == [False, False, False, False, True, True]
    assert pd.isna(default["verdict"])
    assert pd.isna(default["seeds_needed"])
    assert pd.isna(default["test_value"])
    assert default["verdict_against_best"] == "worse"


def test_a_sweep_without_a_confirmation_has_an_empty_frame_of_verdicts_with_the_same_columns(store, confirmed):
    verdicts, full = sweeper.load(store.root).verdicts, sweeper.load(confirmed.root).verdicts
    assert verdicts.empty
    assert list(verdicts.columns) == [name for name in full.columns if "." not in name and "/" not in name]


def test_outcomes_have_a_row_for_each_trial_and_validation_row(confirmed):
    outcomes = sweeper.load(confirmed.root).outcomes()
    assert outcomes.groupby("trial")["row"].agg(list).map(lambda rows: rows == list(range(400))).to_list() == [True] * 6
    shares = outcomes.groupby("trial")["is_right"].mean()
    assert shares.to_list() == pytest.approx([0.80, 0.95] * 3)
    assert outcomes["target"].head(4).to_list() == ["ABBR", "DESC", "ENTY", "ABBR"]
    assert ((outcomes["predicted"] == outcomes["target"]) == outcomes["is_right"]).all()
    assert set(outcomes["loss"].round(2)) == {0.1, 2.0}
    assert set(outcomes["chunk"]) == {12}


def test_outcomes_of_the_test_rows_are_those_of_the_candidates_scored_there(confirmed):
    outcomes = sweeper.load(confirmed.root).outcomes(split="test")
    assert outcomes.groupby("trial").size().to_list() == [1000] * 3
    assert outcomes["is_right"].mean() == pytest.approx(0.9)


def test_outcomes_of_an_earlier_rung(store):
    store.write_outcomes(TREC, 1, 2, make_outcomes(0.6, rows=10).to_bytes())
    store.write_outcomes(TREC, 1, 4, make_outcomes(0.9, rows=10).to_bytes())
    sweep = sweeper.load(store.root)
    assert sweep.outcomes(chunk=2)["is_right"].mean() == pytest.approx(0.6)
    assert sweep.outcomes()["is_right"].mean() == pytest.approx(0.9)
    assert sweep.outcomes(chunk=3).empty
    assert list(sweep.outcomes(chunk=3).columns) == list(sweep.outcomes().columns)


def test_outcomes_of_open_completions_have_losses_and_tokens_only(store):
    open_rows = RowOutcomes.of(np.array([1.0, 2.0]), tokens_N=np.array([3, 4]))
    store.write_outcomes(SMS, 0, 12, open_rows.to_bytes())
    outcomes = sweeper.load(store.root).outcomes()
    assert outcomes["tokens"].to_list() == [3, 4]
    assert outcomes[["predicted", "target", "is_right"]].isna().all(axis=None)


@pytest.mark.parametrize("choice", [{"split": "train"}, {"split": "test", "chunk": 3}])
def test_outcomes_that_do_not_exist_are_an_error(store, choice):
    with pytest.raises(ValueError, match="split must be validation or test, and test has no rungs"):
        sweeper.load(store.root).outcomes(**choice)


def test_the_adapter_is_that_of_the_best_trial_if_nothing_is_confirmed(store):
    assert sweeper.load(store.root).adapter("trec") == store.adapter_dir(TREC, 1)


def test_the_adapter_of_a_confirmed_study_is_that_of_the_first_seed_on_disk(confirmed):
    first = sweeper.load(confirmed.root).adapter()
    assert first == confirmed.adapter_dir(TREC, 2_000_001)
    confirmed.drop_adapter(TREC, 2_000_001)
    write_reports(confirmed)
    assert sweeper.load(confirmed.root).adapter() == confirmed.adapter_dir(TREC, 2_000_003)


def test_the_adapter_is_found_after_the_folder_was_moved(store, tmp_path):
    write_reports(store)
    store.root.rename(tmp_path / "moved")
    assert sweeper.load(tmp_path / "moved").adapter(SMS).is_dir()


def test_a_torn_best_json_is_computed_again(store):
    write_reports(store)
    expected = dict(sweeper.load(store.root))
    store.paths.best.write_bytes(store.paths.best.read_bytes()[:99])
    assert dict(sweeper.load(store.root)) == expected


def test_a_missing_adapter_is_an_error_with_a_remedy(store):
    store.drop_adapter(TREC, 1)
    with pytest.raises(SweeperError, match=r"the adapter of trial 1 is missing or damaged.*add --retrain"):
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


@pytest.fixture
def with_better_rung(tmp_path):
    """A sweep whose best trial scored best after epoch 2 of 3, with both adapters on disk."""
    history = [make_measurement(4, 0.85), make_measurement(8, 0.92), make_measurement(12, 0.9)]
    trials = [make_default(0.8), make_trial(1, measurements=history)]
    store = make_sweep(tmp_path / "mine", [(make_study(epochs=3), trials)], adapters=[(TREC, 1)])
    store.write_rung_adapter(TREC, 1, 8, ADAPTER)
    return store


def test_load_and_best_json_say_which_adapter_is_recommended(with_better_rung):
    store = with_better_rung
    sweep = sweeper.load(store.root)
    found = sweep.study()["recommended_adapter"]
    assert (found["trial"], found["epoch"]) == (1, 3)
    assert found["text"] == "after epoch 3 of 3, the last; it scored best after epoch 2 of 3"
    assert sweep.adapter() == store.adapter_dir(TREC, 1)
    assert sweep.adapter(which="best_rung") == store.rung_adapter_dir(TREC, 1, 8)
    report = write_reports(store)["report.md"].read_text()
    assert (
        f"The recommended adapter is that of trial 1, seed {found['seed']}, after epoch 3 of 3, the last; it scored "
        "best after epoch 2 of 3. The adapter of that epoch is kept beside it, in adapter-chunk-8."
    ) in report


def test_the_adapter_of_the_best_rung_is_the_last_one_if_no_earlier_rung_scored_higher(store):
    sweep = sweeper.load(store.root)
    assert sweep.study("sms")["recommended_adapter"]["text"] == "after epoch 3 of 3, the last"
    assert sweep.adapter("sms", which="best_rung") == sweep.adapter("sms") == store.adapter_dir(SMS, 0)


def test_adapters_are_found_in_a_folder_that_was_moved(with_better_rung, tmp_path):
    write_reports(with_better_rung)
    with_better_rung.root.rename(tmp_path / "moved")
    found = sweeper.load(tmp_path / "moved").adapter(which="best_rung")
    assert found.is_relative_to(tmp_path / "moved")


def test_the_recommended_adapter_of_a_confirmation_is_that_of_a_fresh_seed(confirmed):
    found = sweeper.load(confirmed.root).study()["recommended_adapter"]
    assert (found["trial"], found["text"]) == (2_000_001, "after epoch 3 of 3, the last")


def test_a_study_without_a_final_training_names_the_command(store):
    with pytest.raises(SweeperError, match=r"there is none that is complete. Run: sweeper train mine/trec-minilm-lora"):
        sweeper.load(store.root).adapter("trec", which="final")


def test_another_kind_of_adapter_is_an_error(store):
    with pytest.raises(ValueError, match="must be one of recommended, best_rung, final"):
        sweeper.load(store.root).adapter("trec", which="last")
