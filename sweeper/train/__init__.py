"""The packed training engine that workers run. Importing this package loads no torch; `make_worker` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.execute.base import Worker, WorkerSetup

__all__ = ["make_worker"]


def make_worker(setup: WorkerSetup, index: int) -> Worker:  # noqa: ARG001  executors pass it to every worker function
    """Return a worker; executors call this by name in the worker's own process."""
    from sweeper.train.worker import TrainingWorker

    return TrainingWorker(setup)
