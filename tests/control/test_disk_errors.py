"""A disk that fails, is full or is read-only in the middle of a sweep: running chunks are recorded, then it stops."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sweeper.errors import DiskError, DiskFull
from sweeper.execute.base import WorkerFailed
from sweeper.execute.inline import _InlineHandle
from sweeper.store.ledger import Ledger
from sweeper.types import ChunkRequest, FailureKind
from tests.control.bench import Bench, KilledExecutor, check_intact, lose, no_pruning, once
from tests.doubles import FakeWorker


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, search=no_pruning())


@pytest.fixture
def two(tmp_path):
    """A bench with two workers, the second of which is slower."""
    return Bench(tmp_path, search=no_pruning(), num_workers=2, lanes=2, speeds=(1, 3), num_trials=8)


def fail_renames(monkeypatch, fails):
    """Let a rename fail with an I/O error whenever ``fails`` says so for its target."""
    real = os.replace

    def replace(source, target):
        if fails(Path(target)):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr("sweeper.disk.atomic.os.replace", replace)


def nth_of(*ending, nth):
    """Return a predicate that holds for the nth path that ends in these parts."""
    seen = []

    def holds(path):
        if path.parts[-len(ending) :] == ending:
            seen.append(path)
            return len(seen) == nth
        return False

    return holds


def num_trained(bench, number):
    return sum(number in pack for pack in bench.chunks())


@pytest.fixture
def sent(monkeypatch):
    """The chunks that were sent to workers. An inline worker trains one when its reply is received."""
    found, send = [], _InlineHandle.send

    def noted(handle, request):
        if isinstance(request, ChunkRequest):
            found.append(handle.index)
        send(handle, request)

    monkeypatch.setattr(_InlineHandle, "send", noted)
    return found


def check_drained(bench, sent, *, lost=0):
    """Check that every chunk that was sent to a worker was trained and recorded, except the lost ones."""
    assert len(bench.chunks()) + lost == len(sent)
    assert bench.timer.now < 1060, "the controller waited for a worker that will not answer"


def resume(bench, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.undo()
    bench.worker = {}
    bench.run()
    check_intact(bench)


class FailingWorker(FakeWorker):
    """Answers its nth request for a chunk with a failure of the process, not of a trial."""

    failure = WorkerFailed(message="OSError: No space left on device", traceback="", kind=FailureKind.DISK_FULL)
    nth = 8

    def answer(self, request):
        if isinstance(request, ChunkRequest) and self._index == 0:
            self.nth -= 1
            if self.nth <= 0:
                return self.failure
        return super().answer(request)


@pytest.mark.parametrize(
    ("kind", "remedy"), [(FailureKind.DISK_FULL, "Free some space"), (FailureKind.DISK_ERROR, "Check the disk")]
)
def test_a_disk_error_of_a_worker_lets_the_others_end_their_chunks(two, sent, monkeypatch, kind, remedy):
    error = DiskFull if kind is FailureKind.DISK_FULL else DiskError
    monkeypatch.setattr("tests.control.bench.FakeWorker", FailingWorker)
    monkeypatch.setattr(FailingWorker, "failure", WorkerFailed(message="it failed", traceback="", kind=kind))
    with pytest.raises(error, match=rf"worker 0: it failed\. {remedy}.*run the same command again") as caught:
        two.run()
    assert (type(caught.value), caught.value.exit_code) == (error, 4)
    check_drained(two, sent, lost=1)
    others = {number for index, what, numbers in two.events if (index, what) == (1, "chunk") for number in numbers}
    assert others
    for number in others:
        assert two.trials()[number].chunks_done == num_trained(two, number)
    assert {trial.num_retries for trial in two.trials().values()} == {0}
    monkeypatch.undo()
    resume(two)


@pytest.mark.parametrize("nth", [2, 3, 4])
def test_a_record_that_cannot_be_written_does_not_keep_others_from_being_written(bench, monkeypatch, nth):
    fail_renames(monkeypatch, nth_of("0001", "trial.json", nth=nth))
    with pytest.raises(DiskError, match=r"0001/trial\.json cannot be written \(Input/output error\)"):
        bench.run()
    trials = bench.trials()
    assert trials[1].chunks_done < num_trained(bench, 1)
    for number in (0, 2):
        assert trials[number].chunks_done == num_trained(bench, number)
    resume(bench, monkeypatch)


@pytest.mark.parametrize("file", ["trial.json", "checkpoint-1.safetensors"])
def test_a_record_that_could_not_be_written_is_not_known_either(bench, monkeypatch, file):
    """Otherwise a later record, e.g. with the cost of a lost chunk, would list a checkpoint that was not written."""
    fail_renames(monkeypatch, nth_of("0001", file, nth=2 if file == "trial.json" else 1))
    with pytest.raises(DiskError):
        bench.run()
    (run,) = bench.runs
    assert run.trials[1].chunks_done == bench.trials()[1].chunks_done == 0
    resume(bench, monkeypatch)


@pytest.mark.parametrize("nth", [3, 5])
def test_after_an_error_the_database_shows_nothing_that_could_not_be_stored(bench, monkeypatch, nth):
    fail_renames(monkeypatch, nth_of("0001", "trial.json", nth=nth))
    with pytest.raises(DiskError):
        bench.run()
    stored = bench.trials()
    for trial in bench.in_optuna():
        assert set(trial.intermediate_values) <= {each.chunk for each in stored[trial.number].measurements}
        assert stored[trial.number].state.is_finished or not trial.state.is_finished()


def test_a_trial_that_cannot_be_recorded_is_not_started(bench, monkeypatch):
    fail_renames(monkeypatch, nth_of("0001", "trial.json", nth=1))
    with pytest.raises(DiskError):
        bench.run()
    assert num_trained(bench, 1) == 0
    assert [trial.number for trial in bench.in_optuna()] in ([], [0])
    resume(bench, monkeypatch)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("nth", [3, 12, 40])
def test_a_disk_that_fails_from_some_moment_on_damages_nothing(two, sent, monkeypatch, code, nth):
    calls, real = [], os.fsync

    def fsync(number):
        calls.append(number)
        if len(calls) >= nth:
            raise OSError(code, os.strerror(code))
        real(number)

    monkeypatch.setattr("sweeper.disk.atomic.os.fsync", fsync)
    with pytest.raises(DiskError, match=f"{os.strerror(code)}.*run the same command again"):
        two.run()
    check_drained(two, sent)
    resume(two, monkeypatch)


def test_a_disk_that_turns_read_only_when_a_file_is_deleted_lets_running_chunks_end(two, sent, monkeypatch):
    def unlink(path, **_options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("sweeper.store.trials.Path.unlink", unlink)
        with pytest.raises(DiskError, match="Read-only file system"):
            two.run()
    check_drained(two, sent)
    resume(two)


@pytest.mark.parametrize("nth", [1, 3])
def test_without_its_ledger_a_chunk_does_not_count(bench, monkeypatch, nth):
    fail_renames(monkeypatch, nth_of("ledger.json", nth=nth))
    with pytest.raises(DiskError, match=r"ledger\.json cannot be written"):
        bench.run()
    spent_s = Ledger(bench.folder / "ledger.json").cost.device_s
    assert spent_s >= sum(trial.cost.device_s for trial in bench.trials().values())
    resume(bench, monkeypatch)


def test_an_error_while_the_progress_is_written_lets_running_chunks_end(two, sent):
    calls = []

    def on_change():
        calls.append(1)
        if len(calls) >= 6:
            raise DiskError("health.json cannot be written")

    with pytest.raises(DiskError, match=r"health\.json"):
        two.run(on_change=on_change)
    assert two.chunks()
    check_drained(two, sent)
    for number, trial in two.trials().items():
        assert trial.chunks_done == num_trained(two, number)
    resume(two)


def test_a_worker_that_cannot_be_restarted_for_a_disk_error_ends_the_sweep(two, sent, monkeypatch):
    def restart(_executor, _handle):
        raise DiskError("worker-0.log cannot be written")

    two.worker = {"before": once(lose, at=3)}
    with monkeypatch.context() as patch:
        patch.setattr(KilledExecutor, "restart", restart)
        with pytest.raises(DiskError, match=r"worker-0\.log"):
            two.run()
    check_drained(two, sent)
    resume(two)
