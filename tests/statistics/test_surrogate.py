"""The surrogate on searches whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.synthetic_sweeps import NUM_ROWS, SPACE, additive_surface, null_surface, simulate
from sweeper.config.dimensions import parse_space
from sweeper.statistics import kernel, surrogate
from sweeper.statistics.observations import Encoder, Score, ScoredTrial, scored_trials
from sweeper.statistics.surrogate import MIN_TRIALS, fit_study, fit_surrogate, probability_best
from sweeper.types import Phase
from tests.builders import DEFAULT_PARAMS, make_measurement, make_study, make_trial


def fit(trials, **options):
    return fit_surrogate(SPACE, trials, num_rows=NUM_ROWS, **options)


@pytest.fixture(scope="module")
def additive():
    return fit(simulate(additive_surface, seed=3))


def test_the_gradient_is_that_of_the_log_posterior(additive):
    data = additive._members[0].data
    units = np.random.default_rng(0).standard_normal(kernel.Parameters.size(data))
    _, gradient = kernel.log_posterior(units, data)
    step = 1e-5
    numeric = [
        (kernel.log_posterior(units + step * e, data)[0] - kernel.log_posterior(units - step * e, data)[0]) / (2 * step)
        for e in np.eye(len(units))
    ]
    assert gradient == pytest.approx(numeric, abs=1e-4)


def test_left_out_blocks_are_predicted_as_if_they_were_removed(additive):
    """The closed form of the quality is checked against a posterior without the trial."""
    member, trials = additive._members[0], additive.trials
    rest = [trial for trial in trials if trial is not trials[5]]
    data = surrogate._data(rest, additive.encoder, additive._score, NUM_ROWS)
    without = surrogate._Member(member.kernel.parameters, data)
    one = surrogate._data([*rest, trials[5]], additive.encoder, additive._score, NUM_ROWS)
    block = one.trial_N == len(rest)
    covariance = member.kernel.scores(one, member.kernel.matern(one.x_UC, one.x_UC))
    expected = covariance[np.ix_(block, ~block)] @ without.weights_N
    assert surrogate._left_out(member)[member.data.trial_N == 5] == pytest.approx(expected, abs=1e-6)


def test_a_surface_is_learned_and_noise_is_not(additive):
    assert additive.quality.is_sufficient
    assert not any(fit(simulate(null_surface, seed=seed)).quality.is_sufficient for seed in range(4))


def test_few_trials_claim_nothing():
    quality = fit(simulate(additive_surface, seed=3)[: MIN_TRIALS - 1]).quality
    assert not quality.is_sufficient
    assert quality.num_trials == MIN_TRIALS - 1


def test_predictions_are_near_the_truth_and_the_bands_contain_it(additive):
    points = np.random.default_rng(1).random((40, 5))
    true = np.array([additive_surface(SPACE.point(tuple(point))) for point in points])
    units = additive.encoder.encode([SPACE.point(tuple(point)) for point in points])
    draws = additive.values(additive.draw_scores(units, num_draws=600, seed=0))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    assert np.abs(additive.values(additive.mean_scores(units)) - true).mean() < 0.03
    assert np.mean((low <= true) & (true <= high)) >= 0.85


def test_function_draws_have_the_posterior_of_joint_draws(additive):
    points = additive.encoder.encode_units(np.random.default_rng(1).random((30, 5)))
    draws = additive.functions(num_draws=2400, seed=1)(points)
    exact = additive.draw_scores(points, num_draws=2400, seed=0)
    assert np.abs(draws.mean(0) - exact.mean(0)).max() < 0.1 * exact.std(0).max() + 0.05
    assert draws.std(0) == pytest.approx(exact.std(0), rel=0.2)
    assert np.corrcoef(draws.T) == pytest.approx(np.corrcoef(exact.T), abs=0.25)


def test_the_probability_of_being_best_is_high_where_the_truth_is(additive):
    configurations = [trial.params for trial in additive.trials]
    found = probability_best(additive, configurations)
    true = [additive_surface(params) for params in configurations]
    assert sum(found) == pytest.approx(1)
    assert true[int(np.argmax(found))] > max(true) - 0.02
    assert sum(p for p, value in zip(found, true, strict=True) if value < max(true) - 0.1) < 0.15


def test_equal_configurations_share_their_probability(additive):
    configurations = [trial.params for trial in additive.trials]
    alone = probability_best(additive, configurations)
    twice = probability_best(additive, [*configurations, configurations[0]])
    assert twice[0] == twice[-1] == pytest.approx(alone[0] / 2)


def test_the_same_trials_give_the_same_answers(additive):
    again = fit(simulate(additive_surface, seed=3))
    configurations = [trial.params for trial in additive.trials]
    assert probability_best(again, configurations) == probability_best(additive, configurations)


def test_a_pruned_trial_tells_by_its_early_score():
    trials = simulate(additive_surface, seed=3, prunes=False)
    point = {**trials[0].params, "train.learning_rate": 2e-3, "lora.r": 32}
    other = {**point, "train.head_lr_ratio": 20.0}
    early = [trial.values[0] for trial in trials]
    good = ScoredTrial(number=90, params=point, shares=(1 / 6,), values=(max(early) + 0.01,))
    bad = ScoredTrial(number=91, params=other, shares=(1 / 6,), values=(max(early) - 0.15,))
    found = probability_best(fit([*trials, good, bad]), [point, other])
    assert found[0] > 0.8


def test_further_seeds_of_a_configuration_settle_its_value():
    trials = simulate(null_surface, seed=2)
    params = trials[0].params
    seeds = [ScoredTrial(number=100 + k, params=params, shares=(1.0,), values=(0.9,)) for k in range(6)]
    found = probability_best(fit([*trials, *seeds]), [trial.params for trial in trials])
    assert found[0] > 0.9


def test_a_loss_is_minimized():
    trials = [
        ScoredTrial(number=t.number, params=t.params, shares=t.shares, values=tuple(1.2 - v for v in t.values))
        for t in simulate(additive_surface, seed=3)
    ]
    found = fit_surrogate(SPACE, trials, maximize=False)
    best = int(np.argmax(probability_best(found, [trial.params for trial in trials])))
    assert found.quality.is_sufficient
    assert additive_surface(trials[best].params) > 0.85


def test_without_trials_every_configuration_is_as_likely():
    empty = fit([])
    assert probability_best(empty, [DEFAULT_HEAD, {**DEFAULT_HEAD, "lora.r": 4}]) == [0.5, 0.5]
    assert not empty.quality.is_sufficient


DEFAULT_HEAD = {**DEFAULT_PARAMS, "train.head_lr_ratio": 30.0}


def test_many_trials_are_thinned_but_the_best_stay():
    trials = [
        ScoredTrial(number=n, params={**DEFAULT_HEAD, "lora.dropout": n / 10_000}, shares=(0.25, 0.5, 1.0), values=v)
        for n, v in ((n, (0.5, 0.6, 0.6 + n / 10_000)) for n in range(1000))
    ]
    kept = surrogate._thin(trials, maximize=True)
    assert sum(len(trial.values) for trial in kept) <= surrogate._MAX_VALUES + 100
    assert {trial.number for trial in trials[-50:]} <= {trial.number for trial in kept}
    assert all(trial.shares == (0.25, 1.0) for trial in kept)


def test_the_scale_spreads_the_best_scores_and_returns():
    values = np.array([0.5, 0.9, 1.0])
    score = Score.of(values, maximize=True)
    assert score.restore(score.transform(values)) == pytest.approx(values)
    assert np.diff(score.transform(np.array([0.5, 0.6, 0.9, 1.0])))[-1] > 1.5
    losses = Score.of(np.array([0.5, 2.0]), maximize=False)
    assert losses.transform(np.array([0.5]))[0] > losses.transform(np.array([2.0]))[0]
    plain = Score.of(np.array([-3.0, 5.0]), maximize=True)
    assert plain.restore(plain.transform(np.array([5.0]))) == pytest.approx([5.0])


def test_points_of_numbers_lists_and_categories():
    texts = {
        "lora.r": "choice(4,8,16)",
        "train.lr_schedule": "choice(linear,constant)",
        "lora.dropout": "interval(0,0.2)",
    }
    encoder = Encoder(parse_space(texts))
    params = {"lora.r": 12, "train.lr_schedule": "constant", "lora.dropout": 0.3}
    other = {**params, "train.lr_schedule": "linear"}
    one, two = encoder.encode([params, other])
    assert one[0] == pytest.approx(0.75)
    assert one[-1] == pytest.approx(1.5)
    assert math.dist(one, two) == pytest.approx(1)
    units = (0.5, 0.9, 0.25)
    assert encoder.encode_units(np.array([units])) == pytest.approx(encoder.encode([encoder.space.point(units)]))


def test_trials_that_have_no_place_in_the_space_or_no_score_are_left_out():
    study = make_study()
    space = parse_space(study.space)
    kept = make_trial(0, measurements=(make_measurement(3, 0.5), make_measurement(6, math.nan)))
    foreign = make_trial(1, 0.8, params={"train.head_init": "random"}, phase=Phase.REFERENCE)
    unscored = make_trial(2, measurements=())
    found = scored_trials(study, [kept, make_trial(3, 0.8), foreign, unscored], space)
    assert [trial.number for trial in found] == [0, 3]
    assert found[0].shares == (0.25,)
    assert found[0].values == (0.5,)


def test_a_study_is_fitted_from_its_records():
    study = make_study()
    found = fit_study(
        study, [make_trial(n, 0.5 + n / 10, params={"lora.r": 2**n}) for n in range(4)], parse_space(study.space)
    )
    assert found.quality.num_trials == 4


def test_scores_are_at_their_share_of_the_trials_own_training():
    space = parse_space({"lora.r": "choice(4,8,16)", "train.epochs": "choice(1,2,3)"})
    study = make_study(space=space.texts)
    trials = []
    for epochs in (1, 2, 3):
        last = 4 * epochs
        measurements = [make_measurement(chunk, 0.7) for chunk in (3, 6, 12) if chunk < last]
        measurements.append(make_measurement(last, 0.8))
        params = {"lora.r": 8, "train.epochs": epochs}
        trials.append(make_trial(epochs, params=params, measurements=tuple(measurements)))
    found = scored_trials(study, trials, space)
    assert [trial.shares for trial in found] == [(0.75, 1.0), (3 / 8, 0.75, 1.0), (0.25, 0.5, 1.0)]
    assert all(trial.is_complete for trial in found)
    assert [trial.params["train.epochs"] for trial in found] == [1, 2, 3]
