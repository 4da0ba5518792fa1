"""Splits of any names, rows that belong together, and datasets that are streamed."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset

from sweeper.config.settings import DatasetSettings
from sweeper.data import check_source, prepare_splits
from sweeper.data.formats import read_rows
from sweeper.data.split_names import find_splits
from sweeper.data.splits import make_splits
from sweeper.errors import ConfigError, DataError
from tests.data.builders import write_jsonl


def mine(**settings):
    return DatasetSettings(name="mine", **settings)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train", "dev", "TEST"], {"train": "train", "dev": "validation", "TEST": "test"}),
        (["train_sft", "test_sft"], {"train_sft": "train", "test_sft": "test"}),
        (["train", "train_extra", "other"], {"train": "train"}),
        (["train", "validation_matched", "validation_mismatched"], {"train": "train"}),
        (["training-2", "trainer", "valid.a"], {"training-2": "train", "valid.a": "validation"}),
    ],
)
def test_usual_names_are_found_and_longer_ones_if_they_are_the_only_ones(names, found):
    assert find_splits(names, mine()) == found


def test_several_splits_that_could_be_the_training_rows_are_an_error():
    names = ["train_sft", "train_gen", "test_sft", "test_gen"]
    with pytest.raises(DataError, match=r"train_sft or train_gen could be .*dataset\.mine\.splits\.train=train_sft"):
        find_splits(names, mine())
    asked = {"train": "train_sft", "test": "test_sft"}
    assert find_splits(names, mine(splits=asked)) == {"train_sft": "train", "test_sft": "test"}


def test_several_that_could_be_the_validation_rows_are_named_in_a_warning(caplog):
    find_splits(["train", "validation_matched", "validation_mismatched"], mine())
    assert "validation_matched, validation_mismatched is taken for validation; name one" in caplog.text


def test_a_name_that_the_data_do_not_have_is_an_error():
    with pytest.raises(DataError, match=r"splits\.train=train_stf, but its splits are train_sft, test.*'train_sft'"):
        find_splits(["train_sft", "test"], mine(splits={"train": "train_stf"}))


@pytest.mark.parametrize("splits", [{"training": "a"}, {"train": "a", "test": "a"}])
def test_wrong_names_are_found_before_anything_is_read(tmp_path, splits):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(ConfigError, match=r"dataset\.mine\.splits"):
        check_source(mine(path=str(path), splits=splits))


def rows_of(letter, count, **more):
    return [{"text": f"{letter} {n}", "label": str(n % 2), **more} for n in range(count)]


def hub_folder(folder, **parts):
    folder.mkdir()
    for name, rows in parts.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return str(folder)


def test_splits_of_the_hub_with_other_names_are_used(tmp_path, cache):
    folder = tmp_path / "data"
    found = hub_folder(folder, train=rows_of("a", 30), test=rows_of("b", 12), validation=rows_of("c", 8))
    splits = prepare_splits(mine(source="hub", id=found, splits={"train": "test", "test": "train"}), cache=cache)
    assert all(text.startswith("b") for text in [*splits.train["text"], *splits.validation["text"]])
    assert all(text.startswith("a") for text in splits.test["text"])


def test_a_column_names_splits_with_other_names(tmp_path):
    rows = [
        *rows_of("a", 20, split="train_sft"),
        *rows_of("b", 8, split="test_sft"),
        *rows_of("c", 9, split="train_gen"),
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    asked = {"train": "train_sft", "test": "test_sft"}
    splits = prepare_splits(mine(path=str(path), splits=asked), cache=tmp_path / "cache")
    assert splits.num_rows == {"train": 15, "validation": 5, "test": 8, "confirmation": 0}
    assert {text[0] for part in splits.parts.values() for text in (part["text"] if len(part) else [])} == {"a", "b"}


def test_splits_without_a_column_of_splits_are_an_error(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", rows_of("a", 20))
    with pytest.raises(ConfigError, match=r"dataset\.mine\.splits.*no column 'split'"):
        prepare_splits(mine(path=str(path), splits={"train": "x"}), cache=tmp_path / "cache")


SIZES = {"train_rows": 60, "validation_rows": 20, "test_rows": 20, "confirm_rows": 30}


def parts_of_groups(table, settings):
    splits = make_splits(table, settings)
    return {name: {int(text.split()[1]) for text in part["text"]} for name, part in splits.parts.items()}, splits


def test_rows_of_a_group_are_never_in_two_splits(tmp_path):
    rows = [{"text": f"group {n % 30} row {n}", "label": str(n % 2), "document": n % 30} for n in range(210)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    splits = prepare_splits(mine(path=str(path), group="document", **SIZES), cache=tmp_path / "cache")
    assert splits.num_rows == {"train": 60, "validation": 20, "test": 20, "confirmation": 30}
    groups = [{text.split()[1] for text in part["text"]} for part in splits.parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    other = prepare_splits(mine(path=str(path), group="document", seed=1, **SIZES), cache=tmp_path / "cache")
    assert set(other.test["text"]) != set(splits.test["text"])


def test_blocks_of_neighbours_are_never_in_two_splits(tmp_path):
    rows = [{"prompt": f"block {n // 7} row {n}", "completion": str(n)} for n in range(210)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = mine(path=str(path), block_rows=7, **SIZES)
    splits = prepare_splits(settings, cache=tmp_path / "cache", completions=True)
    blocks = [{text.split()[1] for text in part["prompt"]} for part in splits.parts.values()]
    assert sum(map(len, blocks)) == len(set().union(*blocks))
    assert splits.num_rows["train"] == 60


def test_without_groups_neighbours_are_spread():
    table = Dataset.from_list([{"text": f"group {n // 7} row {n}", "label": str(n % 2)} for n in range(210)])
    groups, _ = parts_of_groups(table, mine(**SIZES))
    assert groups["train"] & groups["test"]


def test_a_row_without_a_group_is_an_error_with_its_number(tmp_path):
    rows = [{"text": f"row {n}", "label": str(n % 2), "document": "" if n == 4 else "a"} for n in range(20)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"line 5 has nothing in column 'document', which dataset\.mine\.group names"):
        prepare_splits(mine(path=str(path), group="document"), cache=tmp_path / "cache")


def test_a_stream_takes_only_as_many_rows_as_are_needed(tmp_path, cache, monkeypatch):
    found = hub_folder(tmp_path / "data", train=rows_of("a", 500), test=rows_of("b", 300))
    monkeypatch.setattr("sweeper.data.hub._WINDOW", 50)
    sizes = {"train_rows": 20, "validation_rows": 10, "test_rows": 10, "confirm_rows": 10}
    settings = mine(source="hub", id=found, streaming=True, **sizes)
    splits = prepare_splits(settings, cache=cache)
    assert splits.num_rows == {"train": 20, "validation": 10, "test": 10, "confirmation": 10}
    assert splits.num_available == 34  # of the 44 that were read, for 20 + 10 + 10 rows
    assert all(text.startswith("b") for text in splits.test["text"])
    numbers = [int(text.split()[1]) for text in splits.train["text"]]
    assert max(numbers) > 44  # not just the first ones
    assert not (cache / "hub").exists() or not list((cache / "hub").rglob("*.arrow"))
    again = prepare_splits(settings, cache=tmp_path / "other")
    assert again.fingerprint == splits.fingerprint


def test_a_stream_of_all_rows_is_refused_before_it_is_read():
    with pytest.raises(ConfigError, match=r"dataset\.mine\.train_rows=0: a stream needs a number of rows"):
        check_source(mine(source="hub", id="a/b", streaming=True, train_rows=0))


def read(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return [row for _, row in read_rows(path, mine())]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ({"x": {"text": "a"}, "y": {"text": "b"}}, [{"text": "a"}, {"text": "b"}]),
        ({"data": [{"text": "a"}, {"text": "b"}]}, [{"text": "a"}, {"text": "b"}]),
        ({"texts": ["a", "b"]}, [{"texts": ["a", "b"]}]),
        (["a", "b"], [{"text": "a"}, {"text": "b"}]),
        ({"messages": [{"role": "user", "content": "a"}]}, [{"messages": [{"role": "user", "content": "a"}]}]),
        ('{"text": "a"}\n{"text": "b"}\n', [{"text": "a"}, {"text": "b"}]),
        ('{"text": "a"}', [{"text": "a"}]),
    ],
)
def test_a_file_may_be_one_json_object_or_a_list_of_texts(tmp_path, content, rows):
    assert read(tmp_path, content) == rows


def test_left_out_splits_of_the_hub_are_named(tmp_path, cache, caplog):
    caplog.set_level(logging.WARNING)
    found = hub_folder(tmp_path / "data", train=rows_of("a", 30), test=rows_of("b", 12), validation=rows_of("c", 8))
    prepare_splits(mine(source="hub", id=found, splits={"train": "train", "test": "test"}), cache=cache)
    assert "the splits ['validation'] are left out: they are not named train, test" in caplog.text
