"""Real values and what Optuna stores of them."""

from __future__ import annotations

import optuna
import pytest

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.search.distributions import distributions, from_stored, suggest, to_stored

SPACE = SearchSpace(
    (
        Dimension(key="lora.r", scale=Scale.LOG2, low=4, high=64, text="a"),
        Dimension(key="lora.alpha_ratio", scale=Scale.ORDERED, choices=(0.5, 1.0, 2.0), text="b"),
        Dimension(key="train.lr_schedule", scale=Scale.CATEGORICAL, choices=("linear", "cosine"), text="c"),
        Dimension(key="train.batch_size", scale=Scale.LINEAR, low=8, high=64, text="d"),
        Dimension(key="lora.dropout", scale=Scale.LINEAR, low=0.0, high=0.2, text="e"),
    )
)
REAL = {
    "lora.r": 16,
    "lora.alpha_ratio": 2.0,
    "train.lr_schedule": "cosine",
    "train.batch_size": 24,
    "lora.dropout": 0.1,
}
STORED = {
    "lora.r": 4,
    "lora.alpha_ratio": 2,
    "train.lr_schedule": "cosine",
    "train.batch_size": 24,
    "lora.dropout": 0.1,
}


def test_powers_of_two_are_stored_as_exponents_and_ordered_choices_as_indices():
    assert to_stored(SPACE, REAL) == STORED
    assert from_stored(SPACE, STORED) == REAL


@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_lies_in_the_space(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    assert SPACE.contains(suggest(study.ask(), SPACE))


def test_suggest_uses_the_same_distributions():
    trial = optuna.create_study().ask()
    suggest(trial, SPACE)
    assert trial.distributions == distributions(SPACE)
