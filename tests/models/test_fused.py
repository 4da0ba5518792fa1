"""Models with fused operations against themselves; on a CPU the kernels are the references in torch operations."""

from __future__ import annotations

import importlib

import pytest
import torch

from sweeper.models import fused
from sweeper.models.fused import fuse_operations
from tests.tasks.languages import batch_of, language_model, pairs

KINDS = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    for kind in KINDS:
        modeling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
        monkeypatch.setattr(modeling, "apply_rotary_pos_emb", modeling.apply_rotary_pos_emb)


def states_and_gradient(model, batch):
    """Return the states, and the gradient of the embeddings, which passes through everything."""
    embedded = model.get_input_embeddings()(batch.ids).detach().requires_grad_()
    states = model.model(inputs_embeds=embedded, attention_mask=batch.mask).last_hidden_state[batch.mask.bool()]
    states.square().sum().backward()
    return states.detach(), embedded.grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_computes_the_same(kind):
    model, batch = language_model(kind), batch_of(pairs(6))
    expected = states_and_gradient(model, batch)
    fuse_operations(model)
    for one, other in zip(states_and_gradient(model, batch), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_norm_gate_and_rotation_is_fused(kind, monkeypatch):
    model, called = language_model(kind), set()
    fuse_operations(model)
    for name in ("gate", "rotate"):
        original = getattr(fused.operators, name)
        monkeypatch.setattr(fused.operators, name, lambda *a, n=name, f=original: called.add(n) or f(*a))
    model.model(input_ids=torch.ones(2, 3, dtype=torch.int64))
    assert called == {"gate", "rotate"}
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    assert norms
    assert all(module.forward.func is fused._norm for module in norms)


@pytest.mark.parametrize("kind", ["gemma2", "gpt2"])
def test_other_architectures_stay_as_they_are(kind):
    model = language_model(kind)
    fuse_operations(model)
    assert not any("forward" in vars(module) for module in model.modules())
