"""Finds the devices, and how many workers run on them. It asks the CUDA driver directly, so torch is not loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml

from sweeper.config.settings import ExecutorSettings
from sweeper.errors import ConfigError
from sweeper.figures.text import plural

__all__ = ["Devices", "choose_devices", "gpu_bytes", "visible_cuda_devices"]


_MOST_PER_DEVICE = 8
"""Workers for each CUDA device or CPU core; more than one is rarely faster."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices that the workers run on."""

    kind: str
    """``cpu`` or ``cuda``."""
    num_workers: int
    cuda: tuple[str, ...] = ()
    """The CUDA device of each worker, as in CUDA_VISIBLE_DEVICES; empty for CPU workers."""
    note: str = ""
    """A line for the user: how many workers run on what."""


def choose_devices(settings: ExecutorSettings) -> Devices:
    """Return the devices for ``executor.device`` and ``executor.workers``.

    Raises:
        ConfigError: ``executor.device=cuda``, but no CUDA device is visible; or there are far more workers than
            devices or cores.
    """
    found = () if settings.device == "cpu" else visible_cuda_devices()
    if settings.device == "cuda" and not found:
        raise ConfigError(
            "executor.device",
            "cuda",
            "no CUDA device is visible",
            "Set executor.device=cpu, or check the NVIDIA driver and CUDA_VISIBLE_DEVICES.",
        )
    wanted = 1 if settings.name == "inline" else settings.workers
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    what = plural(len(found), "CUDA device") if found else plural(cores, "CPU core")
    _check_workers(wanted, what, num_devices=len(found) or cores)
    if found:
        workers = wanted or len(found)
        cuda = tuple(found[index % len(found)] for index in range(workers))
        return Devices("cuda", workers, cuda, f"{plural(workers, 'worker')} on {plural(len(found), 'CUDA device')}")
    workers = wanted or max(1, cores // settings.threads)
    note = f"{plural(workers, 'worker')} on {plural(cores, 'CPU core')}, {plural(settings.threads, 'thread')} each"
    if workers * settings.threads > cores:
        note += " (with more threads than cores, fewer workers would be much faster)"
    return Devices("cpu", workers, (), note)


def _check_workers(workers: int, what: str, *, num_devices: int) -> None:
    """Check that workers are not so many that they only exhaust the memory, since each holds a model of its own."""
    if workers > _MOST_PER_DEVICE * num_devices:
        rule = f"there may be at most {_MOST_PER_DEVICE} for each device, and this machine has {what}"
        raise ConfigError("executor.workers", workers, rule, "Leave it at 0 for one worker each.")


def visible_cuda_devices() -> tuple[str, ...]:
    """Return the CUDA devices that this process may use, as in CUDA_VISIBLE_DEVICES; empty without a driver."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = tuple(name.strip() for name in allowed.split(",") if name.strip() and name.strip() != "-1")
        return names if names and _num_cuda_devices() else ()
    return tuple(str(index) for index in range(_num_cuda_devices()))


def gpu_bytes() -> int:
    """Return the memory of the smallest CUDA device that this process may use; 0 without a driver."""
    names = visible_cuda_devices()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        found = [int(pynvml.nvmlDeviceGetMemoryInfo(_handle(name)).total) for name in names]
    except pynvml.NVMLError:  # names that only CUDA understands, such as the beginning of a UUID
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = [int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
    return min(found, default=0)


def _handle(name: str) -> Any:
    """Return a device of CUDA_VISIBLE_DEVICES: an index, or the UUID of a GPU or of a part of one (MIG)."""
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)


def _num_cuda_devices() -> int:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
