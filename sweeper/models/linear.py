"""Linear layers: `nn.Linear`, the `Conv1D` of GPT-2, which keeps its weight transposed, and `QuantisedLinear`.

`sweeper.train` asks here which layers it can adapt. Contains no source of models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from sweeper.errors import ModelError
from sweeper.models.quantised_linear import FrozenQuantised, HeldWeight, PlainWeight, QuantisedLinear

__all__ = [
    "FrozenWeight",
    "bias_of",
    "check_linear",
    "freeze",
    "is_linear",
    "is_transposed",
    "layers_in_blocks",
    "may_reorder",
    "num_parameters",
    "weight_of",
]

_QUANTISED_MODULES = ("bitsandbytes.",)
"""Linear8bitLt has a floating-point weight until it is moved to a GPU, so it is recognised by its class."""
_BLOCK = re.compile(r"^.*?\.\d+\.")
"""Begin of the names of layers inside the blocks."""
_MEMORY_SHARE = 0.1
"""Share of the free memory that a worker may spend on copies of weights."""


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer by its class; `check_linear` checks whether it can be packed."""
    return isinstance(module, nn.Linear | Conv1D | QuantisedLinear)


def layers_in_blocks(model: nn.Module) -> list[str]:
    """Return the names of the linear layers inside the blocks: those that ``model.quantization`` quantises."""
    return [name for name, module in model.named_modules() if is_linear(module) and _BLOCK.match(name)]


def num_parameters(model: nn.Module) -> int:
    """Return the parameters of a model, with those of quantised layers, which torch does not know as such."""
    quantised = (module for module in model.modules() if isinstance(module, QuantisedLinear))
    return sum(p.numel() for p in model.parameters()) + sum(module.weight.numel() for module in quantised)


def check_linear(module: nn.Module, name: str) -> None:
    """Check that a module computes ``x Wᵀ + b`` with a weight that products can use as it is.

    The quantised layers of libraries are subclasses of `nn.Linear` whose weight holds packed bytes; `load` replaces
    those of bitsandbytes by `QuantisedLinear`.

    Args:
        module: The module.
        name: Its name in the model, for the error message.

    Raises:
        ModelError: The module is not a linear layer, or is quantised in another way.
    """
    if isinstance(module, QuantisedLinear):
        return
    kind = type(module)
    if not is_linear(module):
        raise ModelError(
            f"{name} is a {kind.__name__}: only linear layers can have an adapter. Set model.target_modules to the "
            f"names of linear layers."
        )
    weight = weight_of(module)
    shape = list(weight.shape) if is_transposed(module) else [module.out_features, module.in_features]
    is_plain = weight.is_floating_point() and weight.element_size() > 1 and list(weight.shape) == shape
    if not is_plain or any(base.__module__.startswith(_QUANTISED_MODULES) for base in kind.__mro__):
        dtype = str(weight.dtype).removeprefix("torch.")
        raise ModelError(
            f"{name} is a {kind.__module__}.{kind.__name__} with a {dtype} weight of shape {list(weight.shape)}: "
            f"layers that are quantised like this cannot have an adapter, only those with a floating-point weight of "
            f"shape [outputs, inputs] = {shape}, and those of model.quantization. Load the model unquantised: set "
            f"model.id to a version of it whose config.json has no quantization_config."
        )


def is_transposed(module: nn.Module) -> bool:
    """Whether a model's files keep W of a linear layer as ``[I, O]``; PEFT calls that ``fan_in_fan_out``."""
    return isinstance(module, Conv1D) or (isinstance(module, QuantisedLinear) and module.is_transposed)


def weight_of(module: nn.Module) -> torch.Tensor:
    """Return W of a linear layer as ``[O, I]``, sharing its memory; of a quantised one, only shape, type and device.

    Products with it are those of `freeze`.
    """
    weight = module.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101  the caller has asked `is_linear`
    return weight.T if isinstance(module, Conv1D) else weight


def bias_of(module: nn.Module) -> torch.Tensor | None:
    """Return b of a linear layer."""
    bias: torch.Tensor | None = getattr(module, "bias", None)
    return bias


def may_reorder(weight_bytes: int, available_bytes: int) -> bool:
    """Return whether memory is ample enough for two more copies of the adapted weights.

    Args:
        weight_bytes: Size of the weights.
        available_bytes: Free memory of the machine, which other workers use as well.
    """
    return 2 * weight_bytes <= _MEMORY_SHARE * available_bytes


class FrozenWeight:
    """W and b of a frozen layer; the products have no gradients.

    On a CPU in bfloat16, oneDNN reorders W at every product. A copy in oneDNN's order for each direction saves 3 to 8 %
    of the product and changes no bit of the result (docs/benchmarks.md).

    Args:
        weight: W, ``[O, I]``.
        bias: b, ``[O]`` or None.
        reorder: Whether to keep the reordered copies, where they help.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, reorder: bool = False) -> None:
        self.weight, self.bias = weight, bias
        self._forward_weight = self._backward_weight = None
        is_bf16 = weight.device.type == "cpu" and weight.dtype is torch.bfloat16
        self._has_onednn = is_bf16 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if reorder and self._has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            self._forward_weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
            self._backward_weight = torch.ops.mkldnn._reorder_linear_weight(weight.T.contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x, ``[..., I]``, to ``x Wᵀ + b``, ``[..., O]``."""
        if self._forward_weight is not None:
            return _onednn(x, self._forward_weight, self.bias)
        if self.bias is not None and self._has_onednn and self.weight.is_contiguous():
            # torch writes the bias over the whole output and then adds the product, a tenth slower than oneDNN, which
            # adds the bias as it goes.
            return _onednn(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    def backward(self, grad: torch.Tensor) -> torch.Tensor:
        """Map the gradient of the output, ``[..., O]``, to that of x, ``[..., I]``."""
        return grad @ self.weight if self._backward_weight is None else _onednn(grad, self._backward_weight, None)


def freeze(
    layers: Sequence[nn.Module], bias: torch.Tensor | None, *, reorder: bool = False
) -> FrozenWeight | FrozenQuantised:
    """Return the stacked W of linear layers that read the same tensor, with b of all of them.

    Args:
        layers: The layers, in the order of the outputs.
        bias: b, ``[O]`` or None.
        reorder: Passed to `FrozenWeight`.
    """
    weights = [weight_of(layer) for layer in layers]
    if any(isinstance(layer, QuantisedLinear) for layer in layers):
        parts: list[HeldWeight] = [
            layer.part if isinstance(layer, QuantisedLinear) else PlainWeight(weight)
            for layer, weight in zip(layers, weights, strict=True)
        ]
        return FrozenQuantised(parts, bias, weights[0])
    return FrozenWeight(weights[0] if len(weights) == 1 else torch.cat(weights), bias, reorder=reorder)


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
