"""Lost, hung and failing workers: which trials are charged, what the cause is, which device is disabled."""

from __future__ import annotations

import itertools

import pytest

from sweeper.config.settings import BudgetSettings, ExecutorSettings
from sweeper.errors import DiskFull, StorageDown, WorkerError
from sweeper.execute.base import StudyOpened, WorkerFailed
from sweeper.search.study import Search
from sweeper.store.ledger import Ledger
from sweeper.types import Decision, Failure, FailureKind, TrialState
from tests.control.bench import Bench, Killed, KilledExecutor, check_intact, lose, no_pruning, once
from tests.doubles import FakeClock, FakeWorker

COMPLETE, FAILED, RUNNING = TrialState.COMPLETE, TrialState.FAILED, TrialState.RUNNING


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, search=no_pruning())


def kills_worker(*numbers):
    """Return a hook that kills the worker whenever one of these trials is in its pack."""

    def before(pack):
        if set(numbers) & set(pack):
            lose()

    return {"before": before}


# The cause of a loss.


def test_after_a_loss_every_trial_of_the_pack_trains_alone_for_a_chunk(bench):
    bench.worker = {"before": once(lose, at=2)}
    bench.run()
    assert bench.chunks()[1:6] == [(0, 1, 2), (0,), (1,), (2,), (0, 1, 2)]
    assert {trial.num_retries for trial in bench.trials().values()} == {0}
    check_intact(bench)


def test_a_trial_that_kills_its_worker_costs_the_others_no_retry(bench):
    bench.worker = kills_worker(1)
    bench.run()
    trials = bench.trials()
    assert (trials[1].state, trials[1].num_retries) == (FAILED, bench.max_retries)
    assert trials[1].failure.kind is FailureKind.LOST_WORKER
    assert {trial.num_retries for number, trial in trials.items() if number != 1} == {0}
    assert bench.states().count(COMPLETE) == bench.num_trials - 1
    check_intact(bench)


def test_a_trial_that_kills_its_worker_does_not_share_a_pack_again(bench):
    bench.worker = kills_worker(1)
    bench.run()
    assert [pack for pack in bench.chunks() if 1 in pack] == [(0, 1, 2), (1,), (1,), (1,)]


def test_trials_that_kill_their_worker_do_not_disable_the_only_device(bench):
    bench.worker = kills_worker(1, 3)
    bench.run()
    assert [number for number, trial in bench.trials().items() if trial.state is FAILED] == [1, 3]
    assert bench.controller.disabled == {}
    check_intact(bench)


def broken_worker(bench, index):
    """Make a worker die at every chunk."""
    make_sound_worker = bench._make_worker

    def make_worker(which):
        bench.worker = {"before": lambda _numbers: lose(f"worker {index} died")} if which == index else {}
        return make_sound_worker(which)

    bench._make_worker = make_worker


def test_a_device_on_which_different_trials_fail_alone_is_disabled_and_their_retries_are_refunded(bench):
    bench.num_workers = 2
    broken_worker(bench, 0)
    bench.run()
    assert bench.controller.disabled == {0: "worker 0 died (3 failures in a row that no single trial explains)"}
    assert bench.states() == [COMPLETE] * bench.num_trials
    assert {trial.num_retries for trial in bench.trials().values()} == {0}
    check_intact(bench)


def test_without_a_device_the_sweep_ends_with_the_reasons(bench):
    broken_worker(bench, 0)
    with pytest.raises(WorkerError, match="no worker is left: worker 0 died"):
        bench.run()


def test_another_worker_tests_a_quarantined_trial_when_its_own_was_disabled(bench):
    bench.num_workers, bench.num_trials = 2, 8
    broken_worker(bench, 0)
    bench.run()
    assert all(trial.state is COMPLETE for trial in bench.trials().values())
    check_intact(bench)


# Costs and retries.


def test_a_lost_chunk_is_charged_to_its_trials_and_to_the_ledger(bench):
    def slow():
        bench.timer.advance(6.0)
        lose()

    bench.worker = {"before": once(slow, at=2)}
    bench.run()
    trials = bench.trials()
    chunks = {number: len(trial.measurements) for number, trial in trials.items()}
    extra = [trials[n].cost.device_s - chunks[n] for n in (0, 1, 2, 3)]
    assert extra == pytest.approx([6.5 / 3, 6.5 / 3, 6.5 / 3, 0.0])  # half a second is the controller's tick
    spent = Ledger(bench.folder / "ledger.json").cost.device_s
    assert spent == pytest.approx(sum(trial.cost.device_s for trial in trials.values()))


