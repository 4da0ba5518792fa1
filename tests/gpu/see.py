"""A worker that reports which CUDA devices it sees; importable by name, also in a process of its own."""

from __future__ import annotations

import os

import torch

from sweeper.execute.base import Reply, Request, StudyOpened, WorkerReady


class SeeingWorker:
    """Its notes are ``name=value``: the devices it was given, how many it sees, and the first one."""

    def __init__(self, index: int) -> None:
        self._index = index

    def start(self) -> WorkerReady:
        total = torch.ones(3, device="cuda").sum().item()  # it can also be used
        seen = {
            "index": self._index,
            "given": os.environ["CUDA_VISIBLE_DEVICES"],
            "count": torch.cuda.device_count(),
            "uuid": torch.cuda.get_device_properties(0).uuid,
            "total": total,
        }
        return WorkerReady(notes=tuple(f"{name}={value}" for name, value in seen.items()))

    def answer(self, _request: Request) -> Reply:
        return StudyOpened()
