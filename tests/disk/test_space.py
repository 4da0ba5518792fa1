"""Free disk space: the check before a sweep starts, and full disks (real small ones if the tests run as root)."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

import pytest

from sweeper.disk.atomic import write_atomic
from sweeper.disk.space import check_space, free_mb
from sweeper.errors import DiskFull
from sweeper.store.trials import TrialStore
from tests.control.bench import Bench, check_intact, no_pruning
from tests.search.toy import open_toy, preset


def usage(free_megabytes):
    return lambda _path: shutil._ntuple_diskusage(10**12, 0, free_megabytes * 10**6)


def test_a_missing_folder_has_the_space_of_its_parent(tmp_path):
    assert free_mb(tmp_path / "a" / "b") == pytest.approx(free_mb(tmp_path), rel=0.1)


@pytest.mark.parametrize(("free", "text"), [(5000, ""), (500, "500 MB free")])
def test_little_space_is_a_warning(tmp_path, monkeypatch, free, text):
    monkeypatch.setattr("sweeper.disk.space.shutil.disk_usage", usage(free))
    warning = check_space(tmp_path, 100)
    assert text in warning
    assert bool(warning) == bool(text)


def test_too_little_space_is_an_error_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeper.disk.space.shutil.disk_usage", usage(50))
    with pytest.raises(DiskFull, match=r"executor\.min_free_mb=100: .* 50 MB free"):
        check_space(tmp_path, 100)
    assert check_space(tmp_path, 0) == ""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may make a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        [shutil.which("mount"), "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small file system can be made here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run([shutil.which("umount"), folder], check=True)


def fill(folder):
    """Use up the space that is left."""
    with suppress(OSError), (folder / "ballast").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


def test_a_write_to_a_full_disk_keeps_the_old_file_and_leaves_no_other(small_disk):
    path = small_disk / "file"
    write_atomic(path, b"old")
    with pytest.raises(DiskFull, match=r"file cannot be written .*: \d\.\d MB are free on its disk"):
        write_atomic(path, bytes(2 << 20))
    assert path.read_bytes() == b"old"
    assert [left.name for left in small_disk.iterdir()] == ["file"]


def test_a_sweep_that_fills_its_disk_ends_with_an_error_and_resumes_once_there_is_space(small_disk):
    bench = Bench(small_disk / "sweep", search=no_pruning())
    calls = []

    def before(_numbers):
        calls.append(_numbers)
        if len(calls) == 3:
            fill(small_disk)

    bench.folder.mkdir()
    bench.worker = {"before": before}
    with pytest.raises(DiskFull, match="Free space, then run the same command again"):
        bench.run()
    for trial in TrialStore(bench.folder).trials("toy"):
        assert trial.chunks_done <= 3
    (small_disk / "ballast").unlink()
    bench.worker = {}
    bench.run()
    check_intact(bench)


def test_a_study_database_that_cannot_be_opened_for_lack_of_space_says_so(small_disk):
    open_toy(small_disk, preset("random")).close()
    fill(small_disk)
    with pytest.raises(DiskFull, match=r"the disk of the study database .* is full"):
        open_toy(small_disk, preset("random"))
    (small_disk / "ballast").unlink()
    open_toy(small_disk, preset("random")).close()
