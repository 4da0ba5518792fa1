"""Checkpoints that workers write themselves: taken over by their names, checked when they are read, never left over."""

from __future__ import annotations

import pytest

from sweeper.config.settings import ExecutorSettings
from sweeper.store.damage import DamageKind, find_damage
from sweeper.types import ChunkReport
from tests.control.bench import Bench, Killed, check_intact, lose, no_pruning, once, record
from tests.doubles import FakeWorker

ALL = ExecutorSettings(checkpoint_file_mb=0)
"""Every checkpoint is a large one."""


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, search=no_pruning(), executor=ALL, worker={"writes_files": True})


def left(bench):
    """Return the files that no record refers to."""
    return [path for path in bench.store.paths.incoming("toy").rglob("*") if path.is_file()]


def undisturbed(bench):
    folder = bench.folder / "whole"
    folder.mkdir()
    return Bench(folder, search=no_pruning()).run()


def check_same(bench):
    check_intact(bench)
    whole = undisturbed(bench)
    assert {n: t.measurements for n, t in bench.trials().items()} == {
        n: t.measurements for n, t in whole.trials().items()
    }
    assert not bench.store.paths.incoming("toy").exists()


def test_the_store_takes_the_files_over_and_the_sweep_is_the_same(bench):
    seen = []

    def note():
        running = [trial for trial in bench.store.trials("toy") if trial.checkpoints]
        for trial in running:
            paths = bench.store.paths.trial("toy", trial.spec.number)
            seen.append(paths.checkpoint(trial.chunks_done).exists())
        assert not left(bench)

    bench.run(on_change=note)
    assert len(seen) > 10
    assert all(seen)
    check_same(bench)


@pytest.mark.parametrize("replies", [3, 4, 6, 9])
def test_a_killed_session_continues_from_the_files(bench, replies):
    with pytest.raises(Killed):
        bench.run(replies=replies)
    bench.run()
    check_same(bench)


def test_what_a_killed_worker_has_written_is_removed(bench):
    def write_and_die():
        folder = bench.store.paths.incoming("toy") / "0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "1-unsent").write_bytes(b"whole")
        (folder / ".content.1-2.tmp").write_bytes(b"torn")
        lose()

    seen = []
    bench.worker["before"] = once(write_and_die, at=3)
    bench.run(on_change=lambda: seen.append(len(left(bench))))
    assert 2 in seen  # until its successor opens the study
    assert seen[-1] == 0
    check_same_but_costs(bench)


def check_same_but_costs(bench):
    check_intact(bench)
    whole = undisturbed(bench)
    for number, trial in bench.trials().items():
        pairs = zip(trial.measurements, whole.trials()[number].measurements, strict=True)
        assert all(one.metrics == other.metrics for one, other in pairs)


def test_files_of_a_killed_session_are_damage_until_the_next_one(bench):
    with pytest.raises(Killed):
        bench.run(replies=4)
    folder = bench.store.paths.incoming("toy") / "7"  # of a worker that the next session does not have
    folder.mkdir(parents=True)
    (folder / "1-unsent").write_bytes(b"whole")
    found = [each for each in find_damage(bench.store, record("toy"), keep_adapters=0) if each.number is None]
    assert [(each.kind, each.path) for each in found] == [(DamageKind.LEFTOVER, folder / "1-unsent")]
    bench.run()
    check_same(bench)


def test_a_damaged_file_is_noticed_by_the_worker_that_reads_it(bench):
    with pytest.raises(Killed):
        bench.run(replies=4)
    trial = next(trial for trial in bench.trials().values() if len(trial.checkpoints) == 2)
    path = bench.store.paths.trial("toy", trial.spec.number).checkpoint(trial.chunks_done)
    path.write_bytes(bytes(path.stat().st_size))
    seen = {}

    class Checking(FakeWorker):
        def answer(self, request):
            for each in getattr(request, "admit", ()):
                seen.setdefault(each.spec.number, each.checkpoint)
            return super().answer(request)

    bench._make_worker = lambda index: Checking(events=bench.events, index=index, **bench.worker)
    with pytest.raises(AssertionError):  # as the double says it
        bench.run()
    assert seen[trial.spec.number].path == path


def test_a_file_that_is_gone_or_too_short_is_no_checkpoint(bench, caplog):
    class Losing(FakeWorker):
        def answer(self, request):
            reply = super().answer(request)
            if isinstance(reply, ChunkReport):
                for number, checkpoint in reply.checkpoints.items():
                    if number == 1:
                        checkpoint.path.unlink()
                    if number == 2:
                        checkpoint.path.write_bytes(b"")
            return reply

    bench._make_worker = lambda index: Losing(events=bench.events, index=index, **bench.worker)
    bench.run()
    assert {number for number in range(6) if f"trial {number}:" in caplog.text} == {1, 2}
    check_same(bench)
