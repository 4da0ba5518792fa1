"""The kind of a model from its config.json: sizes are compared with those that model cards state."""

from __future__ import annotations

import pytest

from sweeper.config.settings import MODEL_KINDS
from sweeper.models.kind import count_parameters, is_language_model, kind_of
from sweeper.models.targets import TARGETS

SMOLLM2_135M = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
QWEN3_600M = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
MIXTRAL = {**LLAMA3_8B, "model_type": "mixtral", "num_local_experts": 8, "vocab_size": 32000}
MINILM = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
}


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        (SMOLLM2_135M, 134_515_008),
        (QWEN3_600M, 596_049_920),
        (LLAMA3_8B, 8_030_261_248),
        (GPT2, 124_439_808),
        (MIXTRAL, 46_702_792_704),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_parameters_are_counted_within_three_percent(architecture, parameters):
    assert count_parameters(architecture) == pytest.approx(parameters, rel=0.03)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_size_that_cannot_be_told_is_zero_and_counts_as_large(missing):
    architecture = {key: value for key, value in SMOLLM2_135M.items() if key != missing}
    assert count_parameters(architecture) == 0
    assert kind_of(architecture, has_head=False) == "language_model"


@pytest.mark.parametrize(
    ("architecture", "has_head", "kind"),
    [
        (MINILM, True, "encoder"),
        (SMOLLM2_135M, False, "small_language_model"),
        (SMOLLM2_135M, True, "small_language_model"),
        (QWEN3_600M, False, "small_language_model"),
        (LLAMA3_8B, False, "language_model"),
        (LLAMA3_8B, True, "language_model"),
        ({**LLAMA3_8B, "model_type": "olmo", "architectures": ["OlmoForCausalLM"]}, True, "language_model"),
        ({**MINILM, "model_type": "nomic_bert", "architectures": ["NomicBertModel"]}, True, "encoder"),
        ({"model_type": "unheard_of"}, True, "encoder"),
    ],
)
def test_the_kind_follows_from_architecture_size_and_task(architecture, has_head, kind):
    assert kind_of(architecture, has_head=has_head) == kind
    assert kind in MODEL_KINDS


@pytest.mark.parametrize("model_type", TARGETS)
def test_an_architecture_with_known_targets_has_a_kind_by_its_name_alone(model_type):
    is_encoder = any(part in model_type for part in ("bert", "electra", "mpnet"))
    assert is_language_model({"model_type": model_type}) is not is_encoder
