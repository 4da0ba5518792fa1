"""Packed layers against arithmetic done by hand."""

from __future__ import annotations

import weakref
from unittest.mock import patch

import pytest
import torch
from torch import nn

from sweeper.train import pack as pack_module
from sweeper.train.dropout import HostDropout
from sweeper.train.pack import Pack
from sweeper.train.packed import HeadSegment, LoraGroup, LoraSegment, PackedHead, PackedLora, PackState
from tests.train.tiny import CPU, build_model, layers_of

X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])  # a row of lane 0, a row of lane 1
GRAD_Y = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])


def lora_layer():
    base = nn.Linear(2, 2).requires_grad_(requires_grad=False)
    base.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    base.bias.copy_(torch.tensor([1.0, -1.0]))
    return PackedLora(LoraGroup([base], PackState(torch.zeros((), requires_grad=True), num_lanes=2)), 0)


def own_ranks():
    """Rank 1 and rank 2, each in a segment of its own."""
    one = LoraSegment(0, 1, torch.tensor([[[1.0, 1.0]]]), [torch.tensor([[[2.0, -1.0]]])])
    two = LoraSegment(1, 2, torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), [torch.tensor([[[1.0, 1.0], [0.0, 3.0]]])])
    return with_gradients([one, two])


def padded():
    """The same two lanes, both at rank 2, in one segment."""
    a = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]])
    b = torch.tensor([[[2.0, -1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 3.0]]])
    return with_gradients([LoraSegment(0, 2, a, [b])])


def with_gradients(segments):
    for segment in segments:
        segment.grad_A_kSI = torch.zeros_like(segment.A_kSI)
        segment.grad_B_kRO = [torch.zeros_like(b) for b in segment.B_kRO]
    return segments


@pytest.mark.parametrize("segments", [own_ranks, padded])
def test_the_output_is_the_frozen_product_plus_each_lanes_adapter(segments):
    layer = lora_layer()
    layer.group.segments = segments()
    # lane 0: W x + b = (1+4+1, 2-1) = (6, 1); A x = 3; B (2, -1) adds (6, -3)
    # lane 1: W x + b = (3-2+1, -1-1) = (2, -2); A x = (3, -2); adds 3 (1, 1) - 2 (0, 3) = (3, -3)
    assert layer(X).tolist() == [[12.0, -2.0], [5.0, -5.0]]


@pytest.mark.parametrize("segments", [own_ranks, padded])
def test_the_gradient_of_the_input_passes_through_both_branches(segments):
    layer = lora_layer()
    layer.group.segments = segments()
    x = X.clone().requires_grad_()
    layer(x).backward(GRAD_Y)
    # lane 0: Wᵀ g = (1, 3); B g = 2-1 = 1; A adds (1, 1)
    # lane 1: Wᵀ g = (-1, -1); B g = (-1+1, 3) = (0, 3); A adds (0, 6)
    assert x.grad.tolist() == [[2.0, 4.0], [-1.0, 5.0]]


def test_gradients_of_a_and_b_are_each_lanes_own():
    layer = lora_layer()
    layer.group.segments = one, two = own_ranks()
    layer(X).backward(GRAD_Y)
    assert one.grad_B_kRO[0].tolist() == [[[3.0, 3.0]]]  # A x ⊗ g = 3 (1, 1)
    assert one.grad_A_kSI.tolist() == [[[1.0, 2.0]]]  # B g ⊗ x = 1 (1, 2)
    assert two.grad_B_kRO[0].tolist() == [[[-3.0, 3.0], [2.0, -2.0]]]  # (3, -2) ⊗ (-1, 1)
    assert two.grad_A_kSI.tolist() == [[[0.0, 0.0], [9.0, -3.0]]]  # (0, 3) ⊗ (3, -1)


def test_zero_pads_get_no_gradient():
    layer = lora_layer()
    (segment,) = layer.group.segments = padded()
    layer(X).backward(GRAD_Y)
    assert segment.grad_A_kSI.tolist() == [[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [9.0, -3.0]]]
    assert segment.grad_B_kRO[0].tolist() == [[[3.0, 3.0], [0.0, 0.0]], [[-3.0, 3.0], [2.0, -2.0]]]


def test_gradients_add_up_over_backward_passes():
    layer = lora_layer()
    layer.group.segments = one, two = own_ranks()
    for _ in range(2):
        layer(X).backward(GRAD_Y)
    assert one.grad_A_kSI.tolist() == [[[2.0, 4.0]]]
    assert two.grad_B_kRO[0].tolist() == [[[-6.0, 6.0], [4.0, -4.0]]]


class Masks(HostDropout):
    def __init__(self, mask):
        super().__init__([0.5], [1], CPU)
        self._mask = mask

    def mask(self, x, site):
        assert (x.shape, site) == (self._mask.shape, 0)
        return self._mask


def test_dropout_acts_on_the_adapter_alone():
    layer = lora_layer()
    layer.group.segments = one, _ = own_ranks()
    layer.group.state.dropout = Masks(torch.tensor([[-1, 0], [-1, -1]], dtype=torch.int32))
    x = X.clone().requires_grad_()
    y = layer(x)
    y.backward(GRAD_Y)
    assert y.tolist() == [[8.0, 0.0], [5.0, -5.0]]  # lane 0: A (1, 0) = 1; B adds (2, -1)
    assert x.grad.tolist() == [[2.0, 3.0], [-1.0, 5.0]]  # lane 0: (1, 3) + (1, 0)
    assert one.grad_B_kRO[0].tolist() == [[[1.0, 1.0]]]
    assert one.grad_A_kSI.tolist() == [[[1.0, 0.0]]]


