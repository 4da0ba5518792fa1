"""Adapters are saved in PEFT's own format: loaded by PEFT they give the pack's logits and score."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load

from sweeper.errors import StoreError
from sweeper.tasks import make_task
from sweeper.train.lane import Lane
from tests.train.test_batches import evaluation
from tests.train.tiny import (
    HEADS,
    NUM_LABELS,
    build_model,
    build_pack,
    layers_of,
    no_peft_deprecation,
    outputs,
    spec,
    start,
    token_rows,
    train,
)


def save_adapter(lane, kind, folder):
    base = build_model(kind)
    base.save_pretrained(folder / "base")
    config = {
        "task_type": make_task("text_classification").peft_task_type,
        "target_modules": layers_of(base)[0],
        "modules_to_save": [HEADS[kind]],
    }
    for name, content in lane.adapter_files(str(folder / "base"), config).items():
        (folder / name).write_bytes(content)
    return folder


def load_adapter(folder):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(folder / "base", attn_implementation="eager")
    with no_peft_deprecation():
        return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama", "roberta"])
def test_peft_gives_the_packs_logits_and_score(kind, use_rslora, data, tmp_path):
    pack = build_pack(kind)
    trial = spec(1, **{"lora.r": 3, "lora.alpha_ratio": 2.5, "lora.dropout": 0.1, "lora.use_rslora": use_rslora})
    lane, other = start(pack, [trial, spec(2, seed=9)])
    train(pack, [lane, other], data, 4)
    split = evaluation(rows := token_rows(20, seed=5))
    packed = pack.predict([lane, other], split, outputs)[0]

    model = load_adapter(save_adapter(lane, kind, tmp_path))
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    task, labels = make_task("text_classification"), torch.arange(20) % NUM_LABELS
    assert task.score(alone, labels) == pytest.approx(task.score(packed, labels), rel=1e-5)


def test_the_adapter_matters(data, tmp_path):
    """The comparison above would be empty if trained adapters changed nothing."""
    pack = build_pack()
    (lane,) = start(pack, [spec()])
    train(pack, [lane], data, 4)
    model = load_adapter(save_adapter(lane, "bert", tmp_path))
    ids = torch.tensor([token_rows(1)[0]])
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        with model.disable_adapter():
            plain = model(input_ids=ids).logits
    assert (adapted - plain).abs().max() > 0.01


def test_every_number_of_a_lane_is_saved_and_nothing_else(data, tmp_path):
    pack = build_pack()
    (lane,) = start(pack, [spec(**{"lora.r": 3})])
    train(pack, [lane], data, 1)
    tensors = load(lane.adapter_files("base", {})["adapter_model.safetensors"])
    assert sum(tensor.numel() for tensor in tensors.values()) == lane.layout.size
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    model = load_adapter(save_adapter(lane, "bert", tmp_path))
    loaded = {name.replace(".default", "").replace(".modules_to_save", ""): p for name, p in model.named_parameters()}
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("kind", ["bert", "llama", "roberta"])
def test_a_lane_is_read_back_from_its_adapter_bit_for_bit(kind, data):
    pack = build_pack(kind)
    trial = spec(**{"lora.r": 3})
    (lane,) = start(pack, [trial])
    train(pack, [lane], data, 1)
    back = Lane.from_adapter(trial, lane.adapter_files("base", {}), pack.shape, pack.device)
    assert torch.equal(back.parameters, lane.parameters)


def test_an_adapter_of_another_rank_is_an_error():
    pack = build_pack()
    (lane,) = start(pack, [spec(**{"lora.r": 1})])
    with pytest.raises(StoreError, match="another model or rank"):
        Lane.from_adapter(spec(**{"lora.r": 3}), lane.adapter_files("base", {}), pack.shape, pack.device)


def test_the_config_describes_what_was_trained():
    (lane,) = start(build_pack(), [spec(**{"lora.r": 6, "lora.alpha_ratio": 0.5, "lora.dropout": 0.1})])
    config = json.loads(lane.adapter_files("some/base", {"task_type": "SEQ_CLS"})["adapter_config.json"])
    assert config["base_model_name_or_path"] == "some/base"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (6, 3.0, 0.1)
    assert config["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize("revision", [None, "5f6a7b8"])
def test_the_config_names_the_revision_of_the_base_for_peft(revision, tmp_path):
    from peft import LoraConfig

    (lane,) = start(build_pack(), [spec()])
    config = {"task_type": "SEQ_CLS", "target_modules": ["query"], **({"revision": revision} if revision else {})}
    (tmp_path / "adapter_config.json").write_bytes(lane.adapter_files("some/base", config)["adapter_config.json"])
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == revision
    assert LoraConfig.from_pretrained(str(tmp_path)).revision == revision
