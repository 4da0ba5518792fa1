"""Records the code, library versions and machine of a sweep, once per sweep.

Imports none of the libraries whose versions it records, and never fails: a value that cannot be determined is empty.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

__all__ = ["LIBRARIES", "collect", "device_name", "git_state"]

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "optuna",
    "mlflow",
    "hydra-core",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
)
"""Distributions whose version may change a result."""

_DISTRIBUTION = "lora-sweeper"
_GIT_TIMEOUT_S = 10


def collect() -> dict[str, Any]:
    """Return ``version``, ``git``, ``python``, ``platform``, ``libraries`` and ``machine`` of this process."""
    return {
        "version": _version(_DISTRIBUTION),
        "git": git_state(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "machine": _machine(),
    }


def device_name(kind: str) -> str:
    """Return the name of the first GPU for ``cuda``, and of the processor otherwise."""
    return next(iter(_gpus()), "") if kind == "cuda" else _cpu_model()


def git_state(folder: Path) -> dict[str, Any]:
    """Return ``commit`` and ``dirty`` of the checkout that ``folder`` belongs to.

    Args:
        folder: A folder of the checkout.

    Returns:
        Empty outside a checkout, without git, and if the surrounding checkout does not track ``folder``: a package that
        is installed inside another repository is not that repository's code.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "--", "."):
        return {}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the git on the user's path is meant
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
