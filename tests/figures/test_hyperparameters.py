"""How hyperparameters are named and written."""

from __future__ import annotations

import pytest

from sweeper.config.keys import searchable_keys
from sweeper.config.settings import LoraSettings
from sweeper.figures.hyperparameters import alpha, differing_params, number_text, params_text, short_name, shown_params
from tests.builders import SPACE, make_spec


def test_alpha_is_rank_times_ratio():
    assert alpha(LoraSettings(r=8, alpha_ratio=2.0)) == 16
    assert alpha(LoraSettings(r=3, alpha_ratio=0.5)) == 1.5


def test_a_whole_alpha_is_an_int():
    assert isinstance(alpha(LoraSettings(r=8, alpha_ratio=2.0)), int)


def test_searched_hyperparameters_are_shown_after_the_usual_ones():
    assert list(shown_params(make_spec(), ["train.batch_size", "lora.r"])) == [
        "lora.r", "lora.alpha", "lora.alpha_ratio", "lora.dropout", "train.learning_rate", "train.batch_size"
    ]  # fmt: skip


def test_a_fixed_rank_is_shown_too():
    spec = make_spec(params={"lora.dropout": 0.1}, fixed={"lora.r": 4, "lora.alpha_ratio": 2.0})
    shown = shown_params(spec, ["lora.dropout"])
    assert (shown["lora.r"], shown["lora.alpha"], shown["lora.dropout"]) == (4, 8, 0.1)


def test_text_names_alpha_and_not_its_ratio():
    assert params_text(shown_params(make_spec(), SPACE)) == "r=16 alpha=32 dropout=0.05 lr=0.00123"


def test_text_names_the_ratio_where_alpha_is_not_among_the_values():
    assert params_text({"lora.r": 8, "lora.alpha_ratio": 2.0}, ", ") == "r=8, alpha/r=2"


def test_every_searchable_hyperparameter_has_a_unique_short_name():
    names = [short_name(key) for key in searchable_keys()]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8, "8"),
        (0.05, "0.05"),
        (1.23456e-4, "0.000123"),
        (1e-5, "1e-5"),
        (1024.0, "1024"),
        (True, "true"),
        ("cosine", "cosine"),
    ],
)
def test_numbers_are_short(value, text):
    assert number_text(value) == text


def test_only_hyperparameters_that_differ_are_listed():
    one, other = make_spec(fixed={"train.weight_decay": 0.1}), make_spec(params={"lora.r": 4})
    assert differing_params(one, one) == {}
    assert differing_params(one, other)["train.weight_decay"] == (0.1, 0.0)
    assert differing_params(one, other)["lora.r"] == (16, 4)
    assert "train.batch_size" not in differing_params(one, other)
