"""Runs the worker in the controller's process, for tests and for debugging with breakpoints."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from sweeper.execute.base import Reply, Request, Worker, WorkerHandle

__all__ = ["InlineExecutor"]


class _InlineHandle:
    def __init__(self, worker: Worker, index: int) -> None:
        self.index = index
        self._worker = worker
        self._requests: deque[Request | None] = deque([None])  # None stands for the start

    @property
    def is_busy(self) -> bool:
        return bool(self._requests)

    def send(self, request: Request) -> None:
        self._requests.append(request)

    def receive(self) -> Reply:
        request = self._requests.popleft()
        return self._worker.start() if request is None else self._worker.answer(request)


class InlineExecutor:
    """An executor without processes: a worker does its work when the controller calls `WorkerHandle.receive`.

    Args:
        make_worker: Makes the worker with an index.
        num_workers: The number of workers; tests of the controller use more than one.
    """

    def __init__(self, make_worker: Callable[[int], Worker], num_workers: int = 1) -> None:
        self._make_worker = make_worker
        self._handles = {index: _InlineHandle(make_worker(index), index) for index in range(num_workers)}

    def start(self) -> Sequence[WorkerHandle]:
        """Return the workers' handles."""
        return list(self._handles.values())

    def restart(self, handle: WorkerHandle) -> WorkerHandle:
        """Make a new worker with the same index."""
        self._handles[handle.index] = _InlineHandle(self._make_worker(handle.index), handle.index)
        return self._handles[handle.index]

    def retire(self, handle: WorkerHandle) -> None:
        """Drop a worker."""
        del self._handles[handle.index]

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Return every worker that has an unanswered request; if there is none, sleep for ``timeout_s``."""
        busy = [handle for handle in self._handles.values() if handle.is_busy]
        if not busy:
            time.sleep(timeout_s)
        return busy

    def stop(self) -> None:
        """Drop all workers and their unanswered requests."""
        self._handles.clear()
