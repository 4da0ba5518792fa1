"""`open_rows`: workers get the rows of a reference or an error, whatever happens to the cache and to the source."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from datasets import concatenate_datasets

import sweeper.data.files
from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data import has_rows, open_rows, prepare
from sweeper.data.disk import Stored, digest_of, load_or_make, to_dataset
from sweeper.errors import ContentChanged, DataError
from tests.data.builders import make_tokenizer, write_jsonl


def rows_of(shift=0):
    return [{"text": f"row {(number + shift) % 60} {number}", "label": str(number % 2)} for number in range(40)]


@pytest.fixture
def disk(tmp_path):
    """A folder with a tokenizer, a data file and an empty cache."""
    make_tokenizer(tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", rows_of())
    return tmp_path


def dataset_of(disk):
    return DatasetSettings(name="mine", path=str(disk / "rows.jsonl"), validation_rows=10, test_rows=0)


def planned(disk):
    return prepare(dataset_of(disk), ModelSettings(), model_dir=disk / "model", cache=disk / "cache").ref


def opened(disk, ref):
    found = open_rows(ref, cache=disk / "cache", model_dir=disk / "model", trust_remote_code=False)
    return {name: list(getattr(found, name)) for name in ("train", "validation", "test", "confirmation")}


def entry(disk, kind):
    (found,) = [path for path in (disk / "cache" / kind).iterdir() if path.suffix == "" and path.name[0] != "."]
    return found


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Change one bit."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])


def test_a_reference_survives_pickling_and_names_no_path(disk):
    ref = planned(disk)
    assert pickle.loads(pickle.dumps(ref)) == ref  # noqa: S301  our own
    assert str(disk) not in json.dumps(dataclasses.asdict(ref))


def test_the_pinned_rows_are_opened_after_the_source_was_edited_or_removed(disk):
    ref = planned(disk)
    before = opened(disk, ref)
    write_jsonl(disk / "rows.jsonl", rows_of(shift=7))
    assert opened(disk, ref) == before
    (disk / "rows.jsonl").unlink()
    assert opened(disk, ref) == before


def test_an_edit_that_keeps_size_and_time_of_the_file_is_noticed(disk):
    path, ref = disk / "rows.jsonl", planned(disk)
    found = path.stat()
    path.write_text(path.read_text().replace("row 1 ", "row 2 "))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert planned(disk).fingerprint != ref.fingerprint


def test_a_file_that_changes_while_it_is_read_is_an_error_and_nothing_is_cached(disk, monkeypatch):
    load = sweeper.data.files.load

    def load_and_edit(*arguments):
        found = load(*arguments)
        write_jsonl(disk / "rows.jsonl", rows_of(shift=3))
        return found

    monkeypatch.setattr(sweeper.data.files, "load", load_and_edit)
    with pytest.raises(DataError, match="its files changed while they were read"):
        planned(disk)
    assert not list((disk / "cache" / "splits").glob("[!.]*"))


def test_rows_that_are_open_do_not_change_with_their_files(disk):
    ref = planned(disk)
    tokens = open_rows(ref, cache=disk / "cache", model_dir=disk / "model", trust_remote_code=False)
    before = list(tokens.train)
    (arrow,) = entry(disk, "tokens").glob("train/*.arrow")
    with arrow.open("r+b") as file:  # in place, as an editor of bytes or a failing disk would
        file.write(bytes(arrow.stat().st_size))
    assert list(tokens.train) == before


@pytest.mark.parametrize("damage", [zero, halve, flip, lambda path: path.unlink()])
@pytest.mark.parametrize("file", ["train/*.arrow", "train/state.json", "meta.json"])
def test_damaged_token_ids_are_made_again_from_the_splits_without_the_source(disk, damage, file, caplog):
    ref = planned(disk)
    before = opened(disk, ref)
    (disk / "rows.jsonl").unlink()
    folder = entry(disk, "tokens")
    (path,) = folder.glob(file)
    damage(path)
    assert opened(disk, ref) == before
    moved = [path for path in folder.parent.iterdir() if ".damaged-" in path.name]
    assert len(moved) == 1
    assert f"moved to {moved[0].name}, and made again" in caplog.text


def test_a_cache_that_was_deleted_is_an_error_for_the_worker_and_filled_by_the_next_start(disk):
    ref = planned(disk)
    before = opened(disk, ref)
    shutil.rmtree(disk / "cache")
    assert not has_rows(ref, cache=disk / "cache")
    with pytest.raises(ContentChanged, match=r"dataset mine: its rows are gone from the cache.*same command again"):
        opened(disk, ref)
    assert planned(disk) == ref
    assert opened(disk, ref) == before
    assert has_rows(ref, cache=disk / "cache")


def test_damage_to_everything_is_an_error_and_does_not_block_the_next_start(disk):
    ref = planned(disk)
    before = opened(disk, ref)
    for kind in ("splits", "tokens"):
        zero(next(entry(disk, kind).glob("train/*.arrow")))
    with pytest.raises(ContentChanged):
        opened(disk, ref)
    assert planned(disk) == ref
    assert opened(disk, ref) == before


def test_other_rows_under_the_same_name_are_refused(disk):
    ref = planned(disk)
    for kind in ("splits", "tokens"):
        shutil.rmtree(entry(disk, kind))
    write_jsonl(disk / "rows.jsonl", rows_of(shift=7))
    other = planned(disk)
    (disk / "cache" / "splits" / other.splits).rename(disk / "cache" / "splits" / ref.splits)
    with pytest.raises(ContentChanged, match="has other rows"):
        opened(disk, ref)
    (disk / "cache" / "tokens" / other.tokens).rename(disk / "cache" / "tokens" / ref.tokens)
    with pytest.raises(ContentChanged, match="has other rows"):
        opened(disk, ref)
    assert not has_rows(ref, cache=disk / "cache")


def test_another_tokenizer_does_not_make_the_token_ids_of_a_reference(disk):
    ref = planned(disk)
    shutil.rmtree(entry(disk, "tokens"))
    make_tokenizer(disk / "model", max_position_embeddings=2)
    with pytest.raises(ContentChanged, match="has other rows"):
        opened(disk, ref)


def test_whatever_happens_to_a_file_the_rows_are_the_same_or_it_is_damaged(tmp_path):
    ids = [[number, number + 1][: 1 + number % 2] for number in range(50)]
    content = {"input_ids": ids, "length": [len(row) for row in ids], "label": list(range(50))}
    part = to_dataset(content, {"input_ids": ["int32"], "length": "int32", "label": "int64"})
    good, bad, made = tmp_path / "good", tmp_path / "bad", []

    def make():
        made.append(1)
        return Stored(parts={"train": part}, meta={"pad_token_id": 1})

    load_or_make(good, make)
    generator = np.random.default_rng(0)
    for number in range(120):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        (arrow,), others = bad.rglob("*.arrow"), sorted(bad.rglob("*.json"))
        path = others[generator.integers(len(others))] if number % 3 == 0 else arrow
        old, first = path.read_bytes(), generator.integers(path.stat().st_size)
        size = int(generator.choice([1, 8, 512]))
        hit, rest = old[first : first + size], old[first + size :]
        changes = (bytes(len(hit)) + rest, bytes(byte ^ 5 for byte in hit) + rest, b"")
        path.write_bytes(old[:first] + changes[generator.integers(3)])
        found = load_or_make(bad, make, in_memory=number % 2 == 0)
        assert list(found.parts["train"]) == list(part)
        assert found.meta["pad_token_id"] == 1
    assert len(made) > 60


def test_the_digest_depends_on_every_value_and_not_on_the_layout():
    def digest(texts, labels, **meta):
        return digest_of(Stored(parts={"train": to_dataset({"text": texts, "label": labels})}, meta=meta))

    same = digest(["a", "bc"], [0, 1])
    two = concatenate_datasets([to_dataset({"text": ["a"], "label": [0]}), to_dataset({"text": ["bc"], "label": [1]})])
    assert digest_of(Stored(parts={"train": two}, meta={})) == same
    swapped = to_dataset({"text": ["bc", "a"], "label": [1, 0]}).select([1, 0])
    assert digest_of(Stored(parts={"train": swapped}, meta={})) == same
    others = [digest(["ab", "c"], [0, 1]), digest(["a", "bc"], [1, 0]), digest(["a", "bc"], [0, 1], kind="x")]
    assert len({same, *others}) == 4
