"""Environment of all tests: offline, one thread, nothing sent anywhere. Set before a library reads it."""

from __future__ import annotations

import gc
import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_collect() -> None:
    """Spare the garbage collector what lives on: imported modules, collected tests.

    A full collection walks over all of it, a quarter of a second each time, and the engine asks for one after each
    out-of-memory error.
    """
    gc.collect()
    gc.freeze()
