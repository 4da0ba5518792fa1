"""The default recipe and its trial."""

from __future__ import annotations

import pytest

from sweeper.config.settings import Recipe, SearchSettings
from sweeper.figures.recipes import default_recipe, default_trial, recipe_name, recipe_origin, recorded_default_recipe
from sweeper.types import TrialState
from tests.builders import make_default, make_spec, make_trial


def test_the_default_is_the_first_of_the_recipes():
    recipes = [Recipe(name="one", params={}), Recipe(name="two", params={})]
    assert default_recipe(SearchSettings(recipes=recipes)).name == "one"
    assert recorded_default_recipe({"settings": {"search": {"recipes": [{"name": "one"}, {"name": "two"}]}}}) == "one"


@pytest.mark.parametrize("sweep", [{}, {"settings": {}}, {"settings": {"search": {"recipes": []}}}])
def test_without_recipes_there_is_no_default(sweep):
    assert recorded_default_recipe(sweep) == ""
    assert default_recipe(SearchSettings(recipes=[])) is None
    assert default_trial([make_default(0.9)], "") is None


def test_the_name_of_a_recipe_is_read_from_the_trials_origin():
    assert recipe_name(make_spec(origin=recipe_origin("one"))) == "one"
    assert recipe_name(make_spec(origin="tpe")) == ""


def test_the_default_is_found_by_its_recipe_and_prefers_a_complete_trial():
    trials = [make_trial(0, 0.9), make_default(0.5, 1, state=TrialState.FAILED), make_default(0.8, 2)]
    assert default_trial(trials, "peft_default").spec.number == 2
    assert default_trial(trials, "other") is None
