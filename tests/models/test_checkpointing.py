"""Blocks that run again in the backward pass: the same losses and gradients, a fraction of the activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sweeper.errors import ModelError
from sweeper.models.checkpointing import checkpoint_blocks
from sweeper.models.device_choice import choose_checkpointing
from tests.tasks.languages import language_model
from tests.train.languages import LanguageData, language_pack, train_language
from tests.train.tiny import MIXED, Data, build_pack, specs, start, train


def mixed():
    """Lanes of several ranks, half of them with dropout."""
    return specs([{**change, "lora.dropout": 0.3 * (number % 2)} for number, change in enumerate(MIXED[:4])])


def counted(model):
    """Count how often the blocks' first norm or product runs."""
    calls = []
    for name, module in model.named_modules():
        if name.endswith((".down_proj", ".intermediate.dense")):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def assert_the_same(pack_of, train_pack, data):
    plain, checkpointed = pack_of(), pack_of()
    checkpoint_blocks(checkpointed._model)
    calls = counted(plain._model), counted(checkpointed._model)
    lanes = start(plain, mixed()), start(checkpointed, mixed())
    losses = train_pack(plain, lanes[0], data, 2), train_pack(checkpointed, lanes[1], data, 2)
    for number, expected in losses[0].items():
        assert torch.equal(losses[1][number], expected)
    for one, other in zip(*lanes, strict=True):
        assert torch.equal(one.parameters, other.parameters)
    assert len(calls[1]) == 2 * len(calls[0]) > 0


def test_a_language_model_learns_the_same():
    assert_the_same(language_pack, train_language, LanguageData())


@pytest.mark.parametrize("base_dropout", [0.0, 0.2])
def test_an_encoder_learns_the_same(base_dropout):
    assert_the_same(lambda: build_pack(base_dropout=base_dropout), train, Data())


@pytest.mark.parametrize("kind", ["opt", "gpt2", "gpt_neox", "phi", "qwen3", "gemma2"])
def test_blocks_stay_in_evaluation_mode(kind):
    """Some blocks drop values themselves if they are in training mode."""
    model = language_model(kind)
    checkpoint_blocks(model)
    assert not any(module.training for module in model.modules())


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ModelError, match=r"model\.gradient_checkpointing=never"):
        checkpoint_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("wanted", "device", "size", "expected"),
    [
        ("auto", "cpu", 8 * 10**9, False),
        ("auto", "cuda", 8 * 10**9, True),
        ("auto", "cuda", 135 * 10**6, False),
        ("always", "cpu", 10**6, True),
        ("never", "cuda", 8 * 10**9, False),
    ],
)
def test_auto_saves_memory_where_it_is_short(wanted, device, size, expected):
    chosen, why = choose_checkpointing(wanted, device, size)
    assert chosen is expected
    assert why.startswith("always" if expected else "never")