def test_a_retry_waits_longer_each_time(bench):
    started = []

    def fails(spec, chunk):
        if spec.number == 1 and chunk == 2 and len(started) < 3:
            started.append(bench.timer.now)
            return Failure(kind=FailureKind.ERROR, message="not yet")
        return None

    bench.lanes = bench.num_trials
    bench.worker = {"fails": fails}
    bench.max_retries = 3
    bench.run()
    waits = [later - earlier for earlier, later in itertools.pairwise(started)]
    assert waits[0] >= 5.0
    assert waits[1] >= 10.0
    assert bench.trials()[1].state is COMPLETE


def test_others_keep_training_while_a_trial_waits(bench):
    bench.worker = {"fails": failing_once(0)}
    bench.executor = ExecutorSettings(retry_s=1e6)
    bench.run()
    assert bench.chunks()[-1] == (0,)
    assert bench.states() == [COMPLETE] * bench.num_trials


def failing_once(number):
    calls = []

    def fails(spec, _chunk):
        if spec.number != number or calls:
            return None
        calls.append(number)
        return Failure(kind=FailureKind.ERROR, message="once")

    return fails


# Hung workers.


class HangingExecutor(KilledExecutor):
    """Withholds the reply to the chunk that admits trial ``hang_at``, until the worker was restarted."""

    hang_at = None
    restarted = 0

    def wait(self, timeout_s):
        ready = super().wait(timeout_s)
        return [h for h in ready if not self._hangs(h)]

    def _hangs(self, handle):
        request = handle._requests[0]
        admitted = {a.spec.number for a in getattr(request, "admit", ())}
        return self.restarted == 0 and self.hang_at in admitted

    def restart(self, handle):
        type(self).restarted += 1
        return super().restart(handle)


@pytest.fixture
def hanging(bench):
    bench._executor = type("Hanging", (HangingExecutor,), {"hang_at": 3, "restarted": 0})
    return bench


def test_a_hung_worker_is_killed_and_its_trials_resume(hanging):
    hanging.run()
    assert hanging._executor.restarted == 1
    failures = {trial.failure.kind for trial in hanging.trials().values() if trial.failure}
    assert failures == {FailureKind.HUNG}
    assert hanging.states() == [COMPLETE] * hanging.num_trials
    check_intact(hanging)


def test_the_first_reply_has_the_startup_timeout(hanging):
    hanging._executor.hang_at = 0
    start = hanging.timer.now
    hanging.executor = ExecutorSettings(startup_timeout_s=500.0)
    hanging.run()
    assert hanging.timer.now - start > 500
    assert hanging._executor.restarted == 1


class BusyExecutor(KilledExecutor):
    """Simulates a controller that is busy for a minute, once; a reply arrives meanwhile."""

    num_chunks = 0
    restarted = 0

    def wait(self, timeout_s):
        ready = super().wait(timeout_s)
        type(self).num_chunks += any(hasattr(handle._requests[0], "admit") for handle in ready)
        if self.num_chunks == 3 and timeout_s:
            self.timer.advance(60.0)
            return []
        return ready

    def restart(self, handle):
        type(self).restarted += 1
        return super().restart(handle)


def test_a_worker_that_replied_while_the_controller_was_busy_is_not_hung(bench):
    bench.executor = ExecutorSettings(hang_timeout_min_s=5.0)
    bench._executor = type("Busy", (BusyExecutor,), {})
    bench.run()
    assert bench._executor.num_chunks > 3
    assert bench._executor.restarted == 0
    assert bench.states() == [COMPLETE] * bench.num_trials


# Studies and workers that cannot be opened.


class Unopened(FakeWorker):
    """Cannot open the studies named ``bad...``."""

    def answer(self, request):
        if getattr(request, "name", "").startswith("bad"):
            return WorkerFailed(message="DataError: column 'label' is gone", traceback="", kind=FailureKind.DATA)
        return super().answer(request)


def unopened(bench):
    return lambda index: Unopened(rungs=(2, 4), num_chunks=4, events=bench.events, index=index, **bench.worker)


def test_a_study_that_no_worker_can_open_is_skipped_and_the_others_continue(bench):
    bench.studies = ("bad", "badly", "toy")
    bench._make_worker = unopened(bench)
    bench.run()
    assert bench.states() == [COMPLETE] * bench.num_trials
    assert bench.states("bad") == []
    check_intact(bench)


