"""One worker in this process: for tests and for debugging with breakpoints."""

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
        self._requests: deque[Request | None] = deque([None])

    @property
    def is_busy(self) -> bool:
        return bool(self._requests)

    def send(self, request: Request) -> None:
        self._requests.append(request)

    def receive(self) -> Reply:
        request = self._requests.popleft()
        return self._worker.start() if request is None else self._worker.answer(request)


class InlineExecutor:
    """Runs workers in turn, within `WorkerHandle.receive`.

    Args:
        make_worker: Makes the worker of an index.
        num_workers: More than one is for tests of the controller.
    """

    def __init__(self, make_worker: Callable[[int], Worker], num_workers: int = 1) -> None:
        self._make_worker = make_worker
        self._handles = {index: _InlineHandle(make_worker(index), index) for index in range(num_workers)}

    def start(self) -> Sequence[WorkerHandle]:
        """Return the handles."""
        return list(self._handles.values())

    def restart(self, handle: WorkerHandle) -> WorkerHandle:
        """Make the worker anew."""
        self._handles[handle.index] = _InlineHandle(self._make_worker(handle.index), handle.index)
        return self._handles[handle.index]

    def retire(self, handle: WorkerHandle) -> None:
        """Forget a worker."""
        del self._handles[handle.index]

    def wait(self, timeout_s: float) -> Sequence[WorkerHandle]:
        """Return every worker that has something to do; without one, time passes."""
        busy = [handle for handle in self._handles.values() if handle.is_busy]
        if not busy:
            time.sleep(timeout_s)
        return busy

    def stop(self) -> None:
        """Drop what was asked."""
        self._handles.clear()
