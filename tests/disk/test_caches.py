"""Caches on a failing disk, and what a killed process left in them."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from sweeper.data.disk import Stored, load_or_make, to_dataset
from sweeper.errors import DiskError, DiskFull
from sweeper.fetch.members import extract_file, extract_folder
from sweeper.train.initial_head import initial_head
from tests.data.builders import make_wheel, pin_of

FILES = {"tiny/rows.csv": "text,label\nhi,a\n", "tiny/model/config.json": "{}"}


def rows(cache):
    return load_or_make(cache / "rows" / "abc", lambda: Stored(parts={"train": to_dataset({"text": ["a"]})}, meta={}))


def head(cache):
    return initial_head(cache, "identity", lambda: torch.ones(2))


def member(cache):
    wheel = make_wheel(cache / "wheels", FILES)
    return extract_folder(pin_of(wheel, "tiny/model"), cache=cache), extract_file(
        pin_of(wheel, "tiny/rows.csv"), cache=cache
    )


@pytest.mark.parametrize("make", [rows, head, member])
@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, DiskFull), (errno.EIO, DiskError)])
def test_an_error_of_the_disk_is_one_of_ours_and_the_next_attempt_succeeds(tmp_path, monkeypatch, make, code, error):
    def fsync(_number):
        raise OSError(code, os.strerror(code))

    (tmp_path / "cache").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("sweeper.disk.atomic.os.fsync", fsync)
        with pytest.raises(error, match=os.strerror(code)):
            make(tmp_path / "cache")
    make(tmp_path / "cache")
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_cache_below_a_file_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").touch()
    for make in (rows, head):
        with pytest.raises(DiskError, match="it is a file, not a folder"):
            make(tmp_path / "file" / "cache")


@pytest.mark.parametrize(("make", "folder"), [(rows, "rows"), (head, "heads")])
def test_what_a_killed_process_left_of_an_entry_is_removed_when_it_is_made_again(tmp_path, make, folder):
    make(tmp_path)
    [entry] = [path for path in (tmp_path / folder).iterdir() if path.suffix != ".lock"]
    entry.rename(entry.with_name(f".{entry.name}.0-ab.tmp"))
    other = entry.with_name(".other.0-ab.tmp")
    other.touch()
    make(tmp_path)
    assert entry.exists()
    assert [path.name for path in (tmp_path / folder).glob(".*.tmp")] == [other.name]
