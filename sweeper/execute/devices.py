"""Which devices there are, and how many workers they take. Asks the driver, so that torch need not be loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import pynvml

from sweeper.config.settings import ExecutorSettings
from sweeper.errors import ConfigError

__all__ = ["Devices", "choose_devices", "visible_cuda_devices"]


@dataclass(frozen=True, slots=True)
class Devices:
    """What the workers run on."""

    kind: str
    """``cpu`` or ``cuda``."""
    num_workers: int
    cuda: tuple[str, ...] = ()
    """For each worker the CUDA device, as CUDA_VISIBLE_DEVICES names it."""
    note: str = ""
    """What was chosen, and why."""


def choose_devices(settings: ExecutorSettings) -> Devices:
    """Return the devices that ``executor.device`` and ``executor.workers`` ask for.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    found = () if settings.device == "cpu" else visible_cuda_devices()
    if settings.device == "cuda" and not found:
        raise ConfigError(
            "executor.device", "cuda", "no CUDA device is visible", "Set executor.device=cpu or check the driver."
        )
    wanted = 1 if settings.name == "inline" else settings.workers
    if found:
        workers = wanted or len(found)
        cuda = tuple(found[index % len(found)] for index in range(workers))
        return Devices("cuda", workers, cuda, f"{workers} worker(s) on {len(found)} CUDA device(s)")
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    workers = wanted or max(1, cores // settings.threads)
    note = f"{workers} worker(s) of {settings.threads} thread(s) on {cores} CPU core(s)"
    if workers * settings.threads > cores:
        note += ": more threads than cores is much slower than fewer workers"
    return Devices("cpu", workers, (), note)


def visible_cuda_devices() -> tuple[str, ...]:
    """Return the CUDA devices this process may use, as CUDA_VISIBLE_DEVICES names them; empty without a driver."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = tuple(name.strip() for name in allowed.split(",") if name.strip() and name.strip() != "-1")
        return names if names and _num_cuda_devices() else ()
    return tuple(str(index) for index in range(_num_cuda_devices()))


def _num_cuda_devices() -> int:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
