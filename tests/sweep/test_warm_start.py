"""A new study's first proposals come from earlier sweeps and from a portfolio, and are fixed when it is planned."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace

import pytest

from sweeper.config.compose import SweepConfig
from sweeper.config.dimensions import parse_space
from sweeper.config.settings import SearchSettings, SweepSettings
from sweeper.errors import ConfigError
from sweeper.store.trials import TrialStore
from sweeper.sweep.warm_start import check_warm_start, earlier_rankings, with_portfolios
from sweeper.types import Phase, TrialState
from tests.builders import SPACE, make_measurement, make_model_ref, make_spec, make_study, make_trial

MODEL = make_model_ref()
NEW = make_study("new", model_ref=MODEL, fingerprint="new")
MINILM = {"model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384}


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


@pytest.fixture
def plan(tmp_path, outputs):
    """Plan the study NEW of the sweep ``now`` with a model of an unknown architecture, or the one given."""

    def planned(architecture=None, *, study=NEW, **search):
        (tmp_path / "config.json").write_text(json.dumps(architecture or {"model_type": "tiny"}))
        config = SweepConfig(_settings(**search), parse_space(SPACE))
        (record,) = with_portfolios([study], config, model_dir=tmp_path, sweep=outputs / "now")
        return record.portfolio

    return planned


def _settings(**search):
    settings = SweepSettings()
    settings.search = SearchSettings(**{"sampler": "tpe", "num_startup_trials": 8, "recipes": [], **search})
    return settings


def _params(rate):
    return {"lora.r": 16, "lora.alpha_ratio": 1.0, "lora.dropout": 0.05, "train.learning_rate": rate}


def _write(outputs, sweep, *, best, dataset="trec", age=0, num_trials=8, **changes):
    """Write a sweep with a study whose trials score the better, the nearer their learning rate is to ``best``."""
    store = TrialStore(outputs / sweep)
    study = make_study(dataset, **{"model_ref": MODEL, "fingerprint": dataset, **changes})
    store.write_sweep({"studies": [study.name]})
    os.utime(store.paths.sweep, (1e9 - age, 1e9 - age))
    os.utime(store.paths.sweep_backup, (1e9 - age, 1e9 - age))
    store.write_study(study)
    for number in range(num_trials):
        rate = 1e-4 * 100 ** (number / 7)
        value = 1 - abs(number - best) / 10
        spec = make_spec(number, params=_params(rate), study=study.name)
        measured = (make_measurement(12, value, metric=study.metric),)
        store.write_trial(make_trial(spec=spec, state=TrialState.COMPLETE, measurements=measured))
    return store, study


def _rates(points):
    return [round(point.params["train.learning_rate"], 6) for point in points]


def test_an_unknown_model_without_earlier_sweeps_has_no_portfolio(plan):
    assert plan() == ()


def test_a_known_model_gets_three_quarters_of_the_startup_trials_from_its_portfolio(plan):
    points = plan(MINILM)
    assert [point.source for point in points] == ["minilm"] * 6
    assert all(parse_space(SPACE).contains(point.params) for point in points)


@pytest.mark.parametrize(
    "search", [{"warm_start": "none"}, {"sampler": "random"}, {"sampler": "qmc"}, {"sampler": "grid"}]
)
def test_who_studies_the_space_gets_none(plan, search):
    assert plan(MINILM, **search) == ()


def test_no_startup_trials_are_no_portfolio(plan):
    assert plan(MINILM, num_startup_trials=0) == ()


def test_an_earlier_sweep_of_the_same_model_gives_its_best_configurations(plan, outputs):
    _write(outputs, "before", best=5)
    points = plan()
    assert points[0].source == "before/trec"
    assert _rates(points[:1]) == [round(1e-4 * 100 ** (5 / 7), 6)]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_ref": make_model_ref(config_json="00" * 32)},
        {"model_ref": None},
        {"task": "causal_lm"},
        {"metric": "validation/macro_f1"},
        {"direction": "minimize"},
    ],
)
def test_a_study_of_something_else_is_not_used(plan, outputs, changes):
    _write(outputs, "before", best=5, **changes)
    assert plan() == ()


def test_a_study_with_few_trials_is_not_used(plan, outputs):
    _write(outputs, "before", best=5, num_trials=7)
    assert plan() == ()


def test_the_sweep_itself_is_not_an_earlier_one(plan, outputs):
    _write(outputs, "now", best=5)
    assert plan() == ()


def test_a_study_of_the_same_rows_counts_as_much_as_all_others(plan, outputs):
    for number in range(3):
        _write(outputs, f"other-{number}", best=1, dataset=f"d{number}")
    _write(outputs, "same", best=6, fingerprint=NEW.fingerprint, age=1)
    first = plan()[:1]
    assert _rates(first) != [round(1e-4 * 100 ** (1 / 7), 6)]
    # Without the study of the same rows, the others decide.
    assert _rates(plan(study=replace(NEW, fingerprint="unseen"))[:1]) == [round(1e-4 * 100 ** (1 / 7), 6)]


def test_many_sweeps_of_one_dataset_count_as_one(outputs, plan):
    for number in range(4):
        _write(outputs, f"again-{number}", best=1, dataset="same")
    for number in range(2):
        _write(outputs, f"other-{number}", best=6, dataset=f"d{number}", age=1)
    assert _rates(plan()[:1]) == [round(1e-4 * 100 ** (6 / 7), 6)]


def test_a_stopped_trial_ranks_below_one_that_got_further_and_a_failed_one_below_all(outputs):
    store, study = _write(outputs, "before", best=5)
    spec = {number: make_spec(number, params=_params(1e-3 + number), study=study.name) for number in (8, 9, 10, 11)}
    ends = {
        8: (TrialState.PRUNED, (make_measurement(3, 0.99),)),
        9: (TrialState.PRUNED, (make_measurement(6, 0.5),)),
        10: (TrialState.INFEASIBLE, (make_measurement(6, 0.99),)),
        11: (TrialState.RUNNING, (make_measurement(6, 0.99),)),
    }
    for number, (state, measured) in ends.items():
        store.write_trial(make_trial(spec=spec[number], state=state, measurements=measured))
    confirmed = make_spec(2_000_000, params=_params(0.5), study=study.name, phase=Phase.CONFIRMATION)
    store.write_trial(make_trial(spec=confirmed, state=TrialState.COMPLETE, measurements=(make_measurement(12, 1.0),)))
    [(_, ranking)] = earlier_rankings(outputs / "now", [NEW])
    order = sorted(zip(ranking.quantiles, ranking.configurations, strict=True), key=lambda pair: pair[0])
    assert [round(c["train.learning_rate"] - 1e-3) for _, c in order[:3]] == [10, 8, 9]
    assert len(order) == 11


def test_a_lower_loss_is_better(outputs):
    new = replace(NEW, metric="validation/loss", direction="minimize")
    _write(outputs, "before", best=5, metric="validation/loss", direction="minimize")
    [(_, ranking)] = earlier_rankings(outputs / "now", [new])
    worst = min(zip(ranking.quantiles, ranking.configurations, strict=True), key=lambda pair: pair[0])
    assert round(worst[1]["train.learning_rate"], 6) == round(1e-4 * 100 ** (5 / 7), 6)


@pytest.mark.parametrize("damage", ["study", "trials", "version"])
def test_a_damaged_sweep_does_no_harm(plan, outputs, damage, caplog):
    store, study = _write(outputs, "broken", best=1)
    _write(outputs, "whole", best=5, dataset="other", age=1)
    if damage == "study":
        for path in (store.paths.study_record(study.name), store.paths.study_backup(study.name)):
            path.write_bytes(b"{")
    elif damage == "trials":
        for paths in store.paths.trials(study.name):
            paths.record.write_bytes(b"\x00")
    else:
        path = store.paths.trial(study.name, 3).record
        path.write_bytes(path.read_bytes().replace(b'"schema_version": 2', b'"schema_version": 1'))
    with caplog.at_level(logging.WARNING):
        points = plan()
    assert {point.source for point in points} == {"whole/other"}
    assert bool(caplog.records) == (damage != "trials")
    assert all("broken" in record.message for record in caplog.records)


def test_the_latest_sweeps_come_first_and_no_more_than_fifty_studies_are_read(outputs, monkeypatch):
    monkeypatch.setattr("sweeper.sweep.warm_start._MAX_STUDIES", 2)
    for number in range(3):
        _write(outputs, f"s{number}", best=5, age=number)
    found = earlier_rankings(outputs / "now", [NEW])
    assert [ranking.source for _, ranking in found] == ["s0/trec", "s1/trec"]


def test_no_more_trials_are_read_than_a_second_or_two_allow(outputs, monkeypatch):
    monkeypatch.setattr("sweeper.sweep.warm_start._MAX_TRIALS", 18)
    for number in range(4):
        _write(outputs, f"s{number}", best=5, age=number, num_trials=10)
    found = earlier_rankings(outputs / "now", [NEW])
    assert [len(ranking.quantiles) for _, ranking in found] == [10, 8]


def test_a_file_gives_its_points_in_their_order_and_nothing_else(plan, outputs, tmp_path):
    _write(outputs, "before", best=5)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"points": [{"params": _params(3e-3)}, {"params": _params(2e-4)}]}))
    points = plan(MINILM, warm_start=str(path))
    assert [(p.params, p.source) for p in points] == [(_params(3e-3), "mine"), (_params(2e-4), "mine")]


def test_a_file_that_cannot_be_read_is_an_error_that_names_the_key(tmp_path):
    with pytest.raises(
        ConfigError, match=r"search\.warm_start=.*nowhere\.json: this file cannot be read.*warm_start=auto"
    ):
        check_warm_start(SearchSettings(warm_start=str(tmp_path / "nowhere.json")))
    for word in ("auto", "none"):
        check_warm_start(SearchSettings(warm_start=word))


def test_the_portfolio_survives_the_store(plan, outputs):
    store = TrialStore(outputs / "now")
    record = replace(NEW, portfolio=plan(MINILM))
    store.write_study(record)
    assert store.read_study(NEW.name) == record


def test_epochs_of_an_earlier_sweep_count_only_where_both_search_them(outputs):
    searched = {**SPACE, "train.epochs": "choice(1,2,3)"}
    with_epochs = make_study("new", model_ref=MODEL, fingerprint="new", space=searched)
    _write(outputs, "before", best=1e-3)
    _write(outputs, "searched", best=1e-3, space=searched)
    for record, expected in ((NEW, {False}), (with_epochs, {True, False})):
        found = earlier_rankings(outputs / "now", [record])
        assert {"train.epochs" in ranking.configurations[0] for _, ranking in found} == expected


def test_a_portfolio_point_without_epochs_gets_the_automatic_number_in_the_space(tmp_path, outputs):
    _write(outputs, "before", best=1e-3)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    searched = {**SPACE, "train.epochs": "choice(1,3,9)"}
    study = make_study("new", model_ref=MODEL, fingerprint="new", space=searched)
    config = SweepConfig(_settings(), parse_space(searched))
    (record,) = with_portfolios([study], config, model_dir=tmp_path, sweep=outputs / "now")
    assert {point.params["train.epochs"] for point in record.portfolio} == {3}
