"""Which recipes are trained for comparison, and under which numbers."""

from __future__ import annotations

import pytest

from sweeper.config.dimensions import parse_space
from sweeper.config.settings import MAX_TRIALS, Recipe, SearchSettings, SweepSettings
from sweeper.figures.recipes import FIRST_CONFIRMATION_NUMBER
from sweeper.figures.recipes import FIRST_REFERENCE_NUMBER as FIRST
from sweeper.sweep.plan import reference_recipes

DEFAULT = Recipe(name="default", params={"lora.r": 8, "lora.alpha_ratio": 1.0})
OTHER = Recipe(name="other", params={"lora.r": 16})
PLAIN = Recipe(name="plain", params={**DEFAULT.params, "train.head_lr_ratio": 1.0})


def names_of(references, *, recipes=(DEFAULT, OTHER), space="choice(4,8,16)", sampler="tpe"):
    search = SearchSettings(recipes=list(recipes), references=list(references), sampler=sampler)
    found = reference_recipes(SweepSettings(search=search), parse_space({"lora.r": space}))
    return {number: recipe.name for number, recipe in found.items()}


def test_no_trial_of_the_largest_search_has_the_number_of_a_reference_nor_a_reference_that_of_a_confirmation():
    # Numbers that a kill wastes are not in the budget; there would have to be 900,000 of them.
    assert 9 * MAX_TRIALS < FIRST
    most = [Recipe(name=f"recipe {rank}", params={"lora.r": rank}) for rank in range(1, 1000)]
    assert max(names_of(most)) < FIRST_CONFIRMATION_NUMBER


def test_references_are_numbered_by_position_after_the_default_recipe():
    third = Recipe(name="third", params={"lora.r": 3})
    assert names_of([PLAIN, third]) == {FIRST + 1: "plain", FIRST + 2: "third"}


def test_the_default_recipe_is_a_reference_only_outside_the_space_and_changes_no_other_number():
    assert names_of([PLAIN], space="choice(4,16)") == {FIRST: "default", FIRST + 1: "plain"}
    assert names_of([PLAIN], sampler="grid") == {FIRST: "default", FIRST + 1: "plain"}
    assert names_of([]) == {}


@pytest.mark.parametrize(
    "params",
    [{"lora.r": 8}, {"lora.r": 8.0, "lora.alpha_ratio": 1}, {"lora.r": 16}, {"lora.r": 8, "train.head_lr_ratio": 30}],
)
def test_a_reference_that_equals_a_recipe_of_the_search_is_not_trained_again(params):
    assert names_of([Recipe(name="same", params=params), PLAIN]) == {FIRST + 2: "plain"}


def test_a_reference_that_equals_an_earlier_one_is_not_trained_again():
    again = Recipe(name="again", params=PLAIN.params)
    assert names_of([PLAIN, again]) == {FIRST + 1: "plain"}
    same_as_default = Recipe(name="same", params=DEFAULT.params)
    assert names_of([same_as_default], space="choice(4,16)") == {FIRST: "default"}


def test_a_recipe_outside_the_space_that_is_also_a_reference_is_trained():
    assert names_of([Recipe(name="again", params=OTHER.params)], space="choice(4,8)") == {FIRST + 1: "again"}


def test_without_recipes_the_references_keep_their_numbers():
    assert names_of([PLAIN], recipes=()) == {FIRST + 1: "plain"}


def references_of(epochs, *, space, usual=0):
    """Return the names of the references of a space with epochs; each of ``epochs`` is a reference, 0 names none."""
    search = SearchSettings(
        recipes=[DEFAULT, OTHER],
        references=[
            Recipe(name=f"{n}", params={**DEFAULT.params, **({"train.epochs": n} if n else {})}) for n in epochs
        ],
        sampler="tpe",
    )
    settings = SweepSettings(search=search)
    settings.train.epochs = usual
    return [r.name for r in reference_recipes(settings, parse_space({"lora.r": "choice(8,16)", **space})).values()]


def test_with_searched_epochs_a_recipe_that_names_none_is_tried_and_another_number_is_another_configuration():
    searched = {"train.epochs": "interval(1,4)"}
    assert references_of([0, 1, 2], space=searched) == ["1", "2"]
    assert references_of([0, 2, 3], space=searched, usual=2) == ["3"]
    assert references_of([0], space={"train.epochs": "choice(3,4)"}) == []
