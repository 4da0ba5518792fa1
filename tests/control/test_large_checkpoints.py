"""Large checkpoints: written by workers, taken over, checked when they are read, never left over; and in intervals.

Chunks without a checkpoint are repeated after a loss: nothing of them counts twice, and their losses stay the same.
"""

from __future__ import annotations

import time

import pytest

from sweeper.config.settings import ExecutorSettings
from sweeper.control.shutdown import ShutdownRequest
from sweeper.execute.base import SaveTrials, TrialsSaved
from sweeper.search.study import Search
from sweeper.store.damage import DamageKind, find_damage
from sweeper.store.ledger import Ledger
from sweeper.types import ChunkReport, Failure, FailureKind, TrialState
from tests.control.bench import Bench, Killed, check_intact, lose, no_pruning, once, record
from tests.doubles import FakeWorker
from tests.search.toy import preset

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


def test_the_files_of_pruned_trials_do_not_pile_up(bench):
    bench.search, bench.num_trials = preset("tpe", num_startup_trials=2), 10
    bench.run(on_change=lambda: left(bench) and pytest.fail(f"{left(bench)} is left"))
    assert TrialState.PRUNED in bench.states()


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
    bench.run()
    after = bench.trials()[trial.spec.number]
    assert (after.failure.kind, after.num_retries) == (FailureKind.CHECKPOINT, 1)
    assert str(path) in after.failure.message
    check_same_but_costs(bench)


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


# Not at every chunk: the double saves at rungs (chunk 2) and on request.


@pytest.fixture
def sparse(bench):
    bench.worker["saves_rungs_only"] = True
    return bench


def saved(bench):
    return [numbers for _, what, numbers in bench.events if what == "save"]


def stop(bench, *, at):
    """Let a signal come during a chunk."""

    def signal():
        bench.shutdown.reason, bench.shutdown.deadline_s = "SIGTERM", time.monotonic() + 60

    bench.worker["before"] = once(signal, at=at)


def resume(bench):
    bench.shutdown = ShutdownRequest()
    bench.worker["before"] = lambda _numbers: None
    bench.run()


def trained(bench, number):
    """Return in how many chunks a trial was trained."""
    return sum(number in numbers for numbers in bench.chunks())


def test_an_undisturbed_sweep_is_the_same_with_fewer_checkpoints(sparse):
    sparse.run()
    assert saved(sparse) == []
    check_same(sparse)


@pytest.mark.parametrize("replies", [3, 4, 6, 8])
def test_a_killed_session_repeats_the_chunks_since_the_last_checkpoint(sparse, replies):
    with pytest.raises(Killed):
        sparse.run(replies=replies)
    before = sparse.trials()
    lost = {
        number: trial.chunks_done - trial.chunks_saved
        for number, trial in before.items()
        if not trial.state.is_finished
    }
    sparse.run()
    check_same_but_costs(sparse)
    for number, trial in sparse.trials().items():
        paid = round(trial.cost.device_s)
        assert paid == len(trial.measurements) + lost.get(number, 0)  # each chunk costs a second
        assert trial.failure is None
        assert trained(sparse, number) >= paid
    assert Ledger(sparse.folder / "ledger.json").cost.device_s >= sum(t.cost.device_s for t in sparse.trials().values())


def test_a_lost_worker_costs_the_chunks_since_the_last_checkpoint_and_no_rung(sparse):
    told = []
    report = Search.report

    def noted(search, number, *, chunk, **more):
        told.append((number, chunk))
        return report(search, number, chunk=chunk, **more)

    sparse.worker["before"] = once(lose, at=4)  # chunk 3 has no checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "report", noted)
        sparse.run()
    check_same_but_costs(sparse)
    at_rungs = [pair for pair in told if pair[1] == 2]
    assert len(at_rungs) == len(set(at_rungs)) == 6
    assert max(trained(sparse, number) for number in range(6)) == 5 + 1  # four chunks, chunk 3 again, chunk 4 cut short


def test_a_session_that_is_stopped_saves_its_trials_so_that_nothing_is_repeated(sparse):
    stop(sparse, at=3)
    sparse.run()
    assert len(saved(sparse)) == 1
    running = [trial for trial in sparse.trials().values() if not trial.state.is_finished]
    assert running
    assert all(trial.chunks_saved == trial.chunks_done == 3 for trial in running)
    resume(sparse)
    check_same(sparse)
    assert {trained(sparse, number) for number in range(6)} == {4}


def test_trials_that_leave_their_pack_for_a_quarantined_one_are_saved(sparse):
    sparse.num_trials, sparse.lanes, sparse.num_workers = 4, 2, 2
    calls = []

    def lose_once(numbers):
        calls.append(numbers)
        if len(calls) == 5:
            lose()

    sparse.worker["before"] = lose_once
    sparse.run()
    check_intact(sparse)
    assert saved(sparse)
    repeated = {number: trained(sparse, number) - 4 for number in range(4)}
    assert all(count <= 2 for count in repeated.values())


def test_a_worker_that_dies_while_it_saves_loses_what_it_was_to_save(sparse):
    class Dying(FakeWorker):
        has_died = False

        def answer(self, request):
            if isinstance(request, SaveTrials) and not Dying.has_died:
                Dying.has_died = True
                lose()
            return super().answer(request)

    sparse._make_worker = lambda index: Dying(events=sparse.events, index=index, **sparse.worker)
    stop(sparse, at=3)
    sparse.run()
    assert Dying.has_died
    assert any(trial.chunks_saved < trial.chunks_done for trial in sparse.trials().values())
    resume(sparse)
    check_same_but_costs(sparse)


def test_a_file_that_was_refused_is_not_read_again_when_its_chunk_is_repeated_without_a_checkpoint(sparse):
    stop(sparse, at=3)
    sparse.run()
    number = next(number for number, trial in sparse.trials().items() if trial.chunks_saved == 3)
    path = sparse.store.paths.trial("toy", number).checkpoint(3)
    path.write_bytes(bytes(path.stat().st_size))
    failed = []

    def fail_once(spec, chunk):
        if spec.number != number or chunk != 4 or failed:
            return None
        failed.append(Failure(kind=FailureKind.ERROR, message="once"))
        return failed[0]

    sparse.worker["fails"] = fail_once
    resume(sparse)
    trial = sparse.trials()[number]
    assert (trial.state, trial.num_retries) == (TrialState.COMPLETE, 2)  # refused, then failed
    assert trained(sparse, number) == 3 + 2 + 2  # from chunk 2 both times
    check_same_but_costs(sparse)


def test_a_checkpoint_that_vanishes_is_asked_for_only_once(sparse):
    class Losing(FakeWorker):
        def answer(self, request):
            reply = super().answer(request)
            for checkpoint in reply.checkpoints.values() if isinstance(reply, TrialsSaved) else ():
                checkpoint.path.unlink()
            return reply

    sparse._make_worker = lambda index: Losing(events=sparse.events, index=index, **sparse.worker)
    stop(sparse, at=3)
    sparse.run()
    assert len(saved(sparse)) == 1
    assert any(trial.chunks_saved < trial.chunks_done for trial in sparse.trials().values())


def test_a_trial_between_checkpoints_is_no_damage(sparse):
    with pytest.raises(Killed):
        sparse.run(replies=3)
    assert any(trial.chunks_saved < trial.chunks_done for trial in sparse.trials().values())
    assert find_damage(sparse.store, record("toy"), keep_adapters=0) == []
