"""Workers as processes of their own: one a CUDA device, or one a CPU core.

A worker is ``python -m sweeper.execute.serve`` with one end of a private pipe: nothing is forked, the user's main
module is not imported again, and the environment (devices, threads) is right before any library loads. A worker
ignores Ctrl-C and SIGTERM, which terminals and service managers send to the whole group: the controller drains, then
kills it. It ends by itself when its controller is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from sweeper.errors import WorkerLost
from sweeper.execute.base import Reply, Request, Worker, WorkerHandle

__all__ = ["ProcessExecutor", "WorkerFactory", "worker_environment"]

WorkerFactory = Callable[[int], Worker]
"""Makes the worker of an index, in the worker's process; importable by name."""

_JOIN_S = 5.0


class _ProcessHandle:
    """A worker's process and pipe; a thread each way, so that a process that is stopped midway blocks nobody else.

    Args:
        process: The worker.
        pipe: Our end.
        index: The worker's index.
        heard: Where this handle is put whenever it has something to receive.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], pipe: Connection, index: int, heard: SimpleQueue[_ProcessHandle]
    ) -> None:
        self.index = index
        self._process = process
        self._pipe = pipe
        self._heard = heard
        self._inbox: SimpleQueue[Reply | None] = SimpleQueue()
        self._outbox: SimpleQueue[object] = SimpleQueue()
        self._threads = [Thread(target=work, daemon=True) for work in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def send(self, request: Request) -> None:
        self._outbox.put(request)

    def begin(self, make_worker: WorkerFactory) -> None:
        self._outbox.put((make_worker, self.index))

    def receive(self) -> Reply:
        reply = self._inbox.get()
        if reply is None:
            raise WorkerLost(f"worker {self.index} {_ending(self._end())}")
        return reply

    def kill(self) -> None:
        """End the process, also one that is stopped; SIGKILL is not for it to handle."""
        self._process.kill()
        self._end()
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
            self._heard.put(self)
            if reply is None:
                return

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            with contextlib.suppress(OSError):  # its death is announced by the reader, like any other
                self._pipe.send(message)

    def _end(self) -> int | None:
        try:
            return self._process.wait(_JOIN_S)
        except subprocess.TimeoutExpired:
            return None


class ProcessExecutor:
    """Starts a process for each worker.

    Args:
        make_worker: Called in the new process.
        num_workers: How many.
        logs: Folder for what the workers print.
        cuda_devices: The device of each worker, as CUDA_VISIBLE_DEVICES names it; empty for CPU workers.
        threads: CPU threads of each worker.
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
        self._heard: SimpleQueue[_ProcessHandle] = SimpleQueue()

    def start(self) -> Sequence[WorkerHandle]:
        """Start all workers side by side; asked again, return them."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for index in range(self._num_workers if not self._handles else 0):
            self._launch(index)
        return list(self._handles.values())

    def restart(self, handle: WorkerHandle) -> WorkerHandle:
        """Start a worker anew; what is left of the old one is ended."""
        self.retire(handle)
        return self._launch(handle.index)

    def retire(self, handle: WorkerHandle) -> None:
        """End a worker's process and forget it."""
        self._handles.pop(handle.index).kill()

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Wait for workers that have answered, or whose pipe is closed."""
        heard: list[_ProcessHandle] = []
        again: list[_ProcessHandle] = []  # an answer, then a death: one `receive` each
        with contextlib.suppress(Empty):
            while True:
                handle = self._heard.get(timeout=0 if heard else timeout_s)
                if self._handles.get(handle.index) is handle:  # not one that was retired meanwhile
                    (again if handle in heard else heard).append(handle)
        for handle in again:
            self._heard.put(handle)
        return list(heard)

    def stop(self) -> None:
        """Kill all workers: they hold nothing durable."""
        for handle in self._handles.values():
            handle.kill()
        self._handles.clear()

    def _launch(self, index: int) -> _ProcessHandle:
        ours, theirs = Pipe()
        device = self._cuda_devices[index] if self._cuda_devices else ""
        command = [sys.executable, "-m", "sweeper.execute.serve", str(theirs.fileno()), str(os.getpid())]
        with (self._logs / f"worker-{index}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  our own module, no shell
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=worker_environment(device, self._threads),
            )
        theirs.close()
        handle = _ProcessHandle(process, ours, index, self._heard)
        self._handles[index] = handle
        handle.begin(self._make_worker)
        return handle


_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "384", "LRU_CACHE_CAPACITY": "32"}
"""Compiled products that oneDNN, and torch's calls of it, keep. One for every shape, and packs of trials have
hundreds: the default of 1,024 each takes 450 MB, a quarter of a worker (docs/benchmarks.md)."""


def worker_environment(cuda_device: str, threads: int) -> dict[str, str]:
    """Return the environment a worker is started in: this process's, with what libraries read when they are imported.

    Args:
        cuda_device: As CUDA_VISIBLE_DEVICES names it; empty for a CPU worker.
        threads: CPU threads.
    """
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    # the worker imports what this process can import, also where sweeper is not installed
    path = os.pathsep.join(entry for entry in sys.path if entry)
    own = {"CUDA_VISIBLE_DEVICES": cuda_device, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
    return {**_CACHES, **os.environ, **numbers, **own}


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "closed its pipe"
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (often the kernel, out of memory)" if exitcode == -signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"exited with {exitcode}"
