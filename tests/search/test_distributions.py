"""Real values, what samplers draw for them, and what the study database shows."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.search.distributions import (
    distributions,
    from_drawn,
    from_shown,
    shown_distributions,
    to_drawn,
    to_shown,
)

SPACE = SearchSpace(
    (
        Dimension(key="lora.r", scale=Scale.LOG2, low=4, high=64, text="a"),
        Dimension(key="lora.alpha_ratio", scale=Scale.ORDERED, choices=(0.5, 1, 2.0), text="b"),
        Dimension(key="train.lr_schedule", scale=Scale.CATEGORICAL, choices=("linear", "cosine"), text="c"),
        Dimension(key="train.batch_size", scale=Scale.LINEAR, low=8, high=64, text="d"),
        Dimension(key="lora.dropout", scale=Scale.LINEAR, low=0.0, high=0.2, text="e"),
    )
)
REAL = {
    "lora.r": 16,
    "lora.alpha_ratio": 1,
    "train.lr_schedule": "cosine",
    "train.batch_size": 24,
    "lora.dropout": 0.1,
}
DRAWN = {**REAL, "lora.r": 4, "lora.alpha_ratio": 1}


def ordered(*choices, key="lora.alpha_ratio"):
    space = SearchSpace((Dimension(key=key, scale=Scale.ORDERED, choices=choices, text="a"),))
    return shown_distributions(space)[key]


def test_samplers_draw_exponents_of_powers_of_two_and_indices_of_ordered_choices():
    assert to_drawn(SPACE, REAL) == DRAWN
    assert from_drawn(SPACE, DRAWN) == REAL


def test_the_database_shows_real_values():
    shown = to_shown(SPACE, REAL)
    assert shown == REAL
    assert isinstance(shown["lora.r"], int)
    assert shown_distributions(SPACE) == {
        "lora.r": IntDistribution(4, 64, log=True),
        "lora.alpha_ratio": FloatDistribution(0.5, 2.0, log=True),
        "train.lr_schedule": CategoricalDistribution(("linear", "cosine")),
        "train.batch_size": IntDistribution(8, 64),
        "lora.dropout": FloatDistribution(0.0, 0.2),
    }


@pytest.mark.parametrize("unit", [0.0, 0.4, 0.99])
def test_what_the_database_has_reads_as_the_same_values_and_types(unit):
    """Optuna stores every parameter as a number, and a server may round it."""
    params = SPACE.point((unit,) * len(SPACE))
    shown, kinds = to_shown(SPACE, params), shown_distributions(SPACE)
    stored = {key: kinds[key].to_internal_repr(shown[key]) for key in kinds}
    stored["lora.alpha_ratio"] *= 1 + 1e-15
    read = from_shown(SPACE, {key: kinds[key].to_external_repr(stored[key]) for key in kinds})
    assert read == params
    assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in params.items()}


def test_a_number_that_is_no_choice_is_not_read_as_one():
    assert from_shown(SPACE, {**REAL, "lora.alpha_ratio": 1.5})["lora.alpha_ratio"] == 1.5


@pytest.mark.parametrize(
    ("choices", "log"),
    [((4, 8, 16, 32), True), ((1, 2, 3), False), ((2, 4), False), ((8,), False)],
)
def test_ordered_choices_are_shown_on_the_scale_on_which_they_are_even(choices, log):
    assert ordered(*choices).log is log


def test_ordered_choices_from_zero_are_shown_on_a_linear_scale():
    assert ordered(0.0, 0.05, 0.2, key="lora.dropout") == FloatDistribution(0.0, 0.2)


def test_ordered_choices_that_are_whole_numbers_are_shown_as_such():
    assert ordered(4, 8, key="lora.r") == IntDistribution(4, 8)
    assert isinstance(ordered(0.5, 1), FloatDistribution)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_lies_in_the_space(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    assert SPACE.contains(from_drawn(SPACE, study.ask(distributions(SPACE)).params))
