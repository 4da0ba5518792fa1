"""A sweep on worker processes that is stopped or killed; the same command finishes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest

import sweeper
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState
from tests.doubles import wait_for_exit, wait_until

ROOT = Path(__file__).parents[2]
STUDY = "tiny-tinybert-lora"
PATIENCE_S = 60
pytestmark = pytest.mark.slow


class Running:
    """A sweep in a separate process, which has trained a chunk or two."""

    def __init__(self, overrides, folder):
        self.overrides, self.folder = overrides, folder
        self.store = TrialStore(folder / "outputs" / "tiny")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.cli", "run", *overrides],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._wait_for_chunks()
        self.workers = [child.pid for child in psutil.Process(self.process.pid).children()]

    def _wait_for_chunks(self):
        wait_until(self._has_trained, "two chunks of a trial")
        assert self.process.poll() is None, self.process.communicate()

    def _has_trained(self):
        return self.process.poll() is not None or any(trial.chunks_done >= 2 for trial in self.store.trials(STUDY))

    def end(self, number):
        self.process.send_signal(number)
        self.stdout, self.stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def resume(self):
        """Finish it in this process, with as few further trials as possible."""
        num_started = len(self.store.trials(STUDY))
        return sweeper.run([*self.overrides, "executor=inline", f"budget.trials={num_started + 1}"])

    def in_optuna(self):
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.store.root}/optuna.db")
        try:
            return optuna.load_study(study_name=f"tiny/{STUDY}", storage=storage).get_trials()
        finally:
            storage.engine.dispose()


@pytest.fixture
def running(request, tiny, tmp_path):
    num_workers, *more = request.param if isinstance(request.param, tuple) else (request.param,)
    workers = f"executor.workers={num_workers}"
    longer = [
        "executor=process",
        workers,
        "executor.shutdown_grace_s=5",
        "executor.hang_timeout_min_s=3",
        "train.epochs=12",
        "budget.trials=200",
    ]
    sweep = Running([*tiny, *longer, *more], tmp_path)
    yield sweep
    if sweep.process.poll() is None:
        sweep.process.kill()
        sweep.process.communicate()


def check_intact(sweep, result):
    trials = sweep.store.trials(STUDY)
    assert [trial.spec.number for trial in trials] == list(range(len(trials)))
    assert all(trial.state.is_finished for trial in trials)
    for trial in trials:
        chunks = [measurement.chunk for measurement in trial.measurements]
        assert chunks == list(range(1, len(chunks) + 1))
    viewed = sweep.in_optuna()
    assert [trial.number for trial in viewed] == [trial.spec.number for trial in trials]
    assert all(trial.state.is_finished() for trial in viewed)
    assert result["studies"][0]["num_trials"] == len(trials)


@pytest.mark.parametrize("running", [1], indirect=True)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_a_signal_running_chunks_finish_and_the_same_command_resumes(running, number, code):
    start = time.monotonic()
    assert running.end(number) == code
    assert time.monotonic() - start < 20
    assert f"Stopped by {number.name}. Everything is saved" in running.stdout
    assert "Traceback" not in running.stderr
    for pid in running.workers:
        wait_for_exit(pid)
    paused = [trial for trial in running.store.trials(STUDY) if trial.state is TrialState.RUNNING]
    assert paused
    for trial in paused:
        assert not trial.chunks_done or running.store.read_checkpoint(STUDY, trial.spec.number, trial.chunks_done)
    check_intact(running, running.resume())


@pytest.mark.parametrize("running", [2], indirect=True)
def test_workers_end_with_a_killed_controller_and_no_trial_is_lost(running):
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    assert len(running.workers) == 2
    for pid in running.workers:
        wait_for_exit(pid)
    before = {trial.spec.number: trial for trial in running.store.trials(STUDY)}
    check_intact(running, running.resume())
    for trial in running.store.trials(STUDY):
        known = before.get(trial.spec.number)
        if known is not None:
            assert trial.measurements[: known.chunks_done] == known.measurements


@pytest.mark.parametrize("running", [2], indirect=True)
def test_killed_workers_are_replaced_and_their_trials_continue(running):
    for pid in running.workers:  # it is not known which of them is training already
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: any(trial.failure for trial in running.store.trials(STUDY)), "a trial that lost its worker")
    assert running.end(signal.SIGTERM) == 143
    assert "was killed by SIGKILL" in running.stderr
    interrupted = [trial for trial in running.store.trials(STUDY) if trial.failure]
    assert {trial.failure.kind for trial in interrupted} == {"lost_worker"}
    check_intact(running, running.resume())


@pytest.mark.skipif(sys.platform != "linux", reason="that SIGKILL ends a stopped process was tried on Linux only")
@pytest.mark.parametrize("running", [(1, "executor.hang_timeout_min_s=5")], indirect=True, ids=["1"])
def test_a_stopped_worker_counts_as_hung_and_is_replaced(running):
    os.kill(running.workers[0], signal.SIGSTOP)
    wait_until(lambda: any(trial.failure for trial in running.store.trials(STUDY)), "a trial that lost its worker")
    wait_for_exit(running.workers[0])
    assert running.end(signal.SIGTERM) == 143
    assert "no answer to a chunk of tiny-tinybert-lora within" in running.stderr
    assert {trial.failure.kind for trial in running.store.trials(STUDY) if trial.failure} == {"hung"}
    check_intact(running, running.resume())
