"""Sizes that are read from config.json alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from sweeper.errors import ModelError
from sweeper.figures.memory import base_bytes
from sweeper.models.shapes import read_shapes, shapes_of
from sweeper.models.targets import TARGETS
from tests.models.configs import small_config

FOLDER = Path(__file__).parent
HEADS = ("classifier", "score")


def head_modules(model):
    return [name for name, _ in model.named_children() if name in HEADS]


def read(name, kind="causal_lm", **changes):
    arguments = {"num_labels": 3, "target_modules": (), "head_modules": head_modules, **changes}
    return read_shapes(FOLDER / name, kind=kind, **arguments)


def test_llama_3_8b():
    shapes = read("llama3_8b")
    assert shapes.parameters == 8_030_261_248
    assert shapes.trainable(16) == 41_943_040  # 7 layers a block; the number that PEFT prints for it
    assert len(shapes.lora) == 7 * 32
    assert (shapes.width, shapes.num_layers, shapes.vocabulary) == (4096, 32, 128_256)
    assert (shapes.block.query, shapes.block.key, shapes.block.inner) == (4096, 1024, 14_336)


def test_qwen3_0_6b_counts_tied_embeddings_once():
    shapes = read("qwen3_0_6b")
    assert shapes.parameters == 596_049_920
    per_block = (1024 + 2048) + 2 * (1024 + 1024) + (2048 + 1024) + 3 * (1024 + 3072)
    assert shapes.trainable(4) == 4 * 28 * per_block


def test_a_classifier_has_the_head_of_every_trial_and_not_in_the_base():
    shapes = read("qwen3_0_6b", kind="sequence_classification")
    language = read("qwen3_0_6b")
    assert shapes.parameters == language.parameters
    assert shapes.trainable(4) == language.trainable(4) + 3 * 1024
    assert shapes.head_reads_tokens


def test_only_the_named_layers_are_adapted():
    shapes = read("llama3_8b", target_modules=("q_proj", "v_proj"))
    assert shapes.trainable(8) == 8 * 32 * ((4096 + 4096) + (4096 + 1024))


def test_the_base_by_precision():
    shapes = read("llama3_8b")
    blocks = 32 * (4096 * (4096 + 2 * 1024 + 4096) + 3 * 4096 * 14_336)
    assert shapes.quantisable == blocks
    assert base_bytes(shapes, "float32") == 4 * shapes.parameters
    assert base_bytes(shapes, "bfloat16") == base_bytes(shapes, "float16") == 2 * shapes.parameters
    rows = 32 * (4096 + 2 * 1024 + 4096 + 2 * 14_336 + 4096)
    assert base_bytes(shapes, "bfloat16", quantization="int8") == 2 * (shapes.parameters - blocks) + blocks + 4 * rows
    # Half a byte, a byte for 64 weights, and four bytes for 256 of these.
    nf4 = 2 * (shapes.parameters - blocks) + blocks / 2 + blocks / 64 + 4 * blocks / (64 * 256)
    assert base_bytes(shapes, "bfloat16", quantization="nf4") == pytest.approx(nf4, abs=1)
    assert 5.6e9 < nf4 < 5.8e9


@pytest.mark.parametrize("model_type", sorted(TARGETS))
def test_a_config_file_is_enough(model_type, tmp_path):
    config = small_config(model_type)
    config.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_config(config)
    expected = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for name in head_modules(model) for p in model.get_submodule(name).parameters()
    )
    kind = "sequence_classification"
    found = read_shapes(tmp_path, kind=kind, num_labels=3, target_modules=(), head_modules=head_modules)
    assert found.parameters == expected
    assert found == shapes_of(model, target_modules=(), head_modules=head_modules(model), kind=kind)


def test_the_error_for_a_model_that_transformers_does_not_know_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ModelError, match=r"config\.json describes no model"):
        read_shapes(tmp_path, kind="causal_lm", num_labels=2, target_modules=(), head_modules=head_modules)


def test_the_error_for_targets_that_no_layer_has_names_the_key():
    with pytest.raises(ModelError, match=r"model\.target_modules"):
        read("llama3_8b", target_modules=("no_such_layer",))


def test_the_shapes_of_a_language_model_have_no_head():
    model = AutoModelForCausalLM.from_config(small_config("llama"))
    shapes = shapes_of(model, target_modules=(), head_modules=(), kind="causal_lm")
    assert shapes.head == ()
    assert shapes.has_token_loss