def test_a_sweep_interrupted_by_its_window_is_paused_even_if_another_study_cannot_be_opened(bench):
    clock = FakeClock("2026-01-01T22:00+00:00")
    bench.studies, bench.clock = ("bad", "toy"), clock
    bench.budget = BudgetSettings(window="22:00-22:35", time_zone="UTC")
    bench.worker = {"before": lambda _numbers: clock.pass_s(600), "device_s": 600.0}
    with pytest.raises(Killed):
        bench.run(replies=2)
    assert RUNNING in bench.states("bad")
    clock.set("2026-01-02T22:00+00:00")
    bench._make_worker = unopened(bench)
    bench.run()
    assert RUNNING in bench.states("toy")
    assert bench.controller.stop_reason.startswith("budget.window")
    assert bench.controller.forecast.is_paused


def test_when_no_study_can_be_opened_the_sweep_ends_with_the_reason(bench):
    bench.studies = ("bad",)
    bench._make_worker = unopened(bench)
    with pytest.raises(WorkerError, match="no worker can open it: DataError: column 'label' is gone"):
        bench.run()


def test_a_worker_that_cannot_open_a_study_that_another_opened_is_disabled(bench):
    class Broken(FakeWorker):
        def answer(self, request):
            reply = super().answer(request)
            is_broken = isinstance(reply, StudyOpened) and self._index == 0
            return WorkerFailed(message="no such device", traceback="") if is_broken else reply

    bench.num_workers = 2
    bench.speeds, bench.num_trials = (2, 1), 24
    bench._make_worker = lambda index: Broken(rungs=(2, 4), num_chunks=4, events=bench.events, index=index)
    bench.run()
    assert list(bench.controller.disabled) == [0]
    assert bench.states() == [COMPLETE] * bench.num_trials


@pytest.mark.parametrize("trained", [0, 3])
def test_a_study_whose_rows_have_changed_ends_at_once_and_blames_no_device(bench, trained):
    """Also if it was open before: a worker that was restarted finds other rows than its predecessor."""
    opened = []

    class Changed(FakeWorker):
        def answer(self, request):
            if getattr(request, "name", "") == "toy":
                opened.append(self._index)
                if trained == 0 or len(opened) > 1:
                    message = "ContentChanged: dataset toy: its rows are gone from the cache"
                    return WorkerFailed(message=message, traceback="", kind=FailureKind.CONTENT_CHANGED)
            return super().answer(request)

    bench.studies = ("toy", "other")
    bench.worker = {"before": once(lose, at=trained)} if trained else {}
    bench._make_worker = lambda index: Changed(
        rungs=(2, 4), num_chunks=4, events=bench.events, index=index, **bench.worker
    )
    bench.run()
    assert len(opened) == (2 if trained else 1)
    assert bench.runs[0].stop_reason == "ContentChanged: dataset toy: its rows are gone from the cache"
    assert bench.states("other") == [COMPLETE] * bench.num_trials
    assert COMPLETE not in bench.states("toy")
    assert bench.controller.disabled == {}


# Studies in which everything fails.


def test_a_study_in_which_everything_fails_is_aborted_and_others_continue(bench):
    def fails(spec, _chunk):
        return Failure(kind=FailureKind.ERROR, message="a bug") if spec.study == "toy" else None

    bench.studies, bench.num_trials = ("toy", "other"), 12
    bench.executor = ExecutorSettings(abort_after_failures=4, retry_s=0.0)
    bench.worker = {"fails": fails}
    bench.run()
    assert len(bench.trials()) < 12
    assert set(bench.states()) == {FAILED}
    assert bench.states("other") == [COMPLETE] * 12


def test_a_restart_aborts_the_same_study_at_once(bench):
    bench.num_trials = 12
    bench.executor = ExecutorSettings(abort_after_failures=4)
    bench.worker = {"fails": lambda _spec, _chunk: Failure(kind=FailureKind.NON_FINITE, message="nan")}
    bench.run()
    num_started = len(bench.trials())
    bench.events.clear()
    bench.run()
    assert bench.events == []
    assert len(bench.trials()) == num_started


# Decisions, checkpoints, disks and databases.


def test_a_decision_that_a_kill_interrupted_is_requested_again(bench, monkeypatch):
    asked = []

    def report(self, number, *, chunk, value, loss, costs):  # noqa: ARG001  the protocol's names
        asked.append((number, chunk))
        if asked == [(0, 2)]:
            raise Killed
        return Decision.STOP if (number, chunk) == (0, 2) else Decision.CONTINUE

    monkeypatch.setattr(Search, "report", report)
    with pytest.raises(Killed):
        bench.run()
    assert (bench.trials()[0].chunks_done, bench.trials()[0].state) == (
        1,
        RUNNING,
    )  # a rung and its decision are written together
    bench.run()
    assert asked[:2] == [(0, 2), (0, 2)]
    assert (bench.trials()[0].state, bench.trials()[0].chunks_done) == (TrialState.PRUNED, 2)


