"""Which devices are used, and the note about them."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from sweeper.config.settings import ExecutorSettings
from sweeper.errors import ConfigError
from sweeper.execute import devices
from sweeper.execute.devices import choose_devices, visible_cuda_devices


@pytest.fixture
def machine(monkeypatch):
    """Set how many CPU cores and which CUDA devices there are."""

    def arrange(cores=4, cuda=()):
        monkeypatch.setattr(devices, "visible_cuda_devices", lambda: tuple(cuda))
        monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _self: list(range(cores)), raising=False)

    return arrange


@pytest.mark.parametrize(
    ("options", "num_workers"),
    [({}, 4), ({"workers": 2}, 2), ({"threads": 2}, 2), ({"threads": 16}, 1), ({"name": "inline"}, 1)],
)
def test_without_cuda_there_is_one_worker_per_core(machine, options, num_workers):
    machine(cores=4)
    chosen = choose_devices(ExecutorSettings(**options))
    assert (chosen.kind, chosen.num_workers, chosen.cuda) == ("cpu", num_workers, ())


def test_the_note_warns_of_more_threads_than_cores(machine):
    machine(cores=2)
    assert "fewer workers would be much faster" in choose_devices(ExecutorSettings(workers=2, threads=2)).note
    assert "faster" not in choose_devices(ExecutorSettings()).note


@pytest.mark.parametrize(
    ("workers", "cuda"), [(0, ("0", "1")), (1, ("0",)), (3, ("0", "1", "0"))], ids=["all", "fewer", "more"]
)
def test_with_cuda_there_is_one_worker_per_device(machine, workers, cuda):
    machine(cuda=("0", "1"))
    chosen = choose_devices(ExecutorSettings(workers=workers))
    assert (chosen.kind, chosen.num_workers, chosen.cuda) == ("cuda", len(cuda), cuda)


def test_the_cpu_can_be_chosen_although_there_is_cuda(machine):
    machine(cuda=("0",))
    assert choose_devices(ExecutorSettings(device="cpu")).kind == "cpu"


def test_choosing_cuda_without_a_device_is_an_error(machine):
    machine()
    with pytest.raises(ConfigError, match="no CUDA device is visible"):
        choose_devices(ExecutorSettings(device="cuda"))


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        (None, ("0", "1")),
        ("1", ("1",)),
        ("GPU-aa, GPU-bb", ("GPU-aa", "GPU-bb")),
        ("", ()),
        ("-1", ()),
    ],
)
def test_devices_are_those_that_the_environment_allows(monkeypatch, variable, found):
    monkeypatch.setattr(devices, "_num_cuda_devices", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_cuda_devices() == found


def test_without_a_driver_there_are_none(monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_cuda_devices() == ()


def test_the_real_machine_has_at_least_one_worker():
    chosen = choose_devices(ExecutorSettings(device="cpu"))
    assert 1 <= chosen.num_workers <= (os.cpu_count() or 1)
    assert "CPU core" in chosen.note


@pytest.mark.parametrize(
    ("variable", "gigabytes"),
    [(None, 2), ("1", 24), ("GPU-bb", 24), ("MIG-cc", 5), ("GPU-b", 2)],
    ids=["all", "index", "uuid", "mig", "unknown to nvml"],
)
def test_the_smallest_device_is_one_that_may_be_used(monkeypatch, variable, gigabytes):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    names = {"GPU-aa": 2, "GPU-bb": 24, "MIG-cc": 5}

    def by_uuid(name):
        if name not in names:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return names[name]

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: (2, 24)[index],
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=handle * 10**9),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert devices.gpu_bytes() == gigabytes * 10**9


def test_without_a_driver_no_device_has_memory(monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert devices.gpu_bytes() == 0
