"""Linear layers: `nn.Linear`, and the `Conv1D` of GPT-2, which keeps its weight transposed.

`sweeper.train` asks here which layers it can adapt. Contains no source of models.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from sweeper.errors import ModelError

__all__ = ["bias_of", "check_linear", "is_linear", "is_transposed", "product", "weight_of"]

_QUANTISED_MODULES = ("bitsandbytes.",)
"""Linear8bitLt has a floating-point weight until it is moved to a GPU, so it is recognised by its class."""


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer by its class; `check_linear` checks whether it can be packed."""
    return isinstance(module, nn.Linear | Conv1D)


def check_linear(module: nn.Module, name: str) -> None:
    """Check that a module computes ``x Wᵀ + b`` with a weight that products can use as it is.

    A quantised layer is a subclass of `nn.Linear` whose weight holds packed bytes.

    Args:
        module: The module.
        name: Its name in the model, for the error message.

    Raises:
        ModelError: The module is not a linear layer, or is quantised.
    """
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
            f"quantised layers cannot have an adapter yet, only layers with a floating-point weight of shape "
            f"[outputs, inputs] = {shape}. Load the model unquantised: set model.id to a version of it whose "
            f"config.json has no quantization_config."
        )


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer keeps W as ``[I, O]``; PEFT calls that ``fan_in_fan_out``."""
    return isinstance(module, Conv1D)


def weight_of(module: nn.Module) -> torch.Tensor:
    """Return W of a linear layer as ``[O, I]``, sharing its memory."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101  the caller has asked `is_linear`
    return weight.T if is_transposed(module) else weight


def bias_of(module: nn.Module) -> torch.Tensor | None:
    """Return b of a linear layer."""
    bias: torch.Tensor | None = getattr(module, "bias", None)
    return bias


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return ``x Wᵀ + b`` without a gradient."""
    if bias is not None and x.device.type == "cpu" and x.dtype is torch.bfloat16 and weight.is_contiguous():
        # torch writes the bias over the whole output and then adds the product, a tenth slower than oneDNN, which
        # adds the bias as it goes.
        fused: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return fused
    return F.linear(x, weight, bias)
