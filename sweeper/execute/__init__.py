"""Executors: where workers run, and how the controller reaches them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sweeper.config.settings import ExecutorSettings
from sweeper.execute.base import Executor, Worker
from sweeper.execute.devices import choose_devices
from sweeper.execute.inline import InlineExecutor
from sweeper.execute.process import ProcessExecutor

__all__ = ["choose_devices", "make_executor"]


def make_executor(settings: ExecutorSettings, make_worker: Callable[[int], Worker], *, logs: Path) -> Executor:
    """Return the executor that the settings name.

    Args:
        settings: The section ``executor``.
        make_worker: Makes the worker with an index; for the process executor it must be importable by name.
        logs: Folder for the output of workers.

    Raises:
        ConfigError: ``executor.device=cuda``, but no CUDA device is visible.
    """
    devices = choose_devices(settings)
    if settings.name == "inline":
        return InlineExecutor(make_worker)
    return ProcessExecutor(
        make_worker, devices.num_workers, logs=logs, cuda_devices=devices.cuda, threads=settings.threads
    )
