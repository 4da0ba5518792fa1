"""What counts as a linear layer: `nn.Linear`, and the `Conv1D` of GPT-2, which is one with its weight transposed.

`sweeper.train` asks here which layers it can adapt. Not a source of models.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

__all__ = ["bias_of", "is_linear", "is_transposed", "product", "weight_of"]


def is_linear(module: nn.Module) -> bool:
    """Whether a module computes ``x Wᵀ + b`` with a dense W."""
    return isinstance(module, nn.Linear | Conv1D)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer keeps W as ``[I, O]``; PEFT calls that ``fan_in_fan_out``."""
    return isinstance(module, Conv1D)


def weight_of(module: nn.Module) -> torch.Tensor:
    """Return W of a linear layer as ``[O, I]``, sharing its memory."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 - is_linear was asked
    return weight.T if is_transposed(module) else weight


def bias_of(module: nn.Module) -> torch.Tensor | None:
    """Return b of a linear layer."""
    bias: torch.Tensor | None = getattr(module, "bias", None)
    return bias


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return ``x Wᵀ + b`` without a gradient.

    In bfloat16 on a CPU, torch writes the bias over the whole output and then adds the product to it, which costs a
    tenth of the product; oneDNN adds it on the way.
    """
    if bias is not None and x.device.type == "cpu" and x.dtype is torch.bfloat16 and weight.is_contiguous():
        fused: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return fused
    return F.linear(x, weight, bias)
