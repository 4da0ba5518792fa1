"""The narrow last layer gives the results of the full one, and replaces it only where no other token is read."""

from __future__ import annotations

import pytest
import torch

from sweeper.models.first_token import all_tokens, narrow_layers, read_first_token
from tests.train.tiny import PAD, build_model, token_rows

FAMILY = ["bert", "roberta", "electra"]


def batch():
    rows = token_rows(6)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@pytest.fixture(params=FAMILY)
def kind(request):
    return request.param


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_the_full_layer(kind, attention):
    model = build_model(kind)
    model.set_attn_implementation(attention)
    whole = model(**batch()).logits
    read_first_token(model)
    torch.testing.assert_close(model(**batch()).logits, whole)


def test_gradients_are_those_of_the_full_layer(kind):
    def gradients(model):
        weight = model.base_model.encoder.layer[0].intermediate.dense.weight.requires_grad_()
        model(**batch()).logits.square().sum().backward()
        return weight.grad

    whole, narrow = build_model(kind), build_model(kind)
    read_first_token(narrow)
    torch.testing.assert_close(gradients(narrow), gradients(whole))


def test_the_last_layer_works_for_one_token_a_row(kind):
    model = build_model(kind)
    read_first_token(model)
    assert model.base_model(**batch()).last_hidden_state.shape[1] == 1
    assert len(narrow_layers(model)) == 1


def test_the_states_of_all_tokens_are_still_available(kind):
    model = build_model(kind)
    whole = model.base_model(**batch()).last_hidden_state
    read_first_token(model)
    with all_tokens(model):
        torch.testing.assert_close(model.base_model(**batch()).last_hidden_state, whole)
    assert model.base_model(**batch()).last_hidden_state.shape[1] == 1


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_models_that_read_another_token_are_left_alone(kind):
    model = build_model(kind)
    read_first_token(model)
    assert not narrow_layers(model)
