"""Workers as processes: their environment, how they die, and what happens when their controller dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sweeper.errors import WorkerLost
from sweeper.execute.base import WorkerFailed
from sweeper.execute.process import ProcessExecutor, memory_variables, worker_environment
from sweeper.types import Admission, ChunkReport, ChunkRequest, FailureKind
from tests.builders import make_spec
from tests.doubles import wait_for_exit, wait_until
from tests.execute.echo import BLOCK, EXIT, FILL, KILL, RAISE, STOP_MIDWAY, factory
from tests.execute.test_contract import WAIT_S, replies

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    made = []

    def begin(make_worker=None, num_workers=1, **options):
        executor = ProcessExecutor(make_worker or factory(), num_workers, logs=tmp_path / "logs", **options)
        made.append(executor)
        return executor, executor.start()

    yield begin
    for executor in made:
        executor.stop()


def started(executor, num_workers=1):
    return [dict(note.split("=", 1) for note in reply.notes[1:]) for _, reply in sorted(replies(executor, num_workers))]


def test_a_worker_is_a_process_of_its_own(start):
    executor, _ = start(num_workers=2)
    pids = {notes["pid"] for notes in started(executor, 2)}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids


def test_threads_are_set_before_the_workers_module_is_imported(start):
    executor, _ = start(threads=3)
    (notes,) = started(executor)
    assert (notes["OMP_NUM_THREADS"], notes["MKL_NUM_THREADS"]) == ("3", "3")


def test_each_worker_sees_its_own_device(start):
    executor, _ = start(num_workers=2, cuda_devices=("GPU-aa", "1"))
    assert [notes["CUDA_VISIBLE_DEVICES"] for notes in started(executor, 2)] == ["GPU-aa", "1"]


def test_a_worker_on_the_cpu_sees_no_device(start, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    executor, _ = start()
    assert started(executor)[0]["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("free_gb", "set_by_the_user", "expected"), [(3, None, "32"), (4, None, "1024"), (3, "500", "500"), (4, "50", "50")]
)
def test_caches_of_products_are_as_large_as_memory_allows_unless_the_user_sets_them(
    start, monkeypatch, free_gb, set_by_the_user, expected
):
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    if set_by_the_user:
        monkeypatch.setenv("LRU_CACHE_CAPACITY", set_by_the_user)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free_gb * 2**30))
    executor, _ = start()
    assert started(executor)[0]["LRU_CACHE_CAPACITY"] == expected


def test_the_log_of_a_worker_names_its_memory_settings(start, monkeypatch, tmp_path):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "77")
    start()
    assert "LRU_CACHE_CAPACITY=77" in (tmp_path / "logs" / "worker-0.log").read_text()


def test_workers_share_the_free_memory(monkeypatch):
    for name in memory_variables(2**40):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * 2**30))
    fast, small = (worker_environment("", 1, num_workers=workers) for workers in (2, 3))
    assert memory_variables(2**40).items() <= fast.items()
    assert "GLIBC_TUNABLES" not in small


def test_a_gpu_worker_keeps_its_caches_small(monkeypatch):
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    assert worker_environment("0", 1)["LRU_CACHE_CAPACITY"] == "32"


def test_the_environment_of_the_controller_does_not_change(start):
    before = dict(os.environ)
    executor, _ = start(threads=3)
    started(executor)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [(KILL, r"worker 0 was killed by SIGKILL \(usually by the kernel"), (EXIT, "exited with code 3")],
)
def test_a_dead_worker_is_reported_with_the_cause(start, command, message):
    executor, (handle,) = start()
    started(executor)
    handle.send(ChunkRequest(evict=(command,)))
    with pytest.raises(WorkerLost, match=message):
        replies(executor, 1)


def test_an_answer_and_the_death_after_it_are_both_received(start):
    executor, (handle,) = start()
    pid = int(started(executor)[0]["pid"])
    handle.send(ChunkRequest())
    handle.send(ChunkRequest(evict=(KILL,)))
    wait_for_exit(pid)
    assert replies(executor, 1) == [(0, ChunkReport(elapsed_s=1.0))]
    with pytest.raises(WorkerLost):
        replies(executor, 1)


def test_a_dead_worker_can_be_restarted(start):
    executor, (handle,) = start()
    before = started(executor)[0]["pid"]
    handle.send(ChunkRequest(evict=(KILL,)))
    with pytest.raises(WorkerLost):
        replies(executor, 1)
    fresh = executor.restart(handle)
    assert started(executor)[0]["pid"] != before
    fresh.send(ChunkRequest())
    assert replies(executor, 1) == [(0, ChunkReport(elapsed_s=1.0))]


def test_a_request_to_a_dead_worker_is_no_error_until_its_death_is_received(start):
    executor, (handle,) = start()
    pid = int(started(executor)[0]["pid"])
    os.kill(pid, signal.SIGKILL)
    wait_for_exit(pid)
    handle.send(ChunkRequest())
    with pytest.raises(WorkerLost, match="SIGKILL"):
        replies(executor, 1)


def test_a_failing_request_is_answered_with_its_traceback(start):
    executor, (handle,) = start()
    started(executor)
    handle.send(ChunkRequest(evict=(RAISE,)))
    ((_, reply),) = replies(executor, 1)
    assert isinstance(reply, WorkerFailed)
    assert reply.message == "RuntimeError: failed on command"
    assert "in _execute" in reply.traceback


def test_a_worker_that_cannot_start_reports_why(start, tmp_path):
    executor, _ = start(factory("broken"))
    ((_, reply),) = replies(executor, 1)
    assert reply.message == "RuntimeError: no model"
    assert "no model" in (tmp_path / "logs" / "worker-0.log").read_text()


def test_what_a_worker_prints_goes_to_its_log(start, tmp_path):
    executor, (handle,) = start()
    started(executor)
    handle.send(ChunkRequest(evict=(RAISE,)))
    replies(executor, 1)
    assert "failed on command" in (tmp_path / "logs" / "worker-0.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_leaves_workers_to_the_controller(start, number):
    executor, (handle,) = start()
    os.kill(int(started(executor)[0]["pid"]), number)
    handle.send(ChunkRequest())
    assert replies(executor, 1) == [(0, ChunkReport(elapsed_s=1.0))]


def test_stopping_ends_a_busy_worker_at_once(start):
    executor, (handle,) = start()
    pid = int(started(executor)[0]["pid"])
    handle.send(ChunkRequest(evict=(BLOCK,)))
    executor.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_retiring_ends_the_process(start):
    executor, (handle,) = start()
    pid = int(started(executor)[0]["pid"])
    executor.retire(handle)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def stopped(pid):
    """Wait until a process is stopped."""
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, f"process {pid} to be stopped")


@pytest.mark.skipif(sys.platform != "linux", reason="stopping a worker was tried on Linux only")
def test_a_stopped_worker_blocks_neither_sending_nor_waiting_and_can_be_replaced(start):
    executor, (handle,) = start()
    pid = int(started(executor)[0]["pid"])
    os.kill(pid, signal.SIGSTOP)
    stopped(pid)
    handle.send(ChunkRequest(admit=(Admission(spec=make_spec(1), chunks_done=1, checkpoint=bytes(8 << 20)),)))
    assert executor.wait(0.05) == []
    fresh = executor.restart(handle)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    started(executor)
    fresh.send(ChunkRequest())
    assert replies(executor, 1) == [(0, ChunkReport(elapsed_s=1.0))]


@pytest.mark.skipif(sys.platform != "linux", reason="stopping a worker was tried on Linux only")
def test_a_worker_stopped_in_the_middle_of_its_answer_blocks_nothing(start):
    executor, handles = start(num_workers=2)
    pids = [int(notes["pid"]) for notes in started(executor, 2)]
    handles[0].send(ChunkRequest(evict=(STOP_MIDWAY,)))
    stopped(pids[0])
    handles[1].send(ChunkRequest())
    assert replies(executor, 1) == [(1, ChunkReport(elapsed_s=1.0))]
    executor.restart(handles[0])


def test_a_full_disk_in_a_worker_is_reported(start):
    executor, (handle,) = start()
    started(executor)
    handle.send(ChunkRequest(evict=(FILL,)))
    ((_, reply),) = replies(executor, 1)
    assert reply.kind is FailureKind.DISK_FULL


CONTROLLER = """
from pathlib import Path
from sweeper.execute.process import ProcessExecutor, memory_variables, worker_environment
from sweeper.types import ChunkRequest
from tests.doubles import wait_until
from tests.execute.echo import BLOCK, factory

executor = ProcessExecutor(factory(), 2, logs=Path("logs"))
handles = executor.start()
heard = []
while len(heard) < 2:
    heard += [(handle, handle.receive()) for handle in executor.wait(60)]
heard[0][0].send(ChunkRequest(evict=(BLOCK,)))
print(*[note.partition("=")[2] for _, reply in heard for note in reply.notes if note.startswith("pid")], flush=True)
executor.wait(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a busy worker with its controller")
def test_idle_and_busy_workers_exit_when_the_controller_is_killed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CONTROLLER]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as controller:
        pids = [int(pid) for pid in controller.stdout.readline().split()]
        controller.kill()
    assert len(pids) == 2
    for pid in pids:
        wait_for_exit(pid)


def test_a_worker_does_not_start_if_its_controller_is_already_dead():
    mine, theirs = os.pipe()
    command = [sys.executable, "-m", "sweeper.execute.serve", str(theirs), "1"]
    done = subprocess.run(command, cwd=ROOT, pass_fds=[theirs], timeout=WAIT_S, check=False)
    os.close(mine)
    os.close(theirs)
    assert done.returncode == 1
