"""What a model card says of the prompts of a language model; the rest is tested with `sweeper train`."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sweeper.analysis.model_card import model_card
from tests.builders import make_rows_ref, make_study


@pytest.mark.parametrize(
    ("kind", "chat", "sentence", "is_chat"),
    [
        ("chat", "if_any", "Prompts were put into the tokenizer's chat template.", True),
        ("messages", "for_messages", "Prompts were put into the tokenizer's chat template.", True),
        ("prompt", "if_any", "Prompts were put into the tokenizer's chat template if it has one.", True),
        ("instruction", "always", "Prompts were put into the tokenizer's chat template.", True),
        ("prompt", "for_messages", "Prompts are plain text, without a chat template.", False),
        ("document", "always", "Prompts are plain text, without a chat template.", False),
    ],
)
def test_the_card_says_whether_prompts_went_into_the_chat_template(tmp_path, kind, chat, sentence, is_chat):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/llama"}))
    rows = dataclasses.replace(make_rows_ref("toy"), kind=kind, chat=chat)
    study = make_study(task="causal_lm", labels=(), rows_ref=rows)
    training = {
        "adapter": str(tmp_path),
        "configuration": "trial 9",
        "seed": 0,
        "num_rows": 10,
        "num_available": 10,
        "includes_validation": False,
        "epochs": 1,
        "rows": 10,
        "best_rung_text": "",
        "value": None,
        "test": None,
        "device_s": 1.0,
        "metrics": {},
        "hyperparameters": {"lora.r": 8, "train.head_init": "probe"},
        "num_parameters": 7,
    }
    card = model_card(training, study, sweep="mine")
    assert card.startswith('---\nlibrary_name: peft\nbase_model: "org/llama"\n')
    assert sentence in card
    assert ("apply_chat_template" in card) is is_chat
    assert "train.head_init" not in card
