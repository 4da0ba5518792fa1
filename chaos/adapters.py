"""Scores saved adapters with transformers and PEFT alone, so that an adapter that is not its trial's own is found.

Loads base model and adapter as a user would, without sweeper's model code, and scores row by row.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from sweeper.models.load import quiet

__all__ = ["TOLERANCE", "check_adapter", "stock_scores"]

TOLERANCE = 1e-4
"""Relative, of a loss in float32: a pack of adapters and a single one round differently."""


def check_adapter(
    folder: Path, rows: Dataset, recorded: Mapping[str, float], *, base: Path, num_labels: int, max_length: int
) -> list[str]:
    """Return the metrics by which an adapter differs from the record of its trial, as text; empty if it is the same.

    Args:
        folder: The adapter, in PEFT's format.
        rows: The validation rows that the trial was scored on.
        recorded: Metrics of its last chunk, e.g. ``validation/loss``.
        base: Folder of the base model.
        num_labels: Labels of a classifier; 0 for a language model.
        max_length: Longest row, in tokens.
    """
    scores = stock_scores(folder, rows, base=base, num_labels=num_labels, max_length=max_length)
    return [
        f"{name} is {value:.6g} with PEFT, but {recorded[f'validation/{name}']:.6g} in the record"
        for name, value in scores.items()
        if not math.isclose(value, recorded[f"validation/{name}"], rel_tol=TOLERANCE, abs_tol=1e-6)
    ]


def stock_scores(folder: Path, rows: Dataset, *, base: Path, num_labels: int, max_length: int) -> dict[str, float]:
    """Return accuracy and mean loss of a classifier, or the loss per token of a language model; see `check_adapter`."""
    from peft import PeftModel

    model = _base_model(base, num_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT and transformers warn about each other's calls
        adapted = PeftModel.from_pretrained(model, str(folder)).eval()
        try:
            with torch.no_grad():
                score = _classify if num_labels else _completion_loss
                return score(adapted, _tokenizer(base), rows, max_length)
        finally:
            _base_model.cache_clear()  # PEFT has changed its layers, and a new head may be part of them


@lru_cache(maxsize=1)
def _base_model(base: Path, num_labels: int) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    with quiet():
        if num_labels:
            return AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels)
        return AutoModelForCausalLM.from_pretrained(base)


@lru_cache(maxsize=4)
def _tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


def _classify(model: Any, tokenizer: Any, rows: Iterable[Any], max_length: int) -> dict[str, float]:
    hits, losses = [], []
    for row in rows:
        ids = tokenizer(row["text"], truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0]
        hits.append(int(logits.argmax()) == row["label"])
        losses.append(-torch.log_softmax(logits, 0)[row["label"]].item())
    return {"accuracy": sum(hits) / len(hits), "loss": sum(losses) / len(losses)}


def _completion_loss(model: Any, tokenizer: Any, rows: Iterable[Any], max_length: int) -> dict[str, float]:
    total, num_tokens = 0.0, 0
    for row in rows:
        # The suite's tokenizer has no token that begins a text; its separator ends a completion.
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        assert len(prompt) + len(completion) <= max_length, "the suite's rows are short"
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        total -= torch.log_softmax(logits, 1).gather(1, torch.tensor(completion)[:, None]).sum().item()
        num_tokens += len(completion)
    return {"loss": total / num_tokens}
