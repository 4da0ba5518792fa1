"""Tiny models on disk, quantised while they are loaded, and the same ones with their dequantised weights instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sweeper.models.linear import weight_of
from sweeper.models.load import load_model
from sweeper.models.quantised_linear import QuantisedLinear

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


def linear_names(model):
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
