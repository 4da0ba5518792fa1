"""Scores the best adapter of each study of a sweep on the test rows, with stock transformers and PEFT in float32.

The search never sees these rows, so unlike the best of many validation scores they are not too high. Reads best.json
only, so the sweep may come from another version of sweeper.

    python -m benchmarks.held_out --sweep outputs/default --cache ~/.cache/sweeper

Prints one JSON line per study.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs import load_inputs
from benchmarks.record import Row

__all__ = ["main", "score_study"]

_BATCH = 64


def score_study(study: Row, cache: Path, overrides: Sequence[str] = ()) -> Row:
    """Return the best trial's validation score, and its accuracy on the test rows.

    Args:
        study: A study of best.json.
        cache: Folder of fetched models and datasets.
        overrides: Overrides of the sweep that change rows or model.
    """
    inputs = load_inputs(study["dataset"], cache, overrides)
    if study["fingerprint"] != inputs.plan.record.fingerprint:
        raise ValueError(f"{study['name']} was trained on other rows than those of dataset={study['dataset']}")
    best, test = study["best"], inputs.rows.test
    accuracy = _accuracy(inputs.model_dir, Path(best["adapter"]), study["labels"], test["input_ids"], test["label"])
    return {
        "dataset": study["dataset"],
        "trial": best["trial"],
        "params": best["params"],
        "validation": best["value"],
        "validation_rows": study["num_rows"]["validation"],
        "test": accuracy,
        "test_rows": len(test),
    }


def _accuracy(
    model_dir: Path, adapter: Path, labels: Sequence[str], rows: Sequence[Sequence[int]], wanted: Sequence[int]
) -> float:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=len(labels))
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    right = 0
    with torch.inference_mode():
        for first in range(0, len(order), _BATCH):
            chosen = order[first : first + _BATCH]
            batch = tokenizer.pad({"input_ids": [list(rows[index]) for index in chosen]}, return_tensors="pt")
            answers = model(**batch).logits.argmax(-1)
            right += int((answers == torch.tensor([wanted[index] for index in chosen])).sum())
    return right / len(rows)


def main() -> None:
    """Score every study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="Hydra overrides")
    asked = parser.parse_args()
    for study in json.loads((asked.sweep / "best.json").read_text(encoding="utf-8"))["studies"]:
        own = f"dataset.{study['dataset']}."
        overrides = [text for text in asked.overrides if text.startswith(own) or not text.startswith("dataset.")]
        sys.stdout.write(json.dumps(score_study(study, asked.cache.expanduser(), overrides)) + "\n")


if __name__ == "__main__":
    main()
