"""A sweep that takes a second or two: tiny model, own rows, no network, no tracker."""

from __future__ import annotations

import pytest

from sweeper.sweep.run import run_sweep
from tests.doubles import save_tiny_bert, write_rows


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory):
    """Split and tokenised rows, shared: every test has the same rows."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(tmp_path, tiny_bert, tiny_cache):
    """Overrides of a small sweep; its outputs and its data file are the test's own."""
    return overrides_of(tmp_path, write_rows(tmp_path / "rows.jsonl"), tiny_bert, tiny_cache)


@pytest.fixture(scope="session")
def searched(tmp_path_factory, tiny_bert, tiny_cache):
    """A sweep whose search is over; its folder, which tests copy, and its rows."""
    folder = tmp_path_factory.mktemp("searched")
    rows = write_rows(folder / "rows.jsonl")
    run_sweep([*overrides_of(folder, rows, tiny_bert, tiny_cache), "budget.trials=3"])
    return folder / "outputs" / "tiny", rows


def overrides_of(tmp_path, rows, tiny_bert, tiny_cache):
    """Return the command line of a small sweep in a folder."""
    return [
        "dataset=files",
        f"dataset.files.path={rows}",
        "dataset.files.name=tiny",
        "dataset.files.train_rows=64",
        "dataset.files.validation_rows=30",
        "dataset.files.test_rows=30",
        "model=hub",
        f"model.id={tiny_bert}",
        "model.name=tinybert",
        "model.kind=encoder",  # test_auto_space tests what auto does, which takes longer
        "model.dtype=float32",
        "train.epochs=2",
        "train.chunks_per_epoch=2",
        "train.batch_size=8",
        "search.min_chunks=1",
        "search.num_startup_trials=2",
        "search.references=[]",
        "confirm=none",
        "executor=inline",
        "executor.lanes=3",
        "tracker=none",
        "budget.trials=5",
        "name=tiny",
        f"outputs={tmp_path / 'outputs'}",
        f"cache={tiny_cache}",
    ]
