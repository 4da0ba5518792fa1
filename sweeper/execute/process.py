"""Runs each worker in its own process: by default one per CUDA device, or one per CPU core.

A worker process is ``python -m sweeper.execute.serve`` with one end of a private pipe. Nothing is forked, the user's
main module is not imported again, and the environment (devices, threads) is set before any library is loaded.

Terminals and service managers send Ctrl-C, SIGTERM and SIGHUP to the whole process group. Workers ignore them: the
controller lets running chunks end, then kills its workers. A worker exits by itself if its controller dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from io import FileIO
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import psutil

from sweeper.disk.atomic import make_folder
from sweeper.disk.space import translate_errors
from sweeper.errors import WorkerLost
from sweeper.execute.base import Reply, Request, Worker, WorkerHandle
from sweeper.figures.memory import PRODUCT_CACHE

__all__ = ["ProcessExecutor", "WorkerFactory", "memory_variables", "worker_environment"]

WorkerFactory = Callable[[int], Worker]
"""Makes the worker with an index, in the worker's process. It is sent by name, so it must be importable."""

_JOIN_S = 5.0


class _ProcessHandle:
    """A worker's process and pipe.

    One thread reads and one writes, so a process that hangs in the middle of a message does not block the controller.

    Args:
        process: The worker process.
        pipe: The controller's end of the pipe.
        index: The worker's index.
        ready: The queue into which this handle is put whenever it has something to receive.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], pipe: Connection, index: int, ready: SimpleQueue[_ProcessHandle]
    ) -> None:
        self.index = index
        self._process = process
        self._pipe = pipe
        self._ready = ready
        self._inbox: SimpleQueue[Reply | None] = SimpleQueue()
        self._outbox: SimpleQueue[object] = SimpleQueue()
        self._threads = [Thread(target=work, daemon=True) for work in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def send(self, request: Request) -> None:
        self._outbox.put(request)

    def send_factory(self, make_worker: WorkerFactory) -> None:
        self._outbox.put((make_worker, self.index))

    def receive(self) -> Reply:
        reply = self._inbox.get()
        if reply is None:
            raise WorkerLost(f"worker {self.index} {_describe_exit(self._wait())}")
        return reply

    def kill(self) -> None:
        """Kill the process. SIGKILL also ends a stopped process."""
        self._process.kill()
        self._wait()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join(_JOIN_S)
        if not any(thread.is_alive() for thread in self._threads):
            self._pipe.close()

    def _read(self) -> None:
        reply: Reply | None = None
        while True:
            try:
                reply = self._pipe.recv()
            except (EOFError, OSError):
                reply = None
            self._inbox.put(reply)
            self._ready.put(self)
            if reply is None:
                return

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            with contextlib.suppress(OSError):  # the worker is dead, which `_read` reports
                self._pipe.send(message)

    def _wait(self) -> int | None:
        try:
            return self._process.wait(_JOIN_S)
        except subprocess.TimeoutExpired:
            return None


class ProcessExecutor:
    """An executor that starts one process per worker.

    Args:
        make_worker: Makes the worker; called in the new process.
        num_workers: The number of workers.
        logs: Folder for the output of the workers.
        cuda_devices: The device of each worker, as in CUDA_VISIBLE_DEVICES; empty for CPU workers.
        threads: CPU threads per worker.
    """

    def __init__(
        self,
        make_worker: WorkerFactory,
        num_workers: int,
        *,
        logs: Path,
        cuda_devices: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        self._make_worker = make_worker
        self._num_workers = num_workers
        self._logs = logs
        self._cuda_devices = cuda_devices
        self._threads = threads
        self._handles: dict[int, _ProcessHandle] = {}
        self._ready: SimpleQueue[_ProcessHandle] = SimpleQueue()

    def start(self) -> Sequence[WorkerHandle]:
        """Start all workers in parallel. A second call returns the same workers.

        Raises:
            DiskError: The log of a worker cannot be written.
        """
        make_folder(self._logs)
        for index in range(self._num_workers if not self._handles else 0):
            self._launch(index)
        return list(self._handles.values())

    def restart(self, handle: WorkerHandle) -> WorkerHandle:
        """Kill what is left of a worker, and start a new one with its index."""
        self.retire(handle)
        return self._launch(handle.index)

    def retire(self, handle: WorkerHandle) -> None:
        """Kill a worker's process and drop it."""
        self._handles.pop(handle.index).kill()

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Return the workers that have answered, or whose pipe is closed."""
        ready: list[_ProcessHandle] = []
        # A worker that answers and then dies needs two calls of `receive`, so the next `wait` returns it again.
        again: list[_ProcessHandle] = []
        with contextlib.suppress(Empty):
            while True:
                handle = self._ready.get(timeout=0 if ready else timeout_s)
                if self._handles.get(handle.index) is handle:  # skip workers that were retired or replaced
                    (again if handle in ready else ready).append(handle)
        for handle in again:
            self._ready.put(handle)
        return ready

    def stop(self) -> None:
        """Kill all workers at once. They hold nothing that must be saved."""
        for handle in self._handles.values():
            handle.kill()
        self._handles.clear()

    def _launch(self, index: int) -> _ProcessHandle:
        own_end, worker_end = Pipe()
        device = self._cuda_devices[index] if self._cuda_devices else ""
        environment = worker_environment(device, self._threads, num_workers=self._num_workers)
        command = [sys.executable, "-m", "sweeper.execute.serve", str(worker_end.fileno()), str(os.getpid())]
        with self._open_log(index) as log:
            with translate_errors(self._logs):
                log.write(f"worker {index}: {_memory_note(environment)}\n".encode())
            process = subprocess.Popen(  # noqa: S603  our own module, no shell
                command,
                pass_fds=[worker_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        worker_end.close()
        handle = _ProcessHandle(process, own_end, index, self._ready)
        self._handles[index] = handle
        handle.send_factory(self._make_worker)
        return handle

    def _open_log(self, index: int) -> FileIO:
        path = self._logs / f"worker-{index}.log"
        with translate_errors(path):
            return path.open("ab", buffering=0)


_AMPLE_BYTES = 3 * 2**30
"""Free memory per worker from which speed comes first. A worker takes 1 to 2 GB, and 0.5 GB more with `_FAST`."""
_CACHES = (PRODUCT_CACHE, "LRU_CACHE_CAPACITY")
"""How many compiled matrix products oneDNN, and torch's layer above it, cache. Every shape needs one, and packs of
trials have hundreds of shapes; 1,024 of them take 0.6 GB (`sweeper.figures.memory`)."""
_SMALL = dict(zip(_CACHES, ("384", "32"), strict=True))
_FAST = {
    **dict.fromkeys(_CACHES, "1024"),
    # Freed memory stays with the process, in huge pages, so that activations do not fault their pages in again.
    # 32 MiB is the largest threshold that every glibc accepts; if it refused, each tensor would get fresh pages.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def memory_variables(available_bytes: int) -> dict[str, str]:
    """Return the environment variables that trade memory for speed, by the free memory of a CPU worker.

    Where memory is ample, a worker is 3 to 7 % faster with large caches, and with freed memory kept
    (docs/benchmarks.md).

    Args:
        available_bytes: Free memory of the machine per worker.
    """
    return _FAST if available_bytes > _AMPLE_BYTES else _SMALL


def worker_environment(cuda_device: str, threads: int, *, num_workers: int = 1) -> dict[str, str]:
    """Return the environment of a worker: that of this process, with the variables that libraries read on import.

    Args:
        cuda_device: The device, as in CUDA_VISIBLE_DEVICES; empty for a CPU worker.
        threads: CPU threads per worker.
        num_workers: The workers that share the machine's memory.
    """
    thread_counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    # The worker can import everything that this process can, even if sweeper is not installed.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    own = {"CUDA_VISIBLE_DEVICES": cuda_device, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
    # A GPU worker gains nothing: its products and activations are on the device.
    memory = _SMALL if cuda_device else memory_variables(psutil.virtual_memory().available // num_workers)
    # Variables that the user has set take precedence, except those of threads and devices.
    return {**memory, **os.environ, **thread_counts, **own}


def _memory_note(environment: dict[str, str]) -> str:
    chosen = ", ".join(f"{name}={environment[name]}" for name in _FAST if name in environment)
    return f"memory settings: {chosen}"


def _describe_exit(exitcode: int | None) -> str:
    if exitcode is None:
        return "closed its pipe, but is still running"
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (usually by the kernel, because the host ran out of memory)" if exitcode == -signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"exited with code {exitcode}"
