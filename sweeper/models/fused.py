"""Replaces operations of a model by kernels that do the same in one call, for GPUs.

On a small model a GPU waits for the host, which asks for one kernel after another, so the number of kernels is what
counts. transformers computes a norm in 8 kernels, rotary embeddings in 10 and a gated activation in 2, and more than as
many again for their gradients. Sums are taken in float32 and rounded once, where transformers rounds in between.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sweeper.figures.model_shapes import FUSED_MODELS
from sweeper.kernels import operators

__all__ = ["fuse_operations"]


def fuse_operations(model: nn.Module) -> None:
    """Compute norms, rotary embeddings and gates of a model by one kernel each, if its architecture is known.

    Args:
        model: On a GPU. Rotary embeddings are replaced for all models of the architecture in this process.
    """
    config: Any = model.config
    if config.model_type not in FUSED_MODELS:
        return
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = partial(_norm, module)
        elif kind.endswith("MLP") and config.hidden_act == "silu":
            module.forward = partial(_gated, module)
        elif kind.endswith("Attention"):
            # The attention layers look the function up in their module.
            modeling: Any = sys.modules[type(module).__module__]
            modeling.apply_rotary_pos_emb = _rotated


def _norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden_states, module.weight.shape, module.weight, module.variance_epsilon)


def _gated(module: Any, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = module.down_proj(operators.gate(module.gate_proj(x), module.up_proj(x)))
    return result


def _rotated(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return operators.rotate(q, k, cos, sin)
