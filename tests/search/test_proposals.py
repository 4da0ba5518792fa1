"""Recipes, Sobol points and grids."""

from __future__ import annotations

import pytest

from sweeper.config.settings import Recipe
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.errors import ConfigError
from sweeper.search.proposals import Grid, fit_recipes, sobol_point, trial_seed

RANK = Dimension(key="lora.r", scale=Scale.LOG2, low=4, high=16, text="tag(log2,interval(4,16))")
RATE = Dimension(key="train.learning_rate", scale=Scale.LOG, low=1e-4, high=1e-2, text="tag(log,interval(1e-4,1e-2))")
SPACE = SearchSpace((RANK, RATE))


def _recipe(**params):
    return Recipe(name="one", params={key.replace("__", "."): value for key, value in params.items()})


def test_a_recipe_inside_the_space_is_used():
    recipe = _recipe(lora__r=8, train__learning_rate=1e-3)
    assert fit_recipes([recipe], SPACE, {}) == [("one", {"lora.r": 8, "train.learning_rate": 1e-3})]


def test_a_key_outside_the_space_is_dropped_if_it_has_the_fixed_value():
    recipe = _recipe(lora__r=8, train__learning_rate=1e-3, lora__dropout=0)
    [(_, params)] = fit_recipes([recipe], SPACE, {"lora.dropout": 0.0})
    assert set(params) == {"lora.r", "train.learning_rate"}


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (
            _recipe(lora__r=8, train__learning_rate=1e-3, lora__dropout=0.1),
            "lora.dropout=0.1 is not the fixed value",
        ),
        (_recipe(lora__r=12, train__learning_rate=1e-3), "lora.r=12 is outside"),
        (_recipe(lora__r=8, train__learning_rate=0.1), "train.learning_rate=0.1 is outside"),
        (_recipe(lora__r=8), "it has no value for train.learning_rate"),
    ],
)
def test_a_recipe_that_does_not_fit_is_skipped_with_its_reason(recipe, reason, caplog):
    with caplog.at_level("INFO"):
        assert fit_recipes([recipe], SPACE, {"lora.dropout": 0.0}) == []
    assert reason in caplog.text


def test_a_dimension_that_a_recipe_leaves_out_gets_its_fixed_value():
    [(_, params)] = fit_recipes([_recipe(lora__r=8)], SPACE, {"train.learning_rate": 2e-3})
    assert params == {"lora.r": 8, "train.learning_rate": 2e-3}


def test_recipes_that_are_equal_in_the_space_are_tried_once():
    rank_only = SearchSpace((RANK,))
    recipes = [_recipe(lora__r=8), Recipe(name="two", params={"lora.r": 8.0})]
    assert [name for name, _ in fit_recipes(recipes, rank_only, {})] == ["one"]


def test_sobol_points_spread_evenly():
    points = [sobol_point(SPACE, 3, index) for index in range(16)]
    lower_half = sum(point["train.learning_rate"] < 1e-3 for point in points)
    assert lower_half == 8


def test_sobol_points_depend_on_the_seed():
    assert sobol_point(SPACE, 0, 5) != sobol_point(SPACE, 1, 5)


def test_trial_seeds_differ_between_trials_and_studies():
    assert len({trial_seed(seed, number) for seed in range(20) for number in range(50)}) == 1000


def test_a_grid_has_every_combination_once():
    grid = Grid(SPACE, 3, seed=0)
    points = [(point["lora.r"], round(point["train.learning_rate"], 6)) for point in map(grid.point, range(grid.size))]
    assert sorted(points) == [(r, rate) for r in (4, 8, 16) for rate in (1e-4, 1e-3, 1e-2)]


def test_a_grid_uses_a_few_values_of_a_wide_integer_interval():
    wide = Dimension(key="train.batch_size", scale=Scale.LINEAR, low=8, high=512, text="interval(8,512)")
    grid = Grid(SearchSpace((wide,)), 4, seed=0)
    assert sorted(grid.point(n)["train.batch_size"] for n in range(grid.size)) == [8, 176, 344, 512]


def test_a_grid_that_is_too_large_is_an_error():
    with pytest.raises(ConfigError, match=r"300000 combinations.*Lower search\.grid_points"):
        Grid(SPACE, 100_000, seed=0)
