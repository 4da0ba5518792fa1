"""Where Triton does not work, torch operations take its place; a device that fails is no reason for that."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch

import sweeper.kernels
from sweeper.kernels import operators
from tests.train.fake_cuda import FakeCuda


@pytest.fixture
def triton(monkeypatch):
    """Stand in for the Triton kernels; ``drop`` raises what it is told to."""
    made, name = ModuleType("triton_kernels"), "sweeper.kernels.triton_kernels"
    made.raised, made.calls = None, []

    def drop(*args):
        made.calls.append(args)
        if made.raised is not None:
            raise made.raised

    made.drop = drop
    monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.setattr(sweeper.kernels, "triton_kernels", made, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    operators._fastest.cache_clear()
    yield made
    operators._fastest.cache_clear()


def test_kernels_that_compile_are_used(triton):
    with FakeCuda():
        assert operators._fastest() is triton
        assert operators._fastest() is triton
    assert len(triton.calls) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler."), PermissionError("/root/.triton")], ids=repr
)
def test_kernels_that_do_not_compile_are_replaced_with_a_warning(triton, caplog, error):
    triton.raised = error
    with FakeCuda():
        assert operators._fastest() is None
        assert operators._on_cuda("drop", lambda *args: args)(1, 2) == (1, 2)
    assert len(triton.calls) == 1
    assert caplog.messages == [
        f"Triton does not work here, so slower operations of torch do the same: {str(error).rstrip('.')}."
    ]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: an illegal memory access")],
    ids=["memory", "device"],
)
def test_a_device_that_fails_is_no_reason_to_do_without(triton, error):
    triton.raised = error
    with FakeCuda(), pytest.raises(RuntimeError, match="CUDA"):
        operators._fastest()
