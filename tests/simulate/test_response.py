"""The response of a table: how close it is to the trials and to the truth that they were recorded from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sweeper.search.proposals import random_point, sobol_point
from sweeper.simulate.response import TableResponse, _centered
from sweeper.simulate.table import Table
from sweeper.types import TrialState
from tests.simulate.recorded import MAJORITY, NOISE, NUM_CHUNKS, NUM_ROWS, SPACE, truth, write_table
from tests.simulate.test_table import study_table, study_trial

NUM_SEEDS = 24


@pytest.fixture(scope="module")
def response(tmp_path_factory):
    return TableResponse(Table.read(write_table(tmp_path_factory.mktemp("table") / "toy.parquet", settings=96)))


@pytest.fixture(scope="module")
def points():
    return [random_point(SPACE, 7, number) for number in range(200)]


def is_learning(params):
    return truth(params) > MAJORITY


def test_mean_scores_are_those_of_the_truth(response, points):
    learning = [params for params in points if is_learning(params)]
    means, truths = np.array([[response.mean_score(params), truth(params)] for params in learning]).T
    assert np.corrcoef(means, truths)[0, 1] > 0.9
    assert np.median(np.abs(means - truths)) < 0.01


def test_the_best_is_no_lucky_trial(response):
    recorded = max(trial.score[-1] for trial in response.table.trials)
    assert response.best_mean == pytest.approx(0.9, abs=0.01)
    assert recorded > response.best_mean + 0.003


def test_the_good_zone_is_the_best_two_fifths_of_the_space(response, points):
    good = np.array([response.is_good(params) for params in points])
    assert good.mean() == pytest.approx(0.4, abs=0.08)
    truths = np.array([truth(params) for params in points])
    assert np.quantile(truths[good], 0.1) > np.quantile(truths[~good], 0.75)


def test_the_mean_over_seeds_is_the_mean_score(response, points):
    for params in points[:10]:
        finals = [response.curve(params, seed).score[-1] for seed in range(200)]
        assert np.mean(finals) == pytest.approx(response.mean_score(params), abs=0.004 + np.std(finals) / 4)


def test_the_same_question_has_the_same_answer_and_another_seed_another_one(response, points):
    for params in filter(is_learning, points[:20]):
        assert response.curve(params, 3) == response.curve(dict(params), 3)
        assert len({response.curve(params, seed).score for seed in range(NUM_SEEDS)}) > 4


def test_seeds_vary_as_the_repeated_settings_do(response):
    found = response.agreement(NUM_SEEDS)
    assert found.rank_correlation > 0.9
    assert found.recorded_noise == pytest.approx(NOISE, rel=0.4)
    assert found.noise == pytest.approx(found.recorded_noise, rel=0.35)


def test_noise_lasts_over_chunks_as_recorded(response, points):
    learning = [params for params in points[:60] if truth(params) > 0.8]
    curves = np.array([[response.curve(p, seed).score for seed in range(NUM_SEEDS)] for p in learning])
    noise = curves - curves.mean(1, keepdims=True)
    lagged = [np.corrcoef(noise[..., t].ravel(), noise[..., t + 1].ravel())[0, 1] for t in range(NUM_CHUNKS - 1)]
    assert np.mean(lagged) == pytest.approx(0.8, abs=0.15)  # as tests/simulate/recorded.py makes it


def test_the_luck_of_a_points_donors_does_not_move_its_mean():
    noise = _centered(np.random.default_rng(0).normal(0.5, 1.0, (8, 1000)))
    assert np.abs(noise.mean(0)).max() < 1e-12
    assert noise.std() == pytest.approx(1.0, abs=0.03)


def test_ties_at_the_majority_share_survive(response, points):
    found = response.agreement(NUM_SEEDS)
    assert found.recorded_ties > 0.05
    assert found.ties == pytest.approx(found.recorded_ties, abs=0.02)
    collapsed = [params for params in points if truth(params) == MAJORITY]
    exact = [all(score == MAJORITY for score in response.curve(params, 0).score) for params in collapsed]
    assert np.mean(exact) > 0.7


def test_scores_are_whole_numbers_of_rows_and_half_of_them_fit_to_all(response, points):
    for params in points[:40]:
        curve = response.curve(params, 1)
        right, half = np.array(curve.score) * NUM_ROWS, np.array(curve.half_score) * (NUM_ROWS // 2)
        assert np.allclose(right, np.rint(right))
        assert np.allclose(half, np.rint(half))
        assert np.all(half <= right + 1e-6)
        assert np.all(right - half <= NUM_ROWS / 2 + 1e-6)


def test_score_and_loss_of_a_trial_belong_together(response, points):
    for params in [params for params in points if truth(params) > 0.8][:10]:
        curves = [response.curve(params, seed) for seed in range(NUM_SEEDS)]
        scores, losses = np.array([[curve.score[-1], curve.loss[-1]] for curve in curves]).T
        assert np.corrcoef(scores, losses)[0, 1] < -0.8  # recorded: loss = 1.5 - score


def test_seconds_are_those_of_the_table(response, points):
    curve = response.curve(points[0], 0)
    assert curve.train_s == pytest.approx([0.5] * NUM_CHUNKS, rel=0.01)
    assert curve.score_s == pytest.approx(0.4)
    assert response.trial_s == pytest.approx(6.4, rel=0.01)


def test_outside_of_the_space_it_answers_as_at_the_bound(response):
    bound = {"lora.r": 64, "lora.alpha_ratio": 1.0, "train.learning_rate": 1e-4}
    beyond = {"lora.r": 256, "lora.alpha_ratio": 1.0, "train.learning_rate": 1e-6}
    assert response.curve(beyond, 0) == response.curve(bound, 0)
    assert response.mean_score(beyond) == response.mean_score(bound)


def test_a_metric_that_is_minimized_has_its_best_at_the_bottom(tmp_path):
    path = write_table(tmp_path / "toy.parquet", direction="minimize", metric="validation/loss")
    response = TableResponse(Table.read(path))
    assert not response.maximize
    assert response.best_mean < 0.4
    assert response.is_good(max(map(dict, [t.params for t in response.table.trials]), key=lambda p: -truth(p)))


def test_pruned_trials_of_a_sweep_count_as_far_as_they_went():
    complete = [study_trial(number) for number in range(16)]
    pruned = [study_trial(number, chunks=3, state=TrialState.PRUNED) for number in range(16, 30)]
    response = TableResponse(study_table([*complete, *pruned]))
    # Scores rise with the number in `study_trial`, so the pruned ones must be above the best complete trial.
    assert response.mean_score(sobol_point(SPACE, 0, 29)) > response.mean_score(sobol_point(SPACE, 0, 2))
    assert np.isfinite(response.curve(sobol_point(SPACE, 0, 3), 0).score).all()


def test_a_failed_setting_scores_as_the_worst_one(tmp_path):
    table = Table.read(write_table(tmp_path / "toy.parquet", settings=48, repeated=0))
    trials = [
        dataclasses.replace(trial, has_failed=True, score=np.full(NUM_CHUNKS, np.nan))
        if truth(trial.params) > 0.89
        else trial
        for trial in table.trials
    ]
    response = TableResponse(dataclasses.replace(table, trials=tuple(trials)))
    best = max((trial.params for trial in table.trials), key=truth)
    assert response.mean_score(best) < 0.6
