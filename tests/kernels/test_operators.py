"""Triton kernels: in Triton's interpreter against the reference, and compiled for GPUs that are not here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sweeper.kernels import operators

pytest.importorskip("triton", reason="triton is not installed, so its kernels cannot be interpreted or compiled")
SEEDS = torch.tensor([5, -(1 << 62), 1 << 61])
LEVELS = torch.tensor([256, 128, 30], dtype=torch.int32)
KEY = -(1 << 62) + 77
PLACES = [(0, 4096 + 40), (13, 1001), (2048 * 3 + 5, 7)]
"""Values before those of a part, and values of a lane in it."""


def interpreted(body):
    """Run Python where Triton interprets: it decides that when it is imported."""
    program = f"from tests.kernels.test_operators import *\n{body}"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_triton_kernels_drop_what_the_reference_drops():
    interpreted("check_drop()")


# Triton's interpreter cuts bfloat16 off instead of rounding it, so float16 stands in for it.
def check_drop():
    from sweeper.kernels import triton_kernels

    for dtype in (torch.float32, torch.float16):
        for first, count in PLACES:
            x = torch.randn(3, count).to(dtype)
            for scale in (1.0, 1 / 0.9):
                args = (x, SEEDS, LEVELS, KEY, first, scale)
                assert torch.equal(triton_kernels.drop(*args), operators.drop(*args))
            one, other = (torch.ones_like(x) for _ in range(2))
            triton_kernels.add_dropped_(one, x, SEEDS, LEVELS, KEY, first)
            assert torch.equal(one, operators.add_dropped_(other, x, SEEDS, LEVELS, KEY, first))


def test_the_triton_kernels_rotate_and_gate_as_the_reference_does():
    interpreted("check_rotate()\ncheck_gate()")


def check_rotate():
    from sweeper.kernels import triton_kernels

    # Queries and keys are columns of one product.
    both = torch.randn(2, 5, 6 * 12)
    query, key = (part.unflatten(-1, (-1, 12)).transpose(1, 2) for part in both.split([48, 24], -1))
    for rows in (1, 2):
        angles = torch.randn(rows, 5, 6).repeat(1, 1, 2)
        for sign in (1.0, -1.0):
            args = (query, key, angles.cos(), angles.sin(), sign)
            for one, other in zip(triton_kernels.rotate(*args), torch.ops.sweeper.rotate(*args), strict=True):
                torch.testing.assert_close(one, other)


def check_gate():
    from sweeper.kernels import triton_kernels

    gates, values = torch.randn(2, 3, 2 * 1100).split(1100, -1)
    grad = torch.randn(2, 3, 1100)
    torch.testing.assert_close(triton_kernels.gate(gates, values), torch.ops.sweeper.gate(gates, values))
    args = (grad, gates, values)
    for one, other in zip(triton_kernels.gate_backward(*args), torch.ops.sweeper.gate_backward(*args), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("capability", "dtype"), [(75, "fp16"), (80, "bf16"), (80, "fp32"), (90, "bf16"), (120, "bf16")]
)
def test_the_triton_kernels_compile_for_a_gpu(capability, dtype):
    """Needs no GPU: ptxas comes with Triton."""
    import triton
    from triton.backends.compiler import GPUTarget

    from sweeper.kernels import triton_kernels

    for kernel, types, constants in triton_kernels.signatures(dtype):
        source = triton.compiler.ASTSource(kernel, signature=types, constexprs=constants)
        assert "cubin" in triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm
