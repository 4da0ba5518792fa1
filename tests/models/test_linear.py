"""Which layers can be packed; bitsandbytes is not installed, so classes of the same shape stand for its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sweeper.errors import ModelError
from sweeper.models.linear import FrozenWeight, check_linear, may_reorder, weight_of


class Linear4bit(nn.Linear):
    """Keeps two weights in a byte, in one column, as the class of that name in bitsandbytes."""

    def __init__(self):
        super().__init__(8, 4)
        self.weight = nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)


class Linear8bitLt(nn.Linear):
    """Keeps a weight of the right shape as integers."""

    def __init__(self):
        super().__init__(8, 4)
        self.weight = nn.Parameter(torch.zeros(4, 8, dtype=torch.int8), requires_grad=False)


class FP8Linear(nn.Linear):
    """Keeps a floating-point weight that means nothing without its scales."""

    def __init__(self):
        super().__init__(8, 4, dtype=torch.float32)
        self.weight = nn.Parameter(self.weight.to(torch.float8_e4m3fn), requires_grad=False)


class NotYetQuantised(nn.Linear):
    """Has a plain weight until it is moved to a GPU."""

    __module__ = "bitsandbytes.nn.modules"

    def __init__(self):
        super().__init__(8, 4)


class Padded(nn.Linear):
    """Has more rows than outputs."""

    def __init__(self):
        super().__init__(8, 6)
        self.out_features = 4


@pytest.mark.parametrize("kind", [Linear4bit, Linear8bitLt, FP8Linear, NotYetQuantised, Padded])
def test_a_quantised_layer_is_refused_by_name_and_class(kind):
    with pytest.raises(ModelError) as caught:
        check_linear(kind(), "layers.0.q_proj")
    message = str(caught.value)
    assert message.startswith("layers.0.q_proj is a ")
    assert kind.__name__ in message
    assert "Load the model unquantised" in message


@pytest.mark.parametrize("module", [nn.Embedding(4, 8), nn.LayerNorm(8)])
def test_a_layer_that_is_not_linear_is_refused(module):
    with pytest.raises(ModelError, match=r"^x is a \w+: only linear layers.*model\.target_modules"):
        check_linear(module, "x")


@pytest.mark.parametrize(
    "module",
    [nn.Linear(8, 4), nn.Linear(8, 4, dtype=torch.bfloat16), Conv1D(4, 8), type("Own", (nn.Linear,), {})(8, 4)],
)
def test_dense_layers_pass(module):
    check_linear(module, "x")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_reordered_copies_change_no_bit_of_the_products(transposed, has_bias):
    layer = (Conv1D(48, 32) if transposed else nn.Linear(32, 48)).to(torch.bfloat16).requires_grad_(requires_grad=False)
    bias = torch.randn(48, dtype=torch.bfloat16) if has_bias else None
    plain, reordered = (FrozenWeight(weight_of(layer), bias, reorder=reorder) for reorder in (False, True))
    assert plain._forward_weight is plain._backward_weight is None
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() == (reordered._forward_weight is not None)
    x, grad = torch.randn(2, 40, 32, dtype=torch.bfloat16), torch.randn(2, 40, 48, dtype=torch.bfloat16)
    y = reordered.forward(x)
    assert torch.equal(y, plain.forward(x))
    torch.testing.assert_close(y, nn.functional.linear(x, weight_of(layer), bias))
    grad_x = reordered.backward(grad)
    assert torch.equal(grad_x, plain.backward(grad))
    torch.testing.assert_close(grad_x, grad @ weight_of(layer))


def test_weights_in_float32_are_not_copied():
    assert FrozenWeight(torch.randn(4, 8), None, reorder=True)._forward_weight is None


def test_copies_of_weights_take_a_tenth_of_the_free_memory_at_most():
    assert may_reorder(50, 1_000)
    assert not may_reorder(51, 1_000)
