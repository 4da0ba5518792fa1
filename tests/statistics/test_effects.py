"""Effects of settings on searches whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.synthetic_sweeps import NUM_ROWS, SHARES, SPACE, additive_surface, null_surface, ridge_surface, simulate
from sweeper.config.dimensions import parse_space
from sweeper.statistics.effects import EFFECTIVE_RATE, effective_rate, study_effects
from sweeper.statistics.landscape import NUM_GRID
from sweeper.statistics.surrogate import ScoredTrial, fit_surrogate

DEFAULT = dict(zip(SPACE.keys, (8, 1.0, 0.0, 1e-3, 30.0), strict=True))
BEST = {**DEFAULT, "lora.r": 64, "train.learning_rate": 2e-3}


def effects_of(surface, *, num_trials=40, seed=1):
    surrogate = fit_surrogate(SPACE, simulate(surface, num_trials=num_trials, seed=seed), num_rows=NUM_ROWS)
    return study_effects(surrogate, fixed={}, default=DEFAULT, best=BEST)


@pytest.fixture(scope="module")
def additive():
    return effects_of(additive_surface)


@pytest.fixture(scope="module")
def ridge():
    return effects_of(ridge_surface(-1.0), num_trials=60)


def by_key(entries):
    return {entry["key"]: entry for entry in entries}


def test_the_key_that_matters_is_found(additive):
    importance = by_key(additive["importance"])
    assert additive["importance"][0]["key"] == "train.learning_rate"
    assert importance["train.learning_rate"]["share"]["low"] > 0.3
    assert importance["lora.dropout"]["share"]["low"] < 0.05


def test_the_intervals_contain_the_true_indices(additive):
    points = [{"lora.r": 2**k, "train.learning_rate": rate} for k in range(7) for rate in np.geomspace(1e-4, 1e-2, 101)]
    scores = -np.log(1.02 - np.array([additive_surface(point) for point in points])).reshape(7, 101)
    importance = by_key(additive["importance"])
    for key, axis in (("lora.r", 0), ("train.learning_rate", 1)):
        share = importance[key]["share"]
        assert share["low"] <= scores.var(axis=axis).mean() / scores.var() <= share["high"]


def test_an_interaction_is_found_where_there_is_one(ridge, additive):
    first = ridge["interactions"][0]
    assert first["keys"] == ["lora.r", "lora.alpha_ratio"]
    assert first["share"]["low"] > 0.1
    assert all(pair["share"]["low"] < 0.05 for pair in additive["interactions"])


def test_a_profile_is_the_best_over_the_other_keys(ridge):
    profile = by_key(ridge["profiles"])["lora.r"]
    assert profile["x"] == [1, 2, 4, 8, 16, 32, 64]
    # Along the ridge every rank from 2 to 64 reaches 0.9; the mean over alpha differs by far more.
    assert np.ptp(profile["best"][1:]) < 0.03
    assert all(low <= 0.905 and high >= 0.895 for low, high in zip(profile["low"], profile["high"], strict=True))


def test_the_profile_of_the_learning_rate_has_its_shape(additive):
    profile = by_key(additive["profiles"])["train.learning_rate"]
    best = profile["x"][int(np.argmax(profile["best"]))]
    assert 5e-4 < best < 5e-3
    assert profile["scale"] == "log"
    assert profile["best"][0] < max(profile["best"]) - 0.03


def test_points_and_data_of_a_profile(additive):
    profile = by_key(additive["profiles"])["lora.dropout"]
    assert len(profile["points"]) == additive["quality"]["num_trials"]
    assert {is_final for _, _, is_final in profile["points"]} == {True, False}
    assert len(profile["has_data"]) == len(profile["x"])


def test_values_without_trials_are_marked():
    trials = [t for t in simulate(additive_surface, num_trials=60, seed=1) if t.params["lora.r"] < 32]
    found = study_effects(fit_surrogate(SPACE, trials, num_rows=NUM_ROWS), fixed={})
    profile = by_key(found["profiles"])["lora.r"]
    assert profile["has_data"][-1] is False
    assert profile["has_data"][3] is True
    contour = found["contours"][1]
    assert contour["keys"] == ["lora.r", "train.learning_rate"]
    assert not any(row[-1] for row in contour["has_data_YX"])
    assert np.shape(contour["mean_YX"]) == (len(contour["y"]), len(contour["x"]))


def test_the_effective_rate_has_a_profile(additive):
    assert effective_rate({"lora.r": 16, "lora.alpha_ratio": 2.0, "train.learning_rate": 1e-3}, {}) == 8e-3
    assert effective_rate({"train.learning_rate": 1e-3}, {"lora.r": 4, "lora.alpha_ratio": 1.0}) == 2e-3
    profile = by_key(additive["profiles"])[EFFECTIVE_RATE]
    assert profile["x"] == sorted(profile["x"])
    assert np.isfinite(profile["best"]).all()


@pytest.mark.parametrize("rates", ["tag(log,interval(1e-3,1.2e-3))", "tag(log,interval(1e-4,1e-2))"])
def test_effective_rates_that_no_configuration_has_are_left_out(rates):
    """Between two ranks, a narrow range of learning rates leaves gaps; and rounding must not leave out the ends."""
    space = parse_space({"lora.r": "choice(2,64)", "lora.alpha_ratio": "choice(0.5,4)", "train.learning_rate": rates})
    draw = np.random.default_rng(0)
    trials = []
    for number in range(24):
        params = space.point(tuple(draw.random(3)))
        score = 0.6 + 0.15 * (params["lora.r"] == 64) + 0.02 * draw.standard_normal()
        trials.append(ScoredTrial(number=number, params=params, shares=SHARES[:1], values=(float(score),)))
    surrogate = fit_surrogate(space, trials, num_rows=NUM_ROWS)
    default = dict(trials[0].params)
    found = study_effects(surrogate, fixed={}, default=default, best=dict(trials[1].params))
    json.dumps(found, allow_nan=False)
    profile = by_key(found["profiles"])[EFFECTIVE_RATE]
    assert len(profile["x"]) == len(profile["best"]) == len(profile["has_data"])
    assert (len(profile["x"]) < NUM_GRID) == rates.endswith("1.2e-3))")


def test_the_path_leads_from_default_to_best_by_the_largest_gain_first(additive):
    path = additive["path"]
    assert [step["key"] for step in path] in (
        [None, "lora.r", "train.learning_rate"],
        [None, "train.learning_rate", "lora.r"],
    )
    assert path[0]["params"] == DEFAULT
    steps = by_key(path)
    assert (steps["lora.r"]["from"], steps["lora.r"]["to"]) == (8, 64)
    assert path[-1]["value"]["estimate"] > path[0]["value"]["estimate"]


def test_the_correlation_of_the_first_rung_corrects_for_pruning(additive):
    whole = simulate(additive_surface, num_trials=40, seed=1, prunes=False)
    early, late = ([trial.values[at] for trial in whole] for at in (0, -1))
    true = np.corrcoef(np.argsort(np.argsort(early)), np.argsort(np.argsort(late)))[0, 1]
    first = additive["rung_correlation"][0]
    assert first["num_trials"] == 40
    assert first["correlation"]["low"] <= true <= first["correlation"]["high"]
    assert first["correlation"]["estimate"] > 0.5


def test_nothing_is_claimed_about_noise():
    found = effects_of(null_surface)
    assert found["quality"]["is_sufficient"] is False
    assert all(found[name] == [] for name in found if name != "quality")


def test_the_values_are_json(additive):
    assert json.loads(json.dumps(additive)) == additive


def test_categories_have_profiles_too():
    space = parse_space(
        {"train.lr_schedule": "choice(linear,constant)", "train.learning_rate": "tag(log,interval(1e-4,1e-2))"}
    )
    schedules = ("linear", "constant")
    trials = [
        type(trial)(
            number=trial.number,
            params={
                "train.lr_schedule": schedules[trial.number % 2],
                "train.learning_rate": trial.params["train.learning_rate"],
            },
            shares=trial.shares,
            values=tuple(value - 0.1 * (trial.number % 2) for value in trial.values),
        )
        for trial in simulate(additive_surface, num_trials=40, seed=1)
    ]
    found = study_effects(fit_surrogate(space, trials, num_rows=NUM_ROWS), fixed={"lora.r": 8, "lora.alpha_ratio": 1.0})
    profile = by_key(found["profiles"])["train.lr_schedule"]
    assert profile["x"] == list(schedules)
    assert profile["low"][0] > profile["best"][1]
    assert found["contours"] == []
