"""The packed training engine, as workers run it. Loads torch only in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.execute.base import Worker, WorkerSetup

__all__ = ["make_worker"]


def make_worker(setup: WorkerSetup, index: int) -> Worker:
    """Return the worker of an index; called in the worker's own process, by its name."""
    from sweeper.train.worker import TrainingWorker

    return TrainingWorker(setup, index)
