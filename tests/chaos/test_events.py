"""Events that check their own consequences raise an error if they are missing. The worker is a sleeping process."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time

import psutil
import pytest

from chaos import events
from chaos.events import hang_worker, start_a_second
from chaos.session import ChaosError
from chaos.workload import HANG_S
from sweeper.store.ledger import Ledger
from sweeper.store.paths import SweepPaths
from sweeper.types import Cost
from tests.doubles import wait_until

DRAW = random.Random(0)  # noqa: S311  no secret


class FakeSession:
    is_alive = True

    def __init__(self, folder, worker=None, code=None):
        self.paths, self.pid = SweepPaths(folder), -1
        self._worker, self._code = worker, code

    def workers(self):
        return [psutil.Process(self._worker.pid)]

    def wait(self, seconds, *, until_trained=False):
        time.sleep(0 if until_trained else min(seconds, 0.01))
        return self.is_alive

    def start_again(self):
        second = FakeSession(self.paths.root)
        second.is_alive = False
        second.process = self
        return second

    def poll(self):
        return self._code

    def end(self, _patience_s):
        return self._code


@pytest.fixture
def worker():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def kill_soon(session, worker, *, charged_s):
    """Act as the watchdog and the ledger."""

    def work():
        wait_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, "a stopped worker")
        line = "WARNING sweeper.controller: worker 0: worker 0 was killed: no answer to a chunk of trec within 4 s\n"
        session.paths.log.write_text(line)
        Ledger(session.paths.ledger).charge(Cost(device_s=charged_s))
        worker.kill()
        worker.wait()

    threading.Thread(target=work, daemon=True).start()


def test_a_hung_worker_that_is_not_killed_is_an_error(tmp_path, worker, monkeypatch):
    monkeypatch.setattr(events, "STARTUP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(events, "_PATIENCE_S", 0.1)
    with pytest.raises(ChaosError, match="the watchdog does nothing"):
        hang_worker(FakeSession(tmp_path, worker), DRAW)


@pytest.mark.parametrize("charged_s", [HANG_S, 0.5 * HANG_S])
def test_the_chunk_of_a_hung_worker_must_be_charged(tmp_path, worker, charged_s):
    session = FakeSession(tmp_path, worker)
    kill_soon(session, worker, charged_s=charged_s)
    if charged_s >= HANG_S:
        hang_worker(session, DRAW)
        return
    with pytest.raises(ChaosError, match="was charged with"):
        hang_worker(session, DRAW)


@pytest.mark.parametrize("code", [75, 0, 2, None])
def test_a_second_controller_must_exit_with_code_75(tmp_path, monkeypatch, code):
    monkeypatch.setattr(events, "survivors", lambda _pid, _patience_s: [])
    session = FakeSession(tmp_path, code=code)
    if code == 75:
        start_a_second(session, DRAW)
        return
    with pytest.raises(ChaosError, match=f"exited with {code}"):
        start_a_second(session, DRAW)
