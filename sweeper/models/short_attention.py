"""Attention for short rows on a CPU in bfloat16, where the stock kernels spend most of their time in the softmax.

torch's bfloat16 softmax is slow when the last dimension is not a multiple of its vector length (27 tokens: 6.6 ms
against 0.4 ms). Here keys are padded to a multiple of 16 and the softmax is computed in float32, which is exact and up
to twice as fast for rows of at most 32 tokens. Longer rows use the stock eager kernel. `load` registers the kernel with
transformers under the name `SHORT`; `device_choice` chooses it.

Shapes: T queries and S keys of a row, P padded number of keys, D width of a head, G rows times heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from sweeper.models.device_choice import SHORT

__all__ = ["register", "short_attention"]

_MULTIPLE = 16
_LONGEST = 32
"""Most padded keys for which this is faster than the eager kernel (measured with heads of width 32 and 64)."""


def register() -> None:
    """Register the kernel and its mask with transformers."""
    AttentionInterface.register(SHORT, short_attention)
    AttentionMaskInterface.register(SHORT, eager_mask)


def short_attention(  # noqa: PLR0917  the signature is that of transformers
    module: nn.Module,  # noqa: ARG001
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return softmax(scaling q kᵀ + mask) v, in the layout of transformers' attention functions.

    Args:
        module: The attention layer.
        query: ``[rows, heads, T, D]``.
        key: ``[rows, key heads, S, D]``; key heads divide heads.
        value: As ``key``.
        attention_mask: Added to the scores; ``[rows or 1, 1, T, S]``, or None.
        scaling: Factor of the scores; 1 / sqrt(D) if None.
        **kwargs: ``dropout`` must be 0 (the base model is in evaluation mode); ``softcap`` is not supported.

    Returns:
        ``[rows, T, heads, D]``, and None in place of the attention weights.
    """
    if kwargs.get("dropout") or kwargs.get("softcap"):
        raise ValueError(f"{SHORT} supports neither dropout nor softcap. Set model.attention=eager.")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    num_keys = key.shape[2]
    padded = -(-num_keys // _MULTIPLE) * _MULTIPLE
    if padded > _LONGEST:
        return _eager(query, key, value, attention_mask, scale), None
    mask = _padded_mask(attention_mask, query, num_keys, padded)
    result: torch.Tensor = _ShortAttention.apply(query, key, value, mask, scale)  # type: ignore[no-untyped-call]
    return result, None


def _eager(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    scores = torch.matmul(query, key.mT) * scale
    weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous()


def _padded_mask(mask: torch.Tensor | None, query: torch.Tensor, num_keys: int, padded: int) -> torch.Tensor:
    # Padded keys score below masked ones, which have the lowest bfloat16: they get no weight even if all are masked.
    shape = (1, 1, query.shape[2]) if mask is None else mask.shape[:-1]
    lowest = torch.finfo(torch.float32).min
    padded_mask = torch.full((*shape, padded), lowest, device=query.device)
    padded_mask[..., :num_keys] = 0.0 if mask is None else mask
    return padded_mask


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  autograd passes by position
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        rows, heads, length, width = query.shape
        padded = mask.shape[-1]
        query_GTD = query.reshape(rows * heads, length, width)
        key_GPD, value_GPD = _pad_keys(key, padded), _pad_keys(value, padded)
        # Float32 from the scores to the weights; only the products are taken in bfloat16.
        scores = torch.bmm(query_GTD, key_GPD.mT).view(rows, heads, length, padded).float()
        weights_GTP = scores.mul_(scale).add_(mask).view(rows * heads, length, padded).softmax(-1)
        rounded_GTP = weights_GTP.to(query.dtype)
        ctx.save_for_backward(query_GTD, key_GPD, value_GPD, weights_GTP, rounded_GTP)
        ctx.scale, ctx.num_keys = scale, key.shape[2]
        return torch.bmm(rounded_GTP, value_GPD).view(rows, heads, length, width).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        query_GTD, key_GPD, value_GPD, weights_GTP, rounded_GTP = ctx.saved_tensors
        rows, length, heads, width = grads[0].shape
        grad_GTD = grads[0].transpose(1, 2).reshape(rows * heads, length, width)
        # Values take the gradient of the rounded weights, scores that of the exact ones, as in the forward pass.
        grad_weights = torch.bmm(grad_GTD, value_GPD.mT).float()
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights_GTP, -1, torch.float32)
        grad_scores_GTP = grad_scores.mul_(ctx.scale).to(query_GTD.dtype)
        grad_query = torch.bmm(grad_scores_GTP, key_GPD)
        grad_key = torch.bmm(grad_scores_GTP.mT, query_GTD)
        grad_value = torch.bmm(rounded_GTP.mT, grad_GTD)
        # Padded keys have zero weight; their gradients are cut off.
        by_row = [grad.view(rows, heads, -1, width) for grad in (grad_query, grad_key, grad_value)]
        return by_row[0], by_row[1][:, :, : ctx.num_keys], by_row[2][:, :, : ctx.num_keys], None, None


def _pad_keys(keys: torch.Tensor, padded: int) -> torch.Tensor:
    rows, heads, length, width = keys.shape
    padded_keys = keys.new_zeros(rows, heads, padded, width)
    padded_keys[:, :, :length] = keys
    return padded_keys.view(rows * heads, padded, width)
