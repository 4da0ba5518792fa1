"""The shim that counts operations, and the disks that a power failure leaves. Each test works in a forked process."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from functools import partial

import pytest
import sqlalchemy

from chaos.crash_session import fork
from chaos.disk_shim import DiskShim, Fault, Operation
from chaos.power_loss import Flushed, build_image, write_image
from sweeper.disk.atomic import new_folder, remove_folder, write_atomic


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def shimmed(disk, work, fault=None):
    """Call ``work`` in a forked process with a shim; return its exit code and what the shim noted."""
    import pickle

    def session():
        shim = DiskShim(disk, disk.parent / "notes", fault)
        shim.install()
        try:
            work()
        finally:
            shim.save()

    code = fork(session, disk.parent / "log")
    return code, pickle.loads((disk.parent / "notes").read_bytes())  # noqa: S301 - written by us


def operations(seen):
    return [(each.kind, each.path.rpartition("/")[2]) for each in seen["operations"] if each.kind != "open"]


def test_operations_below_the_folder_are_counted(disk):
    def work():
        write_atomic(disk / "a" / "record", b"content")
        write_atomic(disk.parent / "elsewhere", b"content")
        (disk / "a" / "record").unlink()

    code, seen = shimmed(disk, work)
    assert code == 0
    kinds = [kind for kind, _ in operations(seen)]
    assert kinds == ["mkdir", "fsync", "write", "fsync", "rename", "fsync", "unlink"]


def test_an_operation_has_the_same_name_in_every_session(disk):
    def work():
        write_atomic(disk / "record", b"content")
        write_atomic(disk / "record", b"content")

    first, second = (shimmed(disk, work)[1]["operations"] for _ in range(2))
    assert first == second
    assert Operation("MainThread", "rename", 2, "record") in second
    assert Operation("MainThread", "write", 2, ".record.*.tmp") in second


def test_a_tree_that_is_removed_counts_each_file(disk):
    def work():
        with new_folder(disk / "adapter") as new:
            (new / "one").write_bytes(b"1")
        remove_folder(disk / "adapter")

    _, seen = shimmed(disk, work)
    assert next(name for kind, name in operations(seen) if kind == "unlink") == "one"
    assert not (disk / "adapter").exists()


def test_commits_are_counted_and_reads_are_not(disk):
    def work():
        engine = sqlalchemy.create_engine(f"sqlite:///{disk / 'some.db'}")
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE numbers (n INTEGER)"))
            connection.execute(sqlalchemy.text("INSERT INTO numbers VALUES (1)"))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT * FROM numbers"))
        engine.dispose()

    _, seen = shimmed(disk, work)
    assert operations(seen) == [("commit", "some.db")]


@pytest.mark.parametrize(("when", "exists"), [("before", False), ("after", True)])
def test_a_kill_comes_before_or_after_the_operation(disk, when, exists):
    fault = Fault(Operation("MainThread", "rename", 1, "record"), when)
    code, _ = shimmed(disk, partial(write_atomic, disk / "record", b"content"), fault)
    assert code == -9
    assert (disk / "record").exists() is exists
    assert len(list(disk.iterdir())) == 1


def test_a_kill_before_a_commit_rolls_it_back(disk):
    def work():
        engine = sqlalchemy.create_engine(f"sqlite:///{disk / 'some.db'}")
        for number in (1, 2):
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)"))
                connection.execute(sqlalchemy.text(f"INSERT INTO numbers VALUES ({number})"))  # noqa: S608

    code, _ = shimmed(disk, work, Fault(Operation("MainThread", "commit", 2, "some.db"), "before"))
    assert code == -9
    with sqlite3.connect(disk / "some.db") as database:
        assert database.execute("SELECT n FROM numbers").fetchall() == [(1,)]
    database.close()


def test_a_disk_stays_full_but_an_input_error_happens_once(disk):
    def work():
        for name in ("first", "second", "third"):
            try:
                (disk / name).write_bytes(b"content")
            except OSError as error:
                (disk.parent / "errors").open("a").write(f"{name} {error.errno} ")

    for what in ("ENOSPC", "EIO"):
        shimmed(disk, work, Fault(Operation("MainThread", "write", 1, "second"), what))
    text = (disk.parent / "errors").read_text()
    assert text == "second 28 third 28 second 5 "


def image(kind, disk, work, draw=0):
    """Return the disk that a power failure after ``work`` leaves."""
    _, seen = shimmed(disk, work)
    left = disk.parent / kind
    shutil.rmtree(left, ignore_errors=True)
    write_image(build_image(kind, seen["flushed"], live=disk, draw=random.Random(draw)), left)  # noqa: S311
    return {path.relative_to(left).as_posix(): path.read_bytes() for path in left.rglob("*") if path.is_file()}


def write_without_flush(path, content):
    aside = path.with_name("aside")
    aside.write_bytes(content)
    os.replace(aside, path)


@pytest.mark.parametrize("kind", ["flushed", "names", "mixture"])
def test_what_was_written_atomically_survives(disk, kind):
    def work():
        write_atomic(disk / "record", b"old")
        write_atomic(disk / "record", b"new")
        write_atomic(disk / "folder" / "other", b"content")

    assert image(kind, disk, work) == {"record": b"new", "folder/other": b"content"}


@pytest.mark.parametrize(("kind", "left"), [("flushed", {"record": b"old"}), ("names", {"record": b""})])
def test_what_was_not_flushed_is_lost(disk, kind, left):
    (disk / "record").write_bytes(b"old")
    assert image(kind, disk, partial(write_without_flush, disk / "record", b"new")) == left


def test_a_removal_that_was_not_flushed_comes_back_whole(disk):
    (disk / "adapter").mkdir()
    (disk / "adapter" / "weights").write_bytes(b"weights")
    removed = image("flushed", disk, partial(shutil.rmtree, disk / "adapter"))
    assert removed == {"adapter/weights": b"weights"}
    (disk / "adapter").mkdir(exist_ok=True)
    (disk / "adapter" / "weights").write_bytes(b"weights")
    (left,) = image("flushed", disk, partial(remove_folder, disk / "adapter"))
    assert left.startswith(".adapter.")  # moved away durably first, so that no part of it ever has its name


def test_a_mixture_depends_on_its_seed(disk):
    work = partial(write_without_flush, disk / "record", b"new")
    images = []
    for seed in (*range(12), *range(12)):
        (disk / "record").write_bytes(b"old")
        images.append(image("mixture", disk, work, draw=seed)["record"])
    assert images[:12] == images[12:]
    assert {b"old", b"new"} < set(images)


def test_the_number_of_a_removed_file_that_is_used_again_is_another_file(disk):
    flushed = Flushed()
    (disk / "one").write_bytes(b"1")
    inode = (disk / "one").stat().st_ino
    flushed.flush(disk / "one")
    flushed.forget(inode)
    assert flushed.identity(inode) not in flushed.contents