def test_every_token_of_a_row_counts():
    layer = lora_layer()
    layer.group.segments = one, _ = own_ranks()
    layer(X[:, None].repeat(1, 3, 1)).backward(GRAD_Y[:, None].repeat(1, 3, 1))
    assert one.grad_A_kSI.tolist() == [[[3.0, 6.0]]]


def test_without_lanes_the_layer_is_the_frozen_one():
    assert lora_layer()(X).tolist() == [[6.0, 1.0], [2.0, -2.0]]


def group_of_three(*, bias=True):
    """Three layers of widths 2, 3 and 1 that read the same tensor, with adapters of rank 1 for two lanes."""
    torch.manual_seed(0)
    bases = [nn.Linear(2, width, bias=bias or width == 3).requires_grad_(requires_grad=False) for width in (2, 3, 1)]
    group = LoraGroup(bases, PackState(torch.zeros((), requires_grad=True), num_lanes=2))
    b = [torch.randn(2, 1, width) for width in (2, 3, 1)]
    group.segments = with_gradients([LoraSegment(0, 2, torch.randn(2, 3, 2), b)])
    return bases, group


@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_a_group_do_what_they_would_do_alone(bias):
    bases, group = group_of_three(bias=bias)
    (whole,) = group.segments
    x = X.clone().requires_grad_()
    outputs = [PackedLora(group, index)(x) for index in range(3)]
    sum((index + 1) * (y**2).sum() for index, y in enumerate(outputs)).backward()
    alone_x = X.clone().requires_grad_()
    for index, base in enumerate(bases):
        alone = LoraGroup([base], group.state)
        alone.segments = with_gradients([LoraSegment(0, 2, whole.A_kSI[:, index : index + 1], [whole.B_kRO[index]])])
        y = PackedLora(alone, 0)(alone_x)
        torch.testing.assert_close(outputs[index], y)
        ((index + 1) * (y**2).sum()).backward()
        torch.testing.assert_close(whole.grad_A_kSI[:, index : index + 1], alone.segments[0].grad_A_kSI)
        torch.testing.assert_close(whole.grad_B_kRO[index], alone.segments[0].grad_B_kRO[0])
    torch.testing.assert_close(x.grad, alone_x.grad)


def test_a_group_multiplies_once_for_all_its_layers(monkeypatch):
    _, group = group_of_three()
    products, multiply = [], group.frozen.forward
    monkeypatch.setattr(group.frozen, "forward", lambda x: products.append(x) or multiply(x))
    layers = [PackedLora(group, index) for index in range(3)]
    for x in (X, X + 1):
        for layer in layers:
            layer(x)
    assert [x.tolist() for x in products] == [X.tolist(), (X + 1).tolist()]


def test_a_layer_that_is_given_another_tensor_than_its_siblings_uses_that():
    bases, group = group_of_three()
    group.segments = ()
    PackedLora(group, 0)(X)
    torch.testing.assert_close(PackedLora(group, 1)(2 * X), bases[1](2 * X))


def head_layer(*, bias):
    layer = PackedHead(nn.Linear(2, 1, bias=bias), PackState(torch.zeros((), requires_grad=True), num_lanes=2))
    segment = HeadSegment(0, 2, torch.tensor([[[1.0, 2.0]], [[-1.0, 1.0]]]), None)
    segment.grad_weight_kOI = torch.zeros(2, 1, 2)
    if bias:
        segment.bias_kO, segment.grad_bias_kO = torch.tensor([[0.5], [-0.5]]), torch.zeros(2, 1)
    layer.segments = [segment]
    return layer, segment


def test_a_head_multiplies_each_lanes_own_weights():
    layer, segment = head_layer(bias=True)
    x = X.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.tensor([[2.0], [3.0]]))
    assert y.tolist() == [[5.5], [-4.5]]  # 1+4+0.5, -3-1-0.5
    assert segment.grad_weight_kOI.tolist() == [[[2.0, 4.0]], [[9.0, -3.0]]]
    assert segment.grad_bias_kO.tolist() == [[2.0], [3.0]]
    assert x.grad.tolist() == [[2.0, 4.0], [-3.0, 3.0]]


def test_a_head_may_have_no_bias():
    layer, _ = head_layer(bias=False)
    assert layer(X).tolist() == [[5.0], [-4.0]]


def test_a_head_computes_in_float32_whatever_it_is_given():
    layer, _ = head_layer(bias=True)
    assert layer(X.bfloat16()).dtype == torch.float32
    assert layer(X.to(CPU, torch.bfloat16)).tolist() == [[5.5], [-4.5]]


def test_a_pack_does_not_keep_the_weights_that_it_has_stacked():
    """On a GPU, those of an 8B model would take nine gigabytes beside its 16."""
    model = build_model()
    targets, head = layers_of(model)
    stacked = [name for name in targets if name.endswith(("query", "key", "value"))]
    weights = {name: weakref.ref(model.get_submodule(name).weight) for name in stacked}
    alive = []

    class Watched(LoraGroup):
        def __init__(self, layers, *args, **options):
            alive.append(sum(weight() is not None for weight in weights.values()))
            super().__init__(layers, *args, **options)

    with patch.object(pack_module, "LoraGroup", Watched):
        Pack(model, targets=targets, head=head, dtype=torch.float32)
    assert alive[0] == len(stacked) == 6
    assert alive[-1] == 0
