"""Linear layers that serve all lanes of a pack at once.

The rows of lane k are contiguous in the batch dimension. One product with the frozen weight serves all rows. The
adapter of each lane is added by batched products over its own rows, so a NaN stays in its lane; a masked block-diagonal
product would spread it. Gradients of adapters and heads go straight into the pack's flat gradient buffer: autograd
handles activations only. That buffer has the type of the products, so that each is added by the kernel that computes
it; the bucket adds it to its float32 gradients after every pass.

Shapes: K lanes of the pack, k lanes of a bucket, N rows of a lane (times tokens), I inputs, O outputs, R rank.
S = R times the layers of a group. ``A_kSI`` holds s·A with the lane's scale s (alpha / r, and 1 / keep probability
under dropout) folded in; the optimizer multiplies the gradient of A by the same s (`pack`). ``B_kRO`` is B transposed.
"""
# Tensors are named after their shapes; autograd functions take an anchor only for its gradient.
# ruff: noqa: ARG004

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sweeper.models.linear import bias_of, freeze, weight_of
from sweeper.train.dropout import LaneDropout

__all__ = ["HeadSegment", "LoraGroup", "LoraSegment", "PackState", "PackedDropout", "PackedHead", "PackedLora"]


@dataclass(slots=True)
class LoraSegment:
    """Adapters of one group for the lanes ``first`` to ``last`` (exclusive), all padded to one rank.

    ``A_kSI`` stacks the A of all layers (S is R times the number of layers); ``B_kRO`` has one tensor per layer.
    """

    first: int
    last: int
    A_kSI: torch.Tensor
    B_kRO: Sequence[torch.Tensor]
    grad_A_kSI: torch.Tensor | None = None
    grad_B_kRO: Sequence[torch.Tensor] = ()


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
    """State that all packed layers of a model share."""

    anchor: torch.Tensor
    """A scalar that requires a gradient, so that the outputs of packed layers do although every weight is frozen."""
    num_lanes: int = 0
    dropout: LaneDropout | None = None
    """Dropout of adapter inputs; None in evaluation and when no lane uses it."""
    base_dropout: LaneDropout | None = None
    """Dropout of the frozen model's hidden states; None in evaluation and when it is off."""


