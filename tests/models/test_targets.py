from __future__ import annotations

import re

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from sweeper.errors import ModelError
from sweeper.models.linear import is_linear
from sweeper.models.targets import TARGETS, group_targets, targets_for

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NAMES_OF_ITS_OWN = {
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "electra": {"embedding_size": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "qwen3": {"head_dim": 8},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
}
KEY_VALUE = {
    name: {"num_key_value_heads": 1} for name, targets in TARGETS.items() if "q_proj" in targets or name == "phi3"
}


def tiny(model_type):
    sizes = {**SMALL, **NAMES_OF_ITS_OWN.get(model_type, {}), **KEY_VALUE.get(model_type, {})}
    config = AutoConfig.for_model(model_type, num_labels=2, **sizes)
    return AutoModelForSequenceClassification.from_config(config)


def is_matched(name, targets):
    return any(name == target or name.endswith(f".{target}") for target in targets)


@pytest.mark.parametrize("model_type", sorted(TARGETS))
def test_targets_are_all_linear_layers_of_the_blocks_and_no_other(model_type):
    linear = {name for name, module in tiny(model_type).named_modules() if is_linear(module)}
    in_blocks = {name for name in linear if re.search(r"\.\d+\.", name)}
    assert in_blocks
    assert {name for name in linear if is_matched(name, targets_for(model_type, []))} == in_blocks


@pytest.mark.parametrize("model_type", sorted(TARGETS))
def test_every_target_names_a_layer_in_each_block(model_type):
    names = [name for name, module in tiny(model_type).named_modules() if is_linear(module)]
    for target in targets_for(model_type, []):
        assert len([name for name in names if is_matched(name, [target])]) >= 2


def test_targets_from_the_configuration_are_used():
    assert targets_for("bert", ["query", "value"]) == ("query", "value")
    assert targets_for("unheard_of", ["query"]) == ("query",)


def test_the_error_for_an_unknown_architecture_names_the_key_to_set():
    with pytest.raises(ModelError, match=r"'qwen4'. Did you mean 'qwen[23]'.*Set model\.target_modules"):
        targets_for("qwen4", [])


def test_layers_that_read_one_tensor_are_grouped():
    block = ["0.q_proj", "0.k_proj", "0.v_proj", "0.o_proj", "0.gate_proj", "0.up_proj", "0.down_proj"]
    assert group_targets([*block, "1.q_proj"]) == [block[:3], block[3:4], block[4:6], block[6:], ["1.q_proj"]]


def test_a_layer_with_an_input_of_its_own_is_not_grouped():
    names = ["self.query", "self.key", "self.value"]
    assert group_targets(names, alone={"self.query"}) == [names[:1], names[1:]]


def test_layers_that_do_not_stand_side_by_side_are_not_grouped():
    assert len(group_targets(["self.query", "output.dense", "self.value"])) == 3
