"""Tiny models on disk, quantised while they are loaded, and the same ones with their dequantised weights instead."""

from __future__ import annotations

import pytest
import torch

from sweeper.models.linear import layers_in_blocks, weight_of
from sweeper.models.load import load_model
from sweeper.models.quantised_linear import FourBitWeight, QuantisedLinear

KINDS = {"bert": "sequence_classification", "llama": "causal_lm", "gpt2": "causal_lm"}


def need_bitsandbytes():
    pytest.importorskip("bitsandbytes", reason="needs the extra quantization")


def load(folder, kind, quantization="none", dtype=torch.float32, **more):
    options = {"num_labels": 3, "attention": "eager", **more}
    return load_model(folder, kind=KINDS[kind], dtype=dtype, quantization=quantization, **options)


def quantised_layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantisedLinear)}


def dequantised(folder, kind, quantised):
    """Load the model unquantised, and replace the weights of its layers by the dequantised ones."""
    model = load(folder, kind)
    with torch.no_grad():
        for name, layer in quantised_layers(quantised).items():
            weight_of(model.get_submodule(name)).copy_(layer.frozen.dequantised())
    return model


def four_bits_on_meta(model):
    """Replace the layers in the blocks of a model on the meta device by layers in NF4, which have no values either."""
    from bitsandbytes.functional import QuantState

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    for name in layers_in_blocks(model):
        weight = model.get_submodule(name).weight
        blocks = weight.numel() // 64
        nested = QuantState(absmax=empty(blocks // 256), code=empty(256), blocksize=256, dtype=torch.float32)
        state = QuantState(
            absmax=empty(blocks, dtype=torch.uint8),
            shape=weight.shape,
            code=empty(16),
            blocksize=64,
            quant_type="nf4",
            offset=empty(()),
            state2=nested,
        )
        packed = empty(weight.numel() // 2, 1, dtype=torch.uint8)
        model.set_submodule(name, QuantisedLinear(FourBitWeight(packed, state, weight.dtype), None, weight))
    return model
