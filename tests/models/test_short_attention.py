"""The attention kernel for short rows gives what the stock eager kernel gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from sweeper.models.device_choice import PADDED_SDPA, SHORT, choose_attention
from sweeper.models.short_attention import register, short_attention

LENGTHS = [1, 5, 16, 31, 40]


def reference(query, key, value, mask, scale):
    scores = torch.matmul(query, key.mT) * scale + mask
    return torch.matmul(scores.softmax(-1), value).transpose(1, 2)


def tensors(length, *, key_heads=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(length)
    shapes = ((3, 4, length, 8), (3, key_heads, length, 8), (3, key_heads, length, 8))
    drawn = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    mask = torch.zeros(3, 1, length, length)
    mask[1, :, :, length // 2 + 1 :] = torch.finfo(dtype).min
    return drawn, mask.to(dtype)


@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients_are_exact(length):
    drawn, mask = tensors(length)
    found, weights = short_attention(nn.Identity(), *drawn, mask, scaling=0.3)
    gradients = torch.autograd.grad(found.square().sum(), drawn)
    expected = reference(*drawn, mask, 0.3)
    assert weights is None
    torch.testing.assert_close(found, expected)
    for found_gradient, gradient in zip(gradients, torch.autograd.grad(expected.square().sum(), drawn), strict=True):
        torch.testing.assert_close(found_gradient, gradient)


def test_shared_key_heads_are_repeated():
    (query, key, value), mask = tensors(9, key_heads=2)
    found, _ = short_attention(nn.Identity(), query, key, value, mask)
    wide = [t.repeat_interleave(2, dim=1) for t in (key, value)]
    torch.testing.assert_close(found, reference(query, *wide, mask, 8**-0.5))


def test_no_mask_attends_to_everything():
    (query, key, value), _ = tensors(6)
    found, _ = short_attention(nn.Identity(), query, key, value, None)
    torch.testing.assert_close(found, reference(query, key, value, torch.zeros(1), 8**-0.5))


def test_in_bfloat16_it_is_nearer_to_the_exact_result_than_eager():
    (query, key, value), mask = tensors(29, dtype=torch.bfloat16)
    exact = reference(*(t.double() for t in (query, key, value)), mask.double(), 8**-0.5)
    found, _ = short_attention(nn.Identity(), query, key, value, mask)
    eager = reference(query, key, value, mask, 8**-0.5)
    assert (found - exact).abs().mean() <= (eager - exact).abs().mean()


@pytest.mark.parametrize("wrong", [{"dropout": 0.1}, {"softcap": 50.0}])
def test_unsupported_options_are_refused(wrong):
    drawn, mask = tensors(5)
    with pytest.raises(ValueError, match=r"model\.attention=eager"):
        short_attention(nn.Identity(), *drawn, mask, **wrong)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_model_gives_the_same_states(kind):
    register()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    states = []
    for attention in ("eager", SHORT):
        config = AutoConfig.for_model(kind, vocab_size=50, pad_token_id=0, attn_implementation=attention, **sizes)
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
        ids = torch.arange(1, 21).view(2, 10)
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        with torch.no_grad():
            states.append(model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None])
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_it_is_chosen_on_a_cpu_in_bfloat16_only():
    assert choose_attention("auto", "cpu", torch.bfloat16)[0] == SHORT
    assert choose_attention("auto", "cpu", torch.float32)[0] == "eager"
    assert choose_attention("auto", "cuda", torch.bfloat16)[0] == PADDED_SDPA
