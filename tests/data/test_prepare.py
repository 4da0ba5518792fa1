"""`prepare`: fills the cache for the workers, and reads no row of a full one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sweeper.data
from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data import prepare, prepare_splits
from tests.data.test_tokens import make_tokenizer

ROWS = [{"text": f"row {number}", "label": str(number % 2)} for number in range(40)]


@pytest.fixture
def model_dir(tmp_path):
    return make_tokenizer(tmp_path / "model")


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return DatasetSettings(name="mine", source="files", path=str(path), validation_rows=10, test_rows=0)


def prepared(dataset, model_dir, **model):
    cache = model_dir.parent / "cache"
    return prepare(dataset, ModelSettings(**model), model_dir=model_dir, cache=cache)


def folders(model_dir, kind):
    return {path.name for path in (model_dir.parent / "cache" / kind).iterdir() if not path.name.startswith(".")}


def test_the_record_is_that_of_the_splits(dataset, model_dir):
    first = prepared(dataset, model_dir)
    assert first.splits == prepare_splits(dataset, cache=model_dir.parent / "cache").record
    assert first.splits.num_rows == {"train": 30, "validation": 10, "test": 0, "confirmation": 0}
    assert prepared(dataset, model_dir) == first


def test_a_full_cache_is_used_without_reading_rows(dataset, model_dir):
    prepared(dataset, model_dir)
    code = (
        "import sys; from pathlib import Path; from sweeper.config.settings import DatasetSettings, ModelSettings\n"
        "from sweeper.data import prepare\n"
        f"prepare({dataset!r}, ModelSettings(), model_dir=Path({str(model_dir)!r}),\n"
        f"        cache=Path({str(model_dir.parent / 'cache')!r}))\n"
        "print({'torch', 'transformers', 'datasets', 'pyarrow', 'pandas'} & {*sys.modules})"
    )
    root = Path(sweeper.data.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_token_ids_of_another_length_are_made(dataset, model_dir):
    prepared(dataset, model_dir)
    prepared(dataset, model_dir, max_length=4)
    assert len(folders(model_dir, "tokens")) == 2


@pytest.mark.parametrize("kind", ["splits", "tokens"])
def test_a_folder_that_lacks_a_part_is_made_again(dataset, model_dir, kind):
    first = prepared(dataset, model_dir)
    (folder,) = folders(model_dir, kind)
    part = model_dir.parent / "cache" / kind / folder / "train"
    shutil.rmtree(part)
    assert prepared(dataset, model_dir) == first
    assert part.is_dir()


def test_a_full_cache_of_another_dataset_does_not_count(dataset, model_dir, tmp_path):
    prepared(dataset, model_dir)
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({**row, "text": f"another {row['text']}"}) for row in ROWS))
    changed = DatasetSettings(name="mine", source="files", path=str(other), validation_rows=10, test_rows=0)
    assert prepared(changed, model_dir).splits.fingerprint != prepared(dataset, model_dir).splits.fingerprint


def test_labels_of_the_validation_rows_are_counted_in_their_order(dataset, model_dir):
    splits = prepare_splits(dataset, cache=model_dir.parent / "cache")
    labels = splits.validation["label"]
    expected = {str(n): [labels[:n].count(0), labels[:n].count(1)] for n in (5, 10)}
    assert prepared(dataset, model_dir).splits.label_counts == expected
