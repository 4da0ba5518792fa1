"""The main program of a worker process: answers the requests that come through its pipe. `process` starts it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from sweeper.execute.base import Reply, Request, Worker, WorkerFailed
from sweeper.failures import kind_of

__all__ = ["main", "serve"]

_PR_SET_PDEATHSIG = 1


def serve(pipe: Connection) -> None:
    """Make the worker with the factory in the first message, then answer requests until the pipe is closed."""
    try:
        make_worker, index = pipe.recv()
        worker = make_worker(index)
        pipe.send(worker.start())
        while True:
            pipe.send(_answer(worker, pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001  the boundary of the process: the controller must get the cause
        pipe.send(_failed(error))


def main(arguments: list[str]) -> None:
    """Run as ``python -m sweeper.execute.serve <file descriptor of the pipe> <process id of the controller>``."""
    descriptor, parent = map(int, arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _exit_with_parent(parent)
    serve(Connection(descriptor))


def _answer(worker: Worker, request: Request) -> Reply:
    try:
        return worker.answer(request)
    except Exception as error:  # noqa: BLE001  the boundary of the process: the controller decides what to do
        return _failed(error)


def _failed(error: Exception) -> WorkerFailed:
    text = traceback.format_exc()
    with contextlib.suppress(OSError):  # a log on a full disk must not hide the cause
        sys.stderr.write(text)
        sys.stderr.flush()
    return WorkerFailed(message=f"{type(error).__name__}: {error}", traceback=text, kind=kind_of(error))


def _exit_with_parent(parent: int) -> None:
    """Make Linux kill this process when its parent dies, so that a busy worker does not outlive the controller."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call above
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
