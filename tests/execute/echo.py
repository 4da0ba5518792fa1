"""A worker that follows commands; importable by name, also in a process of its own."""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import threading
from functools import partial

from sweeper.execute.base import AdaptersScored, OpenStudy, Reply, Request, ScoreAdapters, StudyOpened, WorkerReady
from sweeper.types import ChunkReport

AT_IMPORT = {
    name: os.environ.get(name, "unset")
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LRU_CACHE_CAPACITY")
}
"""The environment that a library sees when it is imported."""

KILL, RAISE, EXIT, BLOCK, STOP_MIDWAY, FILL = range(1, 7)
"""Commands, sent as the trial to evict."""


class EchoWorker:
    def __init__(self, index: int, greeting: str = "hello") -> None:
        self._index, self._greeting, self._answered = index, greeting, 0

    def start(self) -> WorkerReady:
        if self._greeting == "broken":
            raise RuntimeError("no model")
        environment = [f"{name}={value}" for name, value in AT_IMPORT.items()]
        return WorkerReady(notes=(self._greeting, f"index={self._index}", f"pid={os.getpid()}", *environment))

    def answer(self, request: Request) -> Reply:
        self._answered += 1
        if isinstance(request, OpenStudy):
            return StudyOpened(references={request.name: {"answered": float(self._answered)}})
        if isinstance(request, ScoreAdapters):
            return AdaptersScored(outcomes={number: files["x"] for number, (_, files) in request.adapters.items()})
        for command in request.evict:
            self._execute(command)
        return ChunkReport(elapsed_s=float(self._answered))

    def _execute(self, command: int) -> None:
        if command == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if command == RAISE:
            raise RuntimeError("failed on command")
        if command == EXIT:
            os._exit(3)
        if command == STOP_MIDWAY:  # the head of a message of a megabyte, and no more
            os.write(int(sys.argv[1]), struct.pack("!i", 1 << 20) + b"the first bytes")
            os.kill(os.getpid(), signal.SIGSTOP)
        if command == FILL:
            raise OSError(errno.ENOSPC, "No space left on device")
        if command == BLOCK:
            print("blocking", flush=True)
            threading.Event().wait()


def make_echo(greeting: str, index: int) -> EchoWorker:
    return EchoWorker(index, greeting)


def factory(greeting: str = "hello"):
    return partial(make_echo, greeting)
