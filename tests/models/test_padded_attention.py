"""The fused attention that never reads the padding mask back, against transformers' own kernels."""

from __future__ import annotations

import pytest
import torch

from sweeper.models import padded_attention
from sweeper.models.device_choice import PADDED_SDPA
from tests.tasks.languages import LANGUAGE_MODELS, batch_of, language_model, pairs
from tests.train.fake_cuda import CUDA, FakeCuda
from tests.train.tiny import build_model

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def registered():
    padded_attention.register()


def states_of(model, attention, batch):
    model.set_attn_implementation(attention)
    base = getattr(model, model.base_model_prefix)
    return base(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state[batch.mask.bool()]


@pytest.mark.parametrize("kind", [kind for kind in LANGUAGE_MODELS if kind != "gemma2"])  # soft caps have no kernel
def test_a_language_model_has_the_states_of_the_eager_kernel(kind):
    model, batch = language_model(kind), batch_of(pairs(6))
    assert not batch.mask.all()
    torch.testing.assert_close(states_of(model, PADDED_SDPA, batch), states_of(model, "eager", batch), **CLOSE)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_an_encoder_has_the_states_of_the_eager_kernel(kind):
    model, batch = build_model(kind), batch_of(pairs(6))
    torch.testing.assert_close(states_of(model, PADDED_SDPA, batch), states_of(model, "eager", batch), **CLOSE)


def test_a_sliding_window_keeps_its_mask():
    model, batch = language_model("mistral"), batch_of(pairs(6))
    model.config.sliding_window = 3
    windowed = states_of(model, "eager", batch)
    torch.testing.assert_close(states_of(model, PADDED_SDPA, batch), windowed, **CLOSE)
    model.config.sliding_window = None
    assert not torch.allclose(states_of(model, PADDED_SDPA, batch), windowed, **CLOSE)


def test_a_causal_model_gets_the_kernel_without_a_mask(monkeypatch):
    model, batch, masks = language_model(), batch_of(pairs(6)), []
    fused = torch.nn.functional.scaled_dot_product_attention

    def watched(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return fused(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    states_of(model, PADDED_SDPA, batch)
    assert masks
    assert all(mask is None for mask in masks)


@pytest.mark.parametrize(
    ("dtype", "capability", "key_heads"),
    [
        (torch.bfloat16, (8, 0), 1),
        (torch.float16, (7, 5), 2),
        (torch.float32, (8, 0), 2),
    ],
    ids=["A100", "T4", "float32"],
)
def test_keys_are_repeated_where_no_fused_kernel_takes_fewer_of_them(monkeypatch, dtype, capability, key_heads):
    seen = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, **kwargs):
        seen.append((query.shape[1], key.shape[1], kwargs.get("enable_gqa", False), kwargs["is_causal"]))
        return fused(query, key, value, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    layer = language_model().model.layers[0].self_attn
    with FakeCuda(capability=capability):
        query, key, value = (torch.randn(1, heads, 5, 8, dtype=dtype, device=CUDA) for heads in (2, 1, 1))
        padded_attention.padded_attention(layer, query, key, value, None, scaling=0.3)
    assert seen == [(2, key_heads, key_heads == 1, True)]