class LoraGroup:
    """Frozen linear layers that read the same tensor, each with one adapter per lane, multiplied as one.

    ``y = x Wᵀ + b + (s A dropout(x)) B``, with W, b and A of all layers stacked. Query, key and value then read their
    input once instead of three times, and share one dropout mask.

    Args:
        layers: The frozen layers, in the order of the outputs.
        state: The state of the pack.
        site: Number of the group in the pack, which its dropout masks depend on.
        reorder: Passed to `freeze`.
    """

    def __init__(self, layers: Sequence[nn.Module], state: PackState, site: int = 0, *, reorder: bool = False) -> None:
        weights = [weight_of(layer) for layer in layers]
        self.widths = [len(weight) for weight in weights]
        bias = _stacked_bias([bias_of(layer) for layer in layers], weights)
        self.frozen = freeze(layers, bias, reorder=reorder)
        self.state, self.site = state, site
        self.segments: Sequence[LoraSegment] = ()
        self._pending: tuple[torch.Tensor, dict[int, torch.Tensor]] | None = None

    def output(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Return the output of layer ``index`` for ``x``, and keep those of its siblings until they are called."""
        # The model calls siblings one after another with the very same tensor; any other tensor is a new forward pass.
        if self._pending is None or self._pending[0] is not x or index not in self._pending[1]:
            self._pending = x, dict(enumerate(self._outputs(x)))
        outputs = self._pending[1]
        result = outputs.pop(index)
        if not outputs:
            self._pending = None
        return result

    def detach(self) -> None:
        """Release the adapters, and outputs that no layer has taken because the forward pass failed in between."""
        self.segments = ()
        self._pending = None

    def _outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self.segments:
            return torch.split(self.frozen.forward(x), self.widths, -1)
        result: tuple[torch.Tensor, ...] = _LoraFunction.apply(x, self.state.anchor, self)  # type: ignore[no-untyped-call]
        return result


class PackedLora(nn.Module):
    """Replaces one layer of a `LoraGroup` in the model."""

    def __init__(self, group: LoraGroup, index: int) -> None:
        super().__init__()
        self.weight = torch.split(group.frozen.weight, group.widths)[index]
        self.group, self._index = group, index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[K * rows, ..., I]`` to ``[K * rows, ..., O]``."""
        return self.group.output(x, self._index)


class _LoraFunction(torch.autograd.Function):
    """Outputs of all layers of a `LoraGroup`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, anchor: torch.Tensor, group: LoraGroup) -> tuple[torch.Tensor, ...]:
        y = group.frozen.forward(x)
        lanes = group.state.num_lanes
        y_KNO = y.view(lanes, -1, y.shape[-1])
        dropout, mask, dropped = group.state.dropout, None, x
        if dropout is not None:
            mask = dropout.mask(x, group.site)
            dropped = dropout.drop(x, group.site, mask)
        x_KNI = dropped.reshape(lanes, -1, x.shape[-1])
        hidden = []
        for segment in group.segments:
            # One product for the A of all layers, then one per layer, added in place to its columns of the output.
            h_kNS = torch.bmm(x_KNI[segment.first : segment.last], segment.A_kSI.mT)
            parts = torch.split(y_KNO[segment.first : segment.last], group.widths, -1)
            for part, h_kNR, B_kRO in zip(parts, h_kNS.chunk(len(parts), -1), segment.B_kRO, strict=True):
                part.baddbmm_(h_kNR, B_kRO)
            hidden.append(h_kNS)
        # The masked input replaces x: W is frozen, so only the gradient of A needs an input, and it needs this one.
        ctx.group = group
        ctx.save_for_backward(dropped, mask, *hidden)
        return torch.split(y, group.widths, -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        group: LoraGroup = ctx.group
        dropout = group.state.dropout
        dropped, mask, *hidden = ctx.saved_tensors
        grad_y = grads[0].contiguous() if len(grads) == 1 else torch.cat(grads, -1)
        lanes = group.state.num_lanes
        grad_y_KNO = grad_y.view(lanes, -1, grad_y.shape[-1])
        x_KNI = dropped.reshape(lanes, -1, dropped.shape[-1])
        # The first adapted layer of a model has an input without a gradient, which saves the largest product.
        grad_x = group.frozen.backward(grad_y) if ctx.needs_input_grad[0] else None
        # Without dropout, the adapters add to grad_x in place; with it, their part must be masked before it is added.
        into = grad_x if dropout is None or grad_x is None else torch.empty_like(grad_x)
        for segment, h_kNS in zip(group.segments, hidden, strict=True):
            rows = slice(segment.first, segment.last)
            grad_h_kNS = _through_b(group, segment, h_kNS, grad_y_KNO[rows])
            if segment.grad_A_kSI is not None:
                segment.grad_A_kSI.baddbmm_(grad_h_kNS.mT, x_KNI[rows])
            if into is not None:
                part = into.view(x_KNI.shape)[rows]
                part.baddbmm_(grad_h_kNS, segment.A_kSI, beta=1 if into is grad_x else 0)
        if dropout is not None and grad_x is not None and into is not None:
            dropout.add_dropped_(grad_x, into, group.site, mask)
        return grad_x, None, None


def _through_b(group: LoraGroup, segment: LoraSegment, h_kNS: torch.Tensor, grad_y_kNO: torch.Tensor) -> torch.Tensor:
    """Add the gradients of B, and return the gradient of the values between A and B, ``[k, N, S]``."""
    # Each layer has its own B and so its own columns of h, unlike in A, which one product serves for all layers.
    grad_h_kNS = torch.empty_like(h_kNS)
    count = len(group.widths)
    by_layer = (torch.split(grad_y_kNO, group.widths, -1), h_kNS.chunk(count, -1), grad_h_kNS.chunk(count, -1))
    for index, (grad_kNO, h_kNR, grad_h_kNR) in enumerate(zip(*by_layer, strict=True)):
        torch.bmm(grad_kNO, segment.B_kRO[index].mT, out=grad_h_kNR)
        if segment.grad_B_kRO:
            segment.grad_B_kRO[index].baddbmm_(h_kNR.mT, grad_kNO)
    return grad_h_kNS


def _stacked_bias(biases: Sequence[torch.Tensor | None], weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
    if all(bias is None for bias in biases):
        return None
    # Siblings may differ: in some models key has no bias while query and value do.
    return torch.cat([w.new_zeros(len(w)) if b is None else b for b, w in zip(biases, weights, strict=True)])


class PackedDropout(nn.Module):
    """Dropout of the frozen model's hidden states, with a generator per lane.

    Args:
        state: The state of the pack.
        scale: 1 / probability that a value is kept.
        site: Number of the layer, which its masks depend on.
    """

    def __init__(self, state: PackState, scale: float, site: int = 0) -> None:
        super().__init__()
        self.state, self.scale, self._site = state, scale, site

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[K * rows, ...]`` to the same shape."""
        dropout = self.state.base_dropout
        if dropout is None:
            return x
        result: torch.Tensor = _DropFunction.apply(x, dropout, self._site, self.scale)  # type: ignore[no-untyped-call]
        return result


class _DropFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dropout: LaneDropout, site: int, scale: float) -> torch.Tensor:
        # The scale cannot be folded into a weight as for adapters: what follows may be a residual or a norm.
        mask = dropout.mask(x, site)
        ctx.dropout, ctx.site, ctx.scale = dropout, site, scale
        ctx.save_for_backward(mask)
        return dropout.drop(x, site, mask, scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (mask,) = ctx.saved_tensors
        return ctx.dropout.drop(grads[0], ctx.site, mask, ctx.scale), None, None, None


class PackedHead(nn.Module):
    """A linear layer of the task head with separate weights per lane, computed in float32."""

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
        # A head has no shared weight, so each segment writes its own rows of an uninitialised output.
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
        # Segments cover all lanes, so every row of the uninitialised gradient is written.
        grad_x = torch.empty_like(x_KNI)
        for segment in layer.segments:
            rows = slice(segment.first, segment.last)
            torch.bmm(grad_y_KNO[rows], segment.weight_kOI, out=grad_x[rows])
            if segment.grad_weight_kOI is not None:
                segment.grad_weight_kOI.add_(torch.bmm(grad_y_KNO[rows].mT, x_KNI[rows]))
            if segment.grad_bias_kO is not None:
                segment.grad_bias_kO.add_(grad_y_KNO[rows].sum(1))
        return grad_x.view(x.shape), None, None
