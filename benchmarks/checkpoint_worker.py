"""A worker with lanes of a given size that trains nothing, so that only saving them takes time (`checkpoints`)."""

from __future__ import annotations

import time

import torch

from sweeper.execute.base import CheckpointPolicy, OpenStudy, Reply, Request, StudyOpened, WorkerReady
from sweeper.train.checkpoints import CheckpointWriter
from sweeper.types import ChunkReport

__all__ = ["LanesWorker", "make_lanes_worker"]


class LanesWorker:
    """Saves every lane at every chunk.

    Args:
        lanes: Lanes of the pack.
        num_parameters: Parameters of each.
        policy: How they are saved.
    """

    def __init__(self, lanes: int, num_parameters: int, policy: CheckpointPolicy) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(0)
        self._states = [
            {name: torch.rand(num_parameters, generator=generator) for name in ("parameters", "moment1", "moment2")}
            for _ in range(lanes)
        ]
        self._step = 0
        self._writer = CheckpointWriter(policy)

    def start(self) -> WorkerReady:
        """Do nothing."""
        return WorkerReady(notes=())

    def answer(self, request: Request) -> Reply:
        """Open the study, or save every lane; `ChunkReport.elapsed_s` is how long that kept the worker."""
        if isinstance(request, OpenStudy):
            self._writer.open(request.incoming)
            return StudyOpened()
        self._step += 1  # so that no file has the content of an earlier one
        started_s = time.perf_counter()
        checkpoints = {
            number: self._writer.save(number, {**state, "step": torch.tensor(self._step)})
            for number, state in enumerate(self._states)
        }
        return ChunkReport(checkpoints=checkpoints, elapsed_s=time.perf_counter() - started_s)


def make_lanes_worker(lanes: int, num_parameters: int, policy: CheckpointPolicy, _index: int) -> LanesWorker:
    """Return a worker; executors call this by name in the worker's own process."""
    return LanesWorker(lanes, num_parameters, policy)
