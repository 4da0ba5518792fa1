"""Language models on the engine: parity with stock PEFT, adapters without a head, and the model without any."""

from __future__ import annotations

import json

import pytest
import torch

from sweeper.errors import ModelError
from sweeper.tasks.causal_lm import Task
from sweeper.train.checkpoints import to_safetensors
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack
from sweeper.types import Admission
from tests.tasks.languages import END, language_model, nll_alone, pairs
from tests.train.languages import (
    LanguageData,
    evaluation_of,
    language_pack,
    targets_of,
    train_language,
    train_language_with_peft,
)
from tests.train.tiny import CPU, no_peft_deprecation, spec, specs, start

CHUNKS = 10  # of 5 micro-batches
CHOICES = ((5, END), (6, 7, END), (6, 8, 9, END))


@pytest.fixture(scope="module")
def rows():
    return LanguageData()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_lane_of_a_mixed_pack_has_the_losses_of_stock_peft(kind, rows):
    trials = specs()
    pack = language_pack(kind)
    packed = train_language(pack, start(pack, trials), rows, CHUNKS)
    for trial in trials:
        alone = train_language_with_peft(kind, trial, rows, CHUNKS)
        assert len(alone) == 50
        torch.testing.assert_close(packed[trial.number], alone, rtol=1e-4, atol=0)


def test_the_reference_learns_so_that_equal_losses_mean_something(rows):
    losses = train_language_with_peft("llama", specs()[3], rows, CHUNKS)
    assert losses[-10:].mean() < losses[:10].mean() - 0.1


def test_a_chunk_reports_the_mean_loss_per_token(rows):
    pack = language_pack()
    (lane,) = start(pack, [spec(**{"train.learning_rate": 1e-12})])
    (outcome,) = pack.train_chunk([lane], rows.rows, Task().row_loss)
    seen = [rows.pairs[n] for n in rows.rows.chunk(0, lane.spec.seed).ravel()]
    model = language_model()
    total = sum(nll_alone(model, prompt, completion) for prompt, completion, _ in seen)
    assert outcome.loss == pytest.approx(total.item() / sum(len(completion) for _, completion, _ in seen), rel=1e-4)


def test_a_trial_trained_in_small_passes_is_the_same_trial(rows):
    pack = language_pack()
    one, other = (start(pack, [spec(**{"lora.dropout": 0.1})])[0] for _ in range(2))
    pack.train_chunk([one], rows.rows, Task().row_loss)
    tokens = rows.rows.largest_pass(1) // 4
    pack.train_chunk([other], rows.rows, Task().row_loss, tokens_per_pass=tokens)
    torch.testing.assert_close(one.parameters, other.parameters, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_the_adapter_and_gives_the_packs_losses(kind, rows, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    pack = language_pack(kind)
    lanes = start(pack, [spec(1, **{"lora.r": 3, "lora.alpha_ratio": 2.5}), spec(2, seed=9)])
    train_language(pack, lanes, rows, 4)
    held_out = pairs(12, seed=5, choices=CHOICES)
    packed = pack.predict(lanes, evaluation_of(held_out), Task(CHOICES).outputs)[0]

    base = language_model(kind)
    base.save_pretrained(tmp_path / "base")
    config = {"task_type": "CAUSAL_LM", "target_modules": targets_of(base), "modules_to_save": None}
    for name, content in lanes[0].adapter_files("base", {**config, "fan_in_fan_out": kind == "gpt2"}).items():
        (tmp_path / name).write_bytes(content)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] is None
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    with no_peft_deprecation():
        model = PeftModel.from_pretrained(fresh, tmp_path).eval()
    alone = torch.stack([nll_alone(model, prompt, completion) for prompt, completion, _ in held_out])
    torch.testing.assert_close(packed[:, 0], alone, rtol=1e-4, atol=1e-4)
    plain = torch.stack([nll_alone(base, prompt, completion) for prompt, completion, _ in held_out])
    assert (alone - plain).abs().max() > 0.1


def test_the_frozen_model_scores_as_before_it_was_packed(rows):
    pack, held_out = language_pack(), pairs(12, seed=5)
    train_language(pack, start(pack, [spec(1), spec(2)]), rows, 1)
    model = language_model()
    alone = torch.stack([nll_alone(model, prompt, completion) for prompt, completion, _ in held_out])
    torch.testing.assert_close(pack.frozen(evaluation_of(held_out), Task().outputs)[:, 0], alone, rtol=1e-4, atol=1e-4)


def test_a_conv1d_is_adapted_without_a_copy_of_its_weight():
    model = language_model("gpt2")
    weight = model.transformer.h[0].attn.c_attn.weight
    pack = Pack(model, targets=targets_of(model), head=[], dtype=torch.float32)
    assert model.transformer.h[0].attn.c_attn.weight.data_ptr() == weight.data_ptr()
    (shape,) = [shape for shape in pack.shape.lora if shape.name == "transformer.h.0.attn.c_attn"]
    assert (shape.num_in, shape.num_out) == (16, 48)


def test_a_layer_that_is_not_linear_is_refused():
    model = language_model()
    with pytest.raises(ModelError, match=r"model\.embed_tokens is a Embedding.*model\.target_modules"):
        Pack(model, targets=["model.embed_tokens"], head=[], dtype=torch.float32)


def test_a_lane_without_a_head_is_all_adapter_and_survives_a_checkpoint():
    pack = language_pack()
    (lane,) = start(pack, [spec(**{"lora.r": 3})])
    assert lane.layout.size == lane.layout.size_lora
    back = Lane.admit(
        Admission(spec=lane.spec, chunks_done=1, checkpoint=to_safetensors(lane.state())), pack.shape, CPU
    )
    assert back.state_hash() == lane.state_hash()
