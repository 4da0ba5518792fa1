"""Linear layers that serve all lanes of a pack at once.

The rows of lane k are contiguous in the batch dimension. One product with the frozen weight serves all rows; each
lane's adapter is added by batched products over its own rows, so a lane that turns NaN touches no other (a masked
block-diagonal product would spread it). Gradients of adapters and heads are written straight into the pack's flat
gradient buffer: autograd carries activations only.

Shapes: K lanes of the pack, k lanes of a bucket, N rows of a lane (times tokens), I inputs, O outputs, R rank.
``A_kRI`` holds s·A with the lane's scale s (alpha / r, and 1 / keep probability under dropout) folded in; the optimizer
multiplies the gradient of A by the same s (`pack`). ``B_kRO`` is B transposed.
"""
# Tensors are named after their shapes; autograd functions take an anchor that they do not read.
# ruff: noqa: ARG004, N815

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sweeper.models.linear import bias_of, weight_of
from sweeper.train.dropout import LaneDropout

__all__ = ["HeadSegment", "LoraSegment", "PackState", "PackedHead", "PackedLora"]


@dataclass(slots=True)
class LoraSegment:
    """Adapters of one layer for the lanes ``first`` to ``last`` (exclusive), all padded to one rank."""

    first: int
    last: int
    A_kRI: torch.Tensor
    B_kRO: torch.Tensor
    grad_A_kRI: torch.Tensor | None = None
    grad_B_kRO: torch.Tensor | None = None


@dataclass(slots=True)
class HeadSegment:
    """Weights of one head layer for the lanes ``first`` to ``last`` (exclusive)."""

    first: int
    last: int
    weight_kOI: torch.Tensor
    bias_kO: torch.Tensor | None
    grad_weight_kOI: torch.Tensor | None = None
    grad_bias_kO: torch.Tensor | None = None


@dataclass(slots=True)
class PackState:
    """What all packed layers of a model share."""

    anchor: torch.Tensor
    """A scalar that requires a gradient: through it the outputs of packed layers do, though all weights are frozen."""
    num_lanes: int = 0
    dropout: LaneDropout | None = None
    """None when no lane drops anything, as in evaluation."""


class PackedLora(nn.Module):
    """A frozen linear layer with one adapter a lane: ``y = x Wᵀ + b + (s A dropout(x)) B``.

    Args:
        base: The frozen layer.
        state: Shared by the layers of a pack.
    """

    def __init__(self, base: nn.Module, state: PackState) -> None:
        super().__init__()
        self.weight = weight_of(base)
        self.bias: torch.Tensor | None = bias_of(base)
        self.state = state
        self.segments: Sequence[LoraSegment] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[K * rows, ..., I]`` to ``[K * rows, ..., O]``."""
        if not self.segments:
            return F.linear(x, self.weight, self.bias)
        dropout = self.state.dropout
        dropped = x if dropout is None else dropout(x)
        result: torch.Tensor = _LoraFunction.apply(x, dropped, self.state.anchor, self)  # type: ignore[no-untyped-call]
        return result


class _LoraFunction(torch.autograd.Function):
    """Product of a `PackedLora`; ``dropped`` is ``x`` itself when nothing is dropped."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, dropped: torch.Tensor, anchor: torch.Tensor, layer: PackedLora
    ) -> torch.Tensor:
        y = F.linear(x, layer.weight, layer.bias)
        lanes = layer.state.num_lanes
        y_KNO = y.view(lanes, -1, y.shape[-1])
        x_KNI = dropped.reshape(lanes, -1, dropped.shape[-1])
        hidden = []
        for segment in layer.segments:
            h_kNR = torch.bmm(x_KNI[segment.first : segment.last], segment.A_kRI.mT)
            y_KNO[segment.first : segment.last].baddbmm_(h_kNR, segment.B_kRO)
            hidden.append(h_kNR)
        ctx.layer = layer
        ctx.same = dropped is x
        ctx.save_for_backward(dropped, *hidden)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        layer: PackedLora = ctx.layer
        dropped, *hidden = ctx.saved_tensors
        grad_y = grads[0].contiguous()
        lanes = layer.state.num_lanes
        grad_y_KNO = grad_y.view(lanes, -1, grad_y.shape[-1])
        x_KNI = dropped.reshape(lanes, -1, dropped.shape[-1])
        needs_x, needs_dropped = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_x = grad_y @ layer.weight if needs_x else None
        into, fresh = _gradient_of_dropped(ctx, grad_x, dropped, needed=needs_dropped)
        for segment, h_kNR in zip(layer.segments, hidden, strict=True):
            grad_kNO = grad_y_KNO[segment.first : segment.last]
            grad_h_kNR = torch.bmm(grad_kNO, segment.B_kRO.mT)
            if segment.grad_A_kRI is not None and segment.grad_B_kRO is not None:
                segment.grad_B_kRO.add_(torch.bmm(h_kNR.mT, grad_kNO))
                segment.grad_A_kRI.add_(torch.bmm(grad_h_kNR.mT, x_KNI[segment.first : segment.last]))
            if into is not None:
                part = into.view(lanes, -1, into.shape[-1])[segment.first : segment.last]
                part.baddbmm_(grad_h_kNR, segment.A_kRI, beta=0 if fresh else 1)
        return grad_x, (None if ctx.same else into), None, None


