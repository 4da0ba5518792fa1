"""Contracts of every file of conf/ and of every setting; new ones are found automatically."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sweeper.config.compose import CONFIG_DIR, compose
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.keys import all_keys, searchable_keys
from sweeper.errors import ConfigError
from sweeper.tasks import make_task

YAMLS = sorted(path.relative_to(CONFIG_DIR.resolve()) for path in CONFIG_DIR.resolve().glob("*/[!_]*.yaml"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Environment variables that files of conf/ use."""
    monkeypatch.setenv("SWEEPER_NOTIFY", "json://localhost")


def _chosen(path: Path) -> list[str]:
    group, option = path.parent.name, path.stem
    return [f"{group}={option}", *(["dataset=trec"] if group != "dataset" else [])]


def test_every_group_has_a_file():
    groups = {path.parent.name for path in YAMLS}
    assert groups >= {"dataset", "model", "task", "method", "space", "search", "executor", "budget", "tracker"}


@pytest.mark.parametrize("path", YAMLS, ids=str)
def test_every_file_composes(path):
    config = compose(_chosen(path))
    assert len(config.space) >= 1


@pytest.mark.parametrize("path", YAMLS, ids=str)
def test_every_file_explains_when_to_use_it(path):
    lines = (CONFIG_DIR / path).read_text().splitlines()
    leading = []
    for line in lines:
        if not line.startswith("#"):
            break
        leading.append(line.lstrip("# "))
    comment = " ".join(line for line in leading if not line.startswith("@package"))
    assert len(comment) > 40, f"conf/{path} does not say what it is for"


@pytest.mark.parametrize("path", [path for path in YAMLS if path.parent.name == "space"], ids=str)
def test_every_space_explains_when_to_use_it_and_has_a_unique_name(path):
    text = (CONFIG_DIR / path).read_text()
    assert "# Use " in text
    # auto has no name of its own: it stands for one of the others
    assert yaml.safe_load(text).get("name", "auto") == path.stem


@pytest.mark.parametrize("path", [path for path in YAMLS if path.parent.name == "search"], ids=str)
def test_every_search_tries_the_known_recipes_first(path):
    recipes = compose(_chosen(path)).settings.search.recipes
    names = [recipe.name for recipe in recipes]
    assert names == ["peft_default", "alpha_2r", "r16", "lr_3e-4", "lr_3e-3", "lr_1e-2"]
    assert recipes[0].params["lora.r"] == 8
    assert recipes[0].params["lora.alpha_ratio"] == 1.0
    assert recipes[2].params["lora.r"] * recipes[2].params["lora.alpha_ratio"] == 32


def test_the_recipe_as_people_run_it_today_is_a_reference():
    settings = compose([]).settings
    (plain,) = settings.search.references
    default = settings.search.recipes[0]
    assert plain.params == {**default.params, "train.head_lr_ratio": 1.0, "train.head_init": "random"}


@pytest.mark.parametrize("path", [path for path in YAMLS if path.parent.name == "task"], ids=str)
def test_every_task_file_says_whether_the_task_has_a_head(path):
    settings = compose(_chosen(path)).settings.task
    assert make_task(settings.name).has_head is settings.has_head


@pytest.mark.parametrize("space", sorted(path.stem for path in YAMLS if path.parent.name == "space"))
def test_every_space_can_be_narrowed(space):
    config = compose(["dataset=trec", f"space={space}", "lora.r=8"])
    assert "lora.r" not in config.space.keys


@pytest.mark.parametrize("key", ["executor.lanes", "model.max_length"])
@pytest.mark.parametrize("wrong", ["0", "-1", "many", "2000000"])
def test_a_number_or_auto_is_checked(key, wrong):
    assert compose(["dataset=trec", f"{key}=auto"])
    with pytest.raises(ConfigError, match=f"{key}={wrong}: must be a whole number from 1 to .*, or auto"):
        compose(["dataset=trec", f"{key}={wrong}"])


def test_every_key_is_documented():
    keys = all_keys()
    assert [name for name, key in keys.items() if not key.doc.strip().endswith(".")] == []
    assert {"lora.r", "dataset.<name>.path", "search.recipes", "executor.lanes"} <= set(keys)


def test_every_searchable_key_is_a_hyperparameter():
    assert set(searchable_keys()) <= set(Hyperparameters.of(compose([]).settings).by_key())


@pytest.mark.parametrize("key", [key for key in all_keys().values() if key.choices and "<" not in key.name])
def test_every_choice_of_a_key_composes(key):
    for choice in key.choices:
        assert compose(["dataset=trec", f"{key.name}={choice}"])


@pytest.mark.parametrize("key", [key for key in all_keys().values() if key.choices])
def test_a_value_that_is_no_choice_is_rejected_with_key_rule_and_meaning(key):
    name = key.name.replace("<name>", "trec")
    with pytest.raises(ConfigError) as refused:
        compose(["dataset=trec", f"{name}=no_such_choice"])
    assert (refused.value.key, refused.value.rule) == (name, f"must be {key.rule}")
    assert key.rule in key.help
