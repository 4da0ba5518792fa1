"""Frozen linear layers whose weight is held in 4 or 8 bits, as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

A weight is dequantised for one product and forgotten again, in the forward and in the backward pass, so the copy of one
layer (or of siblings that are multiplied as one) exists at a time. bitsandbytes quantises while transformers reads the
weights, layer by layer; `hold_quantised` then replaces its layers, which would round activations to 8 bits, too
(``Linear8bitLt``), and cannot be multiplied together. The products here are those with the dequantised weight, exactly.

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from sweeper.errors import ModelError

__all__ = [
    "EightBitWeight",
    "FourBitWeight",
    "FrozenQuantised",
    "HeldWeight",
    "PlainWeight",
    "QuantisedLinear",
    "hold_quantised",
]


_ROWS_AT_ONCE = 64


class HeldWeight(Protocol):
    """W of one layer; ``shape`` is ``(O, I)``."""

    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """What is held, with constants."""

    def dequantised(self) -> torch.Tensor:
        """Return W, ``[O, I]``."""


class FourBitWeight:
    """Blocks of 64 weights with a constant each, and blocks of 256 constants with one of theirs (double quantisation).

    Args:
        packed: Two weights in each byte.
        state: A ``QuantState`` of bitsandbytes.
        dtype: Type to dequantise to.
    """

    def __init__(self, packed: torch.Tensor, state: Any, dtype: torch.dtype) -> None:
        state.dtype = dtype
        self.packed, self.state = packed, state
        self.shape: tuple[int, int] = (int(state.shape[0]), int(state.shape[1]))

    @property
    def nbytes(self) -> int:
        """What is held, with constants."""
        nested = self.state.state2
        constants = self.state.absmax.nbytes + (nested.absmax.nbytes + self.state.offset.nbytes if nested else 0)
        return self.packed.nbytes + int(constants)

    def dequantised(self) -> torch.Tensor:
        """Return W, ``[O, I]``, in a new tensor."""
        from bitsandbytes.functional import dequantize_4bit

        if self.packed.device.type == "cpu":
            return self._on_cpu(self.shape[0] * self.shape[1]).view(self.shape)
        found: torch.Tensor = dequantize_4bit(self.packed, self.state)
        return found

    def _on_cpu(self, number: int) -> torch.Tensor:
        """Return all weights.

        The kernel of bitsandbytes 0.50 for CPUs with AVX-512 returns wrong weights if the length of a row is not a
        multiple of the block's (64 x 96, for example), so it is given blocks as rows.
        """
        from bitsandbytes.functional import dequantize_blockwise

        state = self.state
        constants = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
        size, packed = state.blocksize, self.packed
        if number % size == 0:
            shape = (number // size, size)
            kernel = torch.ops.bitsandbytes.dequantize_4bit.default
            found: torch.Tensor = kernel(packed, constants, size, state.quant_type, shape, state.dtype)
            return found
        halves = packed.view(torch.uint8).view(-1).int()
        values = state.code[torch.stack([halves >> 4, halves & 15], 1).view(-1)[:number]]
        result: torch.Tensor = (values * constants.repeat_interleave(size)[:number]).to(state.dtype)
        return result


class EightBitWeight:
    """Integers from -127 to 127 with a scale for each output.

    Args:
        values: ``[O, I]`` int8.
        largest: Absolute values that 127 stands for, ``[O]`` float32.
        dtype: Type to dequantise to.
    """

    def __init__(self, values: torch.Tensor, largest: torch.Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.values, self.scales = values, (largest / 127)[:, None]
        self.shape: tuple[int, int] = (values.shape[0], values.shape[1])

    @property
    def nbytes(self) -> int:
        """What is held, with constants."""
        return self.values.nbytes + self.scales.nbytes

    def dequantised(self) -> torch.Tensor:
        """Return W, ``[O, I]``, in a new tensor."""
        weight = self.scales.new_empty(self.shape, dtype=self.dtype)
        # A CPU multiplies types that differ in float32 copies of both: eight bytes a weight. For a few rows, they stay
        # in its cache, which is also four times as fast. A GPU converts values in the kernel.
        rows = _ROWS_AT_ONCE if weight.device.type == "cpu" else len(weight)
        parts = (torch.split(each, rows) for each in (self.values, self.scales, weight))
        for values, scales, into in zip(*parts, strict=True):
            torch.mul(values, scales, out=into)
        return weight


class PlainWeight:
    """A weight that is not quantised, beside siblings that are."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight
        self.shape: tuple[int, int] = (weight.shape[0], weight.shape[1])

    @property
    def nbytes(self) -> int:
        """What is held, with constants."""
        return self.weight.nbytes

    def dequantised(self) -> torch.Tensor:
        """Return W, ``[O, I]``."""
        return self.weight


