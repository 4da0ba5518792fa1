"""Failing configurations, trials and workers, and a controller that is killed."""

from __future__ import annotations

import optuna
import pytest

from sweeper.errors import WorkerError
from sweeper.execute.base import WorkerFailed
from sweeper.types import Failure, FailureKind, TrialState
from tests.control.bench import Bench, Killed, check_intact, lose, no_pruning, once
from tests.doubles import FakeWorker
from tests.search.toy import preset


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def failing(number, kind, *, times=99, at_chunk=2):
    attempts = []

    def fails(spec, chunk):
        if spec.number != number or chunk != at_chunk or len(attempts) >= times:
            return None
        attempts.append(chunk)
        return Failure(kind=kind, message="it does not work")

    return fails


@pytest.mark.parametrize("kind", [FailureKind.OUT_OF_MEMORY, FailureKind.NON_FINITE])
def test_a_configuration_that_cannot_work_is_infeasible_without_retries(bench, kind):
    bench.worker = {"fails": failing(1, kind)}
    bench.run()
    trial = bench.trials()[1]
    assert (trial.state, trial.num_retries, trial.failure.kind) == (TrialState.INFEASIBLE, 0, kind)
    assert bench.in_optuna()[1].state is optuna.trial.TrialState.COMPLETE
    assert bench.in_optuna()[1].constraints == {"0": 1.0}
    check_intact(bench)


@pytest.mark.parametrize("kind", [FailureKind.ERROR, FailureKind.LOST_WORKER])
def test_a_failure_with_another_cause_than_the_configuration_is_retried(bench, kind):
    bench.search = no_pruning()
    bench.worker = {"fails": failing(1, kind, times=2)}
    bench.run()
    trial = bench.trials()[1]
    assert (trial.state, trial.num_retries) == (TrialState.COMPLETE, 2)
    check_intact(bench)


def test_a_trial_that_keeps_failing_ends_as_failed_and_the_study_continues(bench):
    bench.search = no_pruning()
    bench.worker = {"fails": failing(1, FailureKind.ERROR)}
    bench.run()
    trial = bench.trials()[1]
    assert (trial.state, trial.num_retries) == (TrialState.FAILED, bench.max_retries)
    assert trial.failure.message == "it does not work"
    assert bench.in_optuna()[1].state is optuna.trial.TrialState.FAIL
    assert bench.states().count(TrialState.COMPLETE) == bench.num_trials - 1
    check_intact(bench)


def test_a_failed_trial_counts_towards_the_budget(bench):
    bench.worker = {"fails": failing(1, FailureKind.ERROR)}
    assert len(bench.run().trials()) == bench.num_trials


def test_the_cost_of_a_failed_chunk_is_charged(bench):
    bench.search = no_pruning()
    bench.worker = {"fails": failing(1, FailureKind.ERROR, times=1)}
    assert bench.run().trials()[1].cost.rows == 50


# Lost workers.


def test_the_trials_of_a_lost_worker_resume_from_their_checkpoints(bench):
    bench.search = no_pruning()
    bench.worker = {"before": once(lose, at=3)}
    bench.run()
    interrupted = [trial for trial in bench.trials().values() if trial.failure]
    assert [trial.spec.number for trial in interrupted] == [0, 1, 2]
    assert {trial.failure.message for trial in interrupted} == {"worker 0 was killed by SIGKILL"}
    assert bench.states() == [TrialState.COMPLETE] * bench.num_trials
    # only the lost chunk is trained twice
    assert {n: sum(n in pack for pack in bench.chunks()) for n in range(4)} == {0: 5, 1: 5, 2: 5, 3: 4}
    check_intact(bench)


def test_a_lost_worker_changes_no_result(bench, tmp_path):
    bench.worker = {"before": once(lose, at=3)}
    bench.run()
    whole = Bench(tmp_path / "whole").run()
    assert bench.configurations() == whole.configurations()
    assert bench.states() == whole.states()


def test_another_worker_takes_over_the_trials_of_a_lost_one(tmp_path):
    def always(numbers):
        if 0 in numbers:
            lose()

    bench = Bench(tmp_path, num_workers=2, max_retries=9, search=no_pruning())
    dead = bench._make_worker

    def make_worker(index):
        bench.worker = {"before": always} if index == 0 else {}
        return dead(index)

    bench._make_worker = make_worker
    bench.run()
    assert {index for index, what, numbers in bench.events if what == "chunk" and 3 in numbers} == {1}
    assert bench.states() == [TrialState.COMPLETE] * bench.num_trials
    check_intact(bench)