def _gradient_of_dropped(
    ctx: Any, grad_x: torch.Tensor | None, dropped: torch.Tensor, *, needed: bool
) -> tuple[torch.Tensor | None, bool]:
    """Return what to add the adapter's input gradient to, and whether that is uninitialised memory."""
    if ctx.same:
        return grad_x, False
    return (torch.empty_like(dropped), True) if needed else (None, False)


class PackedHead(nn.Module):
    """A linear layer of the task head with weights of its own for every lane, computed in float32."""

    def __init__(self, base: nn.Linear, state: PackState) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.has_bias = base.bias is not None
        self.state = state
        self.segments: Sequence[HeadSegment] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[K * rows, ..., I]`` to ``[K * rows, ..., O]`` float32."""
        result: torch.Tensor = _HeadFunction.apply(x.float(), self.state.anchor, self)  # type: ignore[no-untyped-call]
        return result


class _HeadFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, anchor: torch.Tensor, layer: PackedHead) -> torch.Tensor:
        lanes = layer.state.num_lanes
        x_KNI = x.reshape(lanes, -1, x.shape[-1])
        y_KNO = x.new_empty(lanes, x_KNI.shape[1], layer.out_features)
        for segment in layer.segments:
            part = y_KNO[segment.first : segment.last]
            torch.bmm(x_KNI[segment.first : segment.last], segment.weight_kOI.mT, out=part)
            if segment.bias_kO is not None:
                part.add_(segment.bias_kO[:, None])
        ctx.layer = layer
        ctx.save_for_backward(x)
        return y_KNO.view(*x.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        layer: PackedHead = ctx.layer
        (x,) = ctx.saved_tensors
        lanes = layer.state.num_lanes
        x_KNI = x.reshape(lanes, -1, x.shape[-1])
        grad_y_KNO = grads[0].reshape(lanes, -1, layer.out_features)
        grad_x = torch.empty_like(x_KNI)
        for segment in layer.segments:
            rows = slice(segment.first, segment.last)
            torch.bmm(grad_y_KNO[rows], segment.weight_kOI, out=grad_x[rows])
            if segment.grad_weight_kOI is not None:
                segment.grad_weight_kOI.add_(torch.bmm(grad_y_KNO[rows].mT, x_KNI[rows]))
            if segment.grad_bias_kO is not None:
                segment.grad_bias_kO.add_(grad_y_KNO[rows].sum(1))
        return grad_x.view(x.shape), None, None