def test_a_recorded_decision_is_not_requested_again(bench, monkeypatch):
    asked = []
    real = Search.report

    def report(self, number, *, chunk, value, loss, costs):
        asked.append((number, chunk))
        return real(self, number, chunk=chunk, value=value, loss=loss, costs=costs)

    monkeypatch.setattr(Search, "report", report)
    with pytest.raises(Killed):
        bench.run(replies=4)
    assert asked == [(0, 2), (1, 2), (2, 2)]
    bench.run()
    assert len(asked) == len(set(asked))


def stopped_after(bench, replies):
    with pytest.raises(Killed):
        bench.run(replies=replies)


def checkpoints(bench, number):
    return sorted(path.name for path in bench.store.paths.trial("toy", number).folder.glob("checkpoint-*"))


def test_the_latest_two_checkpoints_of_a_running_trial_are_kept(bench):
    stopped_after(bench, 5)
    assert checkpoints(bench, 1) == ["checkpoint-2.safetensors", "checkpoint-3.safetensors"]


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.write_bytes(b"x" * 6)])
def test_a_damaged_checkpoint_costs_one_chunk(bench, damage):
    stopped_after(bench, 5)
    damage(bench.store.paths.trial("toy", 1).folder / "checkpoint-3.safetensors")
    bench.events.clear()
    bench.run()
    assert sum(1 in pack for pack in bench.chunks()) == 2
    assert bench.trials()[1].state is COMPLETE
    assert "damaged or missing; the trial resumes after chunk 2" in bench.trials()[1].failure.message
    check_intact(bench)


def test_a_trial_without_an_intact_checkpoint_restarts(bench):
    stopped_after(bench, 5)
    for path in bench.store.paths.trial("toy", 1).folder.glob("checkpoint-*"):
        path.write_bytes(b"")
    bench.events.clear()
    bench.run()
    assert sum(1 in pack for pack in bench.chunks()) == 4
    assert "the trial restarts" in bench.trials()[1].failure.message
    check_intact(bench)


def test_a_checkpoint_that_a_worker_rejects_is_not_used_again(bench):
    calls = []

    def fails(spec, chunk):
        if spec.number != 1 or chunk != 4 or calls:
            return None
        calls.append(chunk)
        return Failure(kind=FailureKind.CHECKPOINT, message="of another model")

    bench.worker = {"fails": fails}
    bench.run()
    assert sum(1 in pack for pack in bench.chunks()) == 6
    assert bench.trials()[1].state is COMPLETE


def test_a_full_disk_of_a_worker_ends_the_sweep_and_the_same_command_resumes_it(bench):
    disk_full = Failure(kind=FailureKind.DISK_FULL, message="No space left on device")
    bench.worker = {"fails": lambda spec, chunk: disk_full if (spec.number, chunk) == (1, 3) else None}
    with pytest.raises(DiskFull, match="No space left"):
        bench.run()
    assert bench.trials()[1].num_retries == 0
    bench.worker = {}
    bench.run()
    check_intact(bench)


@pytest.mark.parametrize("nth", [3, 7, 12, 20])
def test_a_full_disk_in_the_middle_of_a_write_damages_nothing(bench, monkeypatch, nth):
    import os

    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) >= nth:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("sweeper.disk.atomic.os.fsync", fsync)
    with pytest.raises(DiskFull, match="MB are free"):
        bench.run()
    monkeypatch.undo()
    bench.run()
    check_intact(bench)


@pytest.mark.parametrize("method", ["ask", "report", "tell"])
def test_a_database_that_is_down_ends_the_sweep_with_every_chunk_in_the_store(bench, monkeypatch, method):
    calls, real = [], getattr(Search, method)

    def down(self, *args, **kwargs):
        calls.append(args)
        if len(calls) > 3:
            raise StorageDown("the study database is locked")
        return real(self, *args, **kwargs)

    bench.search = no_pruning()
    monkeypatch.setattr(Search, method, down)
    with pytest.raises(StorageDown):
        bench.run()
    assert len(calls) == 4
    before = bench.trials()
    monkeypatch.undo()
    bench.run()
    for number, trial in before.items():
        assert bench.trials()[number].measurements[: trial.chunks_done] == trial.measurements
    assert bench.states() == [COMPLETE] * bench.num_trials
    check_intact(bench)