class FrozenQuantised:
    """W and b of frozen layers that read the same tensor, stacked; the products have no gradients.

    Args:
        parts: W of each layer.
        bias: b of all layers, ``[O]``, or None.
        like: A tensor of the type and on the device of the products.

    Attributes:
        weight: A tensor of the shape ``[O, I]`` that takes no memory and has no values: NaN, so that whoever multiplies
            with it notices.
    """

    def __init__(self, parts: Sequence[HeldWeight], bias: torch.Tensor | None, like: torch.Tensor) -> None:
        self.parts, self.bias = parts, bias
        self._heights = [part.shape[0] for part in parts]
        self.weight = like.new_full((), float("nan")).expand(sum(self._heights), parts[0].shape[1])

    @property
    def nbytes(self) -> int:
        """What the weights take, with constants."""
        return sum(part.nbytes for part in self.parts)

    def dequantised(self) -> torch.Tensor:
        """Return W, ``[O, I]``."""
        if len(self.parts) == 1:
            return self.parts[0].dequantised()
        # One part after the other, so that only one of them exists twice.
        weight = self.weight.new_empty(self.weight.shape)
        for part, rows in zip(self.parts, torch.split(weight, self._heights), strict=True):
            rows.copy_(part.dequantised())
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x, ``[..., I]``, to ``x Wᵀ + b``, ``[..., O]``."""
        return F.linear(x, self.dequantised(), self.bias)

    def backward(self, grad: torch.Tensor) -> torch.Tensor:
        """Map the gradient of the output, ``[..., O]``, to that of x, ``[..., I]``."""
        return grad @ self.dequantised()


class QuantisedLinear(nn.Module):
    """A frozen linear layer without an adapter; `sweeper.train` takes ``frozen`` where it adds adapters.

    Args:
        part: W.
        bias: b, ``[O]`` or None.
        like: As for `FrozenQuantised`.
        is_transposed: Whether the model's files keep W as ``[I, O]``.
    """

    def __init__(
        self, part: HeldWeight, bias: torch.Tensor | None, like: torch.Tensor, *, is_transposed: bool = False
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = part.shape
        self.part, self.is_transposed = part, is_transposed
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(like.dtype), requires_grad=False)
        self.frozen = FrozenQuantised([part], self.bias, like)
        self.weight = self.frozen.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[..., I]`` to ``[..., O]``."""
        result: torch.Tensor = _FrozenFunction.apply(x, self.frozen)  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        """Show what `nn.Linear` shows, and how the weight is held."""
        kind = type(self.part).__name__
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {kind}"


class _FrozenFunction(torch.autograd.Function):
    """The product with a weight that is dequantised again for the backward pass; nothing is saved."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: FrozenQuantised) -> torch.Tensor:
        ctx.frozen = frozen
        return frozen.forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.frozen.backward(grads[0]), None


def hold_quantised(model: nn.Module, dtype: torch.dtype, *, blocks: Sequence[str]) -> None:
    """Replace the layers of bitsandbytes in a model, and give all other weights the type of the products.

    Those outside the blocks, such as an output layer that a published model has quantised, become `nn.Linear` again:
    heads are trained in full, and the loss reads the weights of the output layer.

    Args:
        model: As transformers has loaded it.
        dtype: Type of the products.
        blocks: Names of the linear layers inside the blocks.

    Raises:
        ModelError: A layer keeps its weight in a way that is not known here.
    """
    import bitsandbytes

    layers: Any = bitsandbytes.nn  # its types do not export the names
    kinds = (layers.Linear4bit, layers.Linear8bitLt)
    inside = frozenset(blocks)
    codes: dict[str | None, torch.Tensor] = {}
    for name, layer in [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]:
        held = _held(layer, name, dtype, codes)
        model.set_submodule(name, held if name in inside else _plain(held))
    for parameter in model.parameters():
        # Those of a model that was published quantised have the type of its files.
        parameter.data = parameter.data.to(dtype)


def _held(layer: Any, name: str, dtype: torch.dtype, codes: dict[str | None, torch.Tensor]) -> QuantisedLinear:
    weight = layer.weight
    like = torch.empty((), dtype=dtype, device=weight.device)
    state = getattr(weight, "quant_state", None)
    largest = getattr(weight, "SCB", None)
    part: HeldWeight
    if state is not None:
        for each in (state, state.state2):
            if each is not None:  # every layer has a copy of the same table, of 1 kB for the one of the constants
                each.code = codes.setdefault(each.quant_type, each.code)
        part = FourBitWeight(weight.data, state, dtype)
    elif largest is not None and weight.dtype is torch.int8:
        part = EightBitWeight(weight.data, largest.float(), dtype)
    else:
        raise ModelError(
            f"{name} is a {type(layer).__name__} with a {weight.dtype} weight that has not been quantised. Choose a "
            f"version of the model without a quantization_config, and set model.quantization."
        )
    is_transposed = getattr(layer, "source_cls", nn.Linear) is Conv1D
    return QuantisedLinear(part, layer.bias, like, is_transposed=is_transposed)


def _plain(held: QuantisedLinear) -> nn.Linear:
    weight = held.frozen.dequantised()
    linear = nn.Linear(held.in_features, held.out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", held.bias)
    return linear