def test_a_worker_that_fails_is_replaced(bench):
    def fail():
        raise RuntimeError("CUDA error: an illegal memory access")

    bench.search = no_pruning()
    bench.worker = {"before": once(fail, at=2)}
    bench.run()
    assert [what for _, what, _ in bench.events].count("start") == 2
    failure = bench.trials()[0].failure
    assert (failure.kind, failure.traceback) == (FailureKind.ERROR, "Traceback of the double")
    check_intact(bench)


def test_a_worker_that_is_lost_every_time_is_disabled_and_its_trials_can_resume(bench):
    bench.max_retries = 9
    bench.worker = {"before": lambda _numbers: lose()}
    with pytest.raises(WorkerError, match="no worker is left"):
        bench.run()
    assert [what for _, what, _ in bench.events].count("start") == 3
    assert bench.states() == [TrialState.RUNNING] * 3
    bench.worker = {}
    bench.run()
    check_intact(bench)


def test_a_worker_that_cannot_start_stops_the_sweep(bench):
    class Broken(FakeWorker):
        def start(self):
            return WorkerFailed(message="no such device", traceback="")

    bench._make_worker = lambda _index: Broken()
    with pytest.raises(WorkerError, match="worker 0 cannot start: no such device"):
        bench.run()


def test_a_worker_lost_during_a_shutdown_costs_its_trials_no_retry(bench):
    def shut_down_and_die():
        bench.shutdown.reason, bench.shutdown.deadline_s = "SIGTERM", float("inf")
        lose("worker 0 was killed by SIGTERM")

    bench.worker = {"before": once(shut_down_and_die, at=3)}
    bench.run()
    assert {trial.num_retries for trial in bench.trials().values()} == {0}
    assert bench.states() == [TrialState.RUNNING] * 3


# A killed controller.

NUM_REPLIES = 16


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("whole")).run()


def test_the_kills_below_cover_every_reply(uninterrupted):
    assert len(uninterrupted.events) <= NUM_REPLIES


@pytest.mark.parametrize("replies", range(NUM_REPLIES))
def test_a_sweep_killed_after_any_reply_resumes_to_the_same_result(tmp_path, uninterrupted, replies):
    bench = Bench(tmp_path)
    if replies < len(uninterrupted.events):
        with pytest.raises(Killed):
            bench.run(replies=replies)
    bench.run()
    assert bench.configurations() == uninterrupted.configurations()
    assert bench.states() == uninterrupted.states()
    check_intact(bench)


def test_a_sweep_that_is_killed_repeatedly_reaches_the_same_result(tmp_path, uninterrupted):
    bench = Bench(tmp_path)
    for _ in range(20):
        try:
            bench.run(replies=3)
        except Killed:
            continue
        break
    assert bench.configurations() == uninterrupted.configurations()
    check_intact(bench)


@pytest.fixture(scope="module")
def uninterrupted_random(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("random"), search=preset("random")).run()


@pytest.mark.parametrize("nth", [1, 2, 3, 8, 13, 22, 31, 40, 49])
def test_a_kill_at_any_write_loses_no_trial_and_repeats_none(tmp_path, monkeypatch, nth, uninterrupted_random):
    writes = []

    def replace(source, target):
        writes.append(target)
        if len(writes) == nth:
            raise Killed
        real(source, target)

    from sweeper.disk.atomic import os as store_os

    real = store_os.replace
    bench = Bench(tmp_path, search=preset("random"))
    monkeypatch.setattr("sweeper.disk.atomic.os.replace", replace)
    with pytest.raises(Killed):
        bench.run()
    monkeypatch.undo()
    bench.run()
    assert bench.configurations() == uninterrupted_random.configurations()
    check_intact(bench)


def test_a_trial_without_its_checkpoint_restarts(bench):
    bench.search = no_pruning()
    with pytest.raises(Killed):
        bench.run(replies=4)
    for path in bench.store.paths.trial("toy", 1).folder.glob("checkpoint-*"):
        path.unlink()
    bench.run()
    assert bench.trials()[1].state is TrialState.COMPLETE
    assert sum(1 in pack for pack in bench.chunks()) > 4
    check_intact(bench)
