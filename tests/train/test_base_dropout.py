"""Dropout inside the frozen model: from each lane's own generator, in training only."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sweeper.errors import ModelError
from sweeper.models.hidden_dropout import hidden_dropouts
from sweeper.train.dropout import HostDropout
from sweeper.train.packed import PackedDropout, PackState
from tests.models.configs import small_config
from tests.train.test_batches import evaluation
from tests.train.tiny import CPU, build_pack, outputs, spec, start, token_rows, train


def losses(base_dropout, trials, data, chunks=3):
    pack = build_pack(base_dropout=base_dropout)
    return train(pack, start(pack, trials), data, chunks)


def test_it_changes_the_losses(data):
    assert not torch.allclose(losses(0.3, [spec()], data)[0], losses(0.0, [spec()], data)[0], rtol=1e-3)


def test_a_lane_has_the_same_losses_with_any_neighbours(data):
    alone = losses(0.3, [spec(1, seed=5)], data)
    among = losses(0.3, [spec(0, seed=4), spec(1, seed=5), spec(2, seed=6, **{"lora.dropout": 0.5})], data)
    torch.testing.assert_close(among[1], alone[1])


def test_evaluation_drops_nothing(data):
    dropping, plain = build_pack(base_dropout=0.5), build_pack()
    (lane,) = start(dropping, [spec()])
    train(dropping, [lane], data, 1)
    split = evaluation(token_rows(9))
    assert torch.equal(dropping.predict([lane], split, outputs), plain.predict([lane], split, outputs))


def test_values_are_kept_or_dropped_and_their_mean_stays():
    state = PackState(torch.zeros((), requires_grad=True), num_lanes=1, base_dropout=HostDropout([0.25], [1], CPU))
    x = torch.ones(200, 100, requires_grad=True)
    y = PackedDropout(state, 1 / 0.75)(x)
    y.sum().backward()
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(x.grad, y.detach())


def test_a_model_without_dropout_layers_is_refused():
    with pytest.raises(ModelError, match=r"model\.dropout=0"):
        build_pack("llama", base_dropout=0.1)


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "mpnet", "gpt2", "distilbert"])
def test_attention_probabilities_are_never_dropped(model_type):
    model = AutoModelForSequenceClassification.from_config(small_config(model_type), attn_implementation="eager").eval()
    dropped = [model.get_submodule(name) for name in hidden_dropouts(model)]
    shapes = []
    for module in dropped:
        module.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    ids = torch.randint(3, 100, (2, 7))
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert shapes
    assert {shape[-1] for shape in shapes} == {model.config.hidden_size}


def test_masks_depend_on_the_place_among_all_dropout_layers():
    model = AutoModelForSequenceClassification.from_config(small_config("bert"))
    found = hidden_dropouts(model)
    assert found["bert.embeddings.dropout"] == 0
    assert found["bert.encoder.layer.0.attention.output.dropout"] == 2  # after that of the attention
