"""``space=auto`` and ``recipes=auto``: which space and recipes they stand for, at once or when the model is known."""

from __future__ import annotations

import pytest
import yaml

from sweeper.config.compose import CONFIG_DIR, as_yaml, compose
from sweeper.config.settings import MODEL_KINDS
from sweeper.errors import ConfigError
from sweeper.search.proposals import fit_recipes

HUB = ["dataset=trec", "model=hub", "model.id=somebody/something", "model.name=mine"]
CHAT = [*HUB, "task=causal_lm"]
LARGE = {
    "lora.r": "tag(log2,interval(8,128))",
    "lora.alpha_ratio": "tag(log,interval(0.25,4))",
    "lora.dropout": "interval(0,0.1)",
    "train.learning_rate": "tag(log,interval(2e-5,1e-3))",
}
TODAY = {
    "lora.r": "tag(log2,interval(1,64))",
    "lora.alpha_ratio": "tag(log,interval(0.25,8))",
    "lora.dropout": "interval(0,0.2)",
    "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
    "train.head_lr_ratio": "tag(log,interval(3,100))",
}
"""The space of encoders, which studies, portfolios and recorded decisions depend on."""


def recipes(config):
    return {recipe.name: recipe.params for recipe in config.settings.search.recipes}


def test_the_default_model_has_its_space_and_its_recipes_at_once():
    config = compose([])
    assert config.pending is None
    assert (config.settings.space.name, config.space.texts) == ("default", TODAY)
    assert config == compose(["space=default", "recipes=encoder"])
    assert list(recipes(config)) == ["peft_default", "alpha_2r", "r16", "lr_3e-4", "lr_3e-3", "lr_1e-2"]
    assert recipes(config)["peft_default"]["train.learning_rate"] == 1e-3


def test_a_language_model_starts_at_2e_4_and_searches_around_it():
    config = compose([*CHAT, "model.kind=language_model"])
    assert config.pending is None
    assert (config.settings.space.name, config.space.texts) == ("language_model", LARGE)
    assert config.settings.search.recipes[0].name == "peft_default"
    assert recipes(config)["peft_default"]["train.learning_rate"] == 2e-4


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_every_recipe_lies_in_the_space_of_its_kind(kind):
    config = compose([*HUB, f"model.kind={kind}"])
    fitting = fit_recipes(config.settings.search.recipes, config.space, {"train.head_lr_ratio": 30.0})
    assert [name for name, _ in fitting] == list(recipes(config))
    assert config.settings.search.references[0].name == "plain_peft"
    plain, default = config.settings.search.references[0].params, config.settings.search.recipes[0].params
    assert {**plain, **default} == plain  # the reference is the default recipe with another head


def test_the_experiment_with_smollm2_keeps_the_space_that_its_table_was_measured_in():
    config = compose(["experiment=smollm2_trec"])
    space = yaml.safe_load((CONFIG_DIR / "experiment" / "smollm2_trec.yaml").read_text())["space"]
    assert (config.settings.space.name, config.space.texts) == (space["name"], space["dimensions"])
    assert config.settings.model.kind == "small_language_model"
    assert config.pending is None


@pytest.mark.parametrize(("overrides", "kind"), [(HUB, "encoder"), (CHAT, "language_model")])
def test_until_the_model_is_known_the_likelier_kind_is_checked(overrides, kind):
    config = compose(overrides)
    assert config.pending is not None
    assert (config.settings.space.name, config.settings.model.kind) == ("auto", "auto")
    known = config.for_kind(kind)
    assert config.space == known.space
    assert recipes(config) == recipes(known)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_a_known_kind_gives_what_the_setting_would_have_given(kind):
    settled, told = compose(CHAT).for_kind(kind), compose([*CHAT, f"model.kind={kind}"])
    assert (settled.settings, settled.space, settled.pending) == (told.settings, told.space, None)
    assert settled.for_kind("encoder") is settled


def test_overrides_change_the_space_that_is_chosen_later():
    changes = ["lora.r=4", "train.learning_rate=tag(log,interval(1e-5,1e-4))", "train.weight_decay=interval(0,0.1)"]
    config = compose([*CHAT, *changes, "space.dimensions={lora.dropout: null}"]).for_kind("language_model")
    assert config.space.texts == {
        "lora.alpha_ratio": LARGE["lora.alpha_ratio"],
        "train.learning_rate": "tag(log,interval(1e-5,1e-4))",
        "train.weight_decay": "interval(0,0.1)",
    }
    assert config.settings.lora.r == 4


@pytest.mark.parametrize("chosen", ["space=baseline", "space=default"])
def test_a_space_that_is_chosen_stays_while_recipes_follow_the_model(chosen):
    before = compose([*CHAT, chosen])
    config = before.for_kind("language_model")
    assert config.space == before.space
    assert config.settings.space == before.settings.space
    assert recipes(config)["peft_default"]["train.learning_rate"] == 2e-4


def test_nothing_is_pending_if_both_are_chosen():
    config = compose([*CHAT, "space=default", "recipes=encoder"])
    assert config.pending is None
    assert recipes(config)["peft_default"]["train.learning_rate"] == 1e-3


def test_recipes_of_the_user_replace_those_of_the_model(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(
        "# @package search\nsampler: tpe\nrecipes: [{name: own, params: {lora.r: 32}}]\n"
    )
    typed = compose([*CHAT, "search.recipes=[{name: own, params: {lora.r: 32}}]"])
    for config in (compose([*CHAT, "search=mine"], config_dir=tmp_path), typed):
        assert recipes(config.for_kind("language_model")) == {"own": {"lora.r": 32}}


def test_what_the_caller_changed_is_kept_when_the_kind_is_known():
    config = compose(CHAT)
    config.settings.budget.trials = 3
    assert config.for_kind("language_model").settings.budget.trials == 3


def test_a_mistake_shows_before_the_model_is_known():
    with pytest.raises(ConfigError, match="from 1 to 1024, not 0"):
        compose([*CHAT, "lora.r=choice(0,4)"])
    with pytest.raises(ConfigError, match=r"model\.kind.*one of auto, encoder"):
        compose([*CHAT, "model.kind=decoder"])
    with pytest.raises(ConfigError, match="there is no space 'langage_model'"):
        compose([*CHAT, "space=langage_model"])


def test_the_printed_configuration_says_what_is_a_guess():
    assert as_yaml(compose(CHAT)).startswith("# model.kind=auto: what is shown of the space")
    assert "#" not in as_yaml(compose(CHAT).for_kind("encoder"))
    assert yaml.safe_load(as_yaml(compose(CHAT)))["space"]["dimensions"] == LARGE
