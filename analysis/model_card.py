"""The model card of a final training: README.md beside the adapter, as the Hugging Face hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.analysis.final import score_text
from sweeper.figures.text import markdown_code, markdown_text, plural
from sweeper.types import StudyRecord

__all__ = ["model_card"]

_CLASSES = {"causal_lm": "AutoModelForCausalLM", "text_classification": "AutoModelForSequenceClassification"}


def model_card(training: Mapping[str, Any], study: StudyRecord, *, sweep: str) -> str:
    """Return the text of a model card: what was trained on what, how it scores, every setting, and how to load it.

    Args:
        training: An entry of `final_trainings` that has an adapter.
        study: Its study.
        sweep: Name of the sweep that chose the configuration.
    """
    base = _base(Path(training["adapter"]))
    return "\n".join(
        [
            "---",
            "library_name: peft",
            f"base_model: {json.dumps(base, ensure_ascii=False)}",
            "tags: [lora]",
            "---",
            "",
            f"# LoRA adapter of {markdown_text(base)} for {markdown_text(study.dataset)}",
            "",
            f"Configuration {markdown_code(training['configuration'])} of study {markdown_code(study.source)} in sweep "
            f"{markdown_code(sweep)}, trained by `sweeper train` with seed {training['seed']}.",
            "",
            f"- Rows: {_rows(training, study)}",
            f"- Length: {plural(training['epochs'], 'epoch')}, {training['rows']:,} rows in all; this is the adapter "
            f"after the last epoch{_better(training)}.",
            f"- Scores: {score_text(training)}",
            "- No test row was trained on, and none chose the configuration.",
            "",
            *_table({name: f"{value:.4f}" for name, value in _metrics(training).items()}, "metric"),
            "",
            "## Settings",
            "",
            # Every digit, so that the training can be repeated.
            *_table({key: json.dumps(value) for key, value in training["hyperparameters"].items()}, "setting"),
            "",
            f"{training['num_parameters']:,} trainable parameters. Fingerprint of the rows: `{study.fingerprint}`.",
            "",
            *_labels(study),
            "## Use",
            "",
            "```python",
            *_code(study, base),
            "```",
            "",
        ]
    )


def _base(adapter: Path) -> str:
    return str(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"])


def _rows(training: Mapping[str, Any], study: StudyRecord) -> str:
    rows = (
        f"trained on {training['num_rows']:,} of {training['num_available'] or training['num_rows']:,} available rows"
    )
    if training["includes_validation"]:
        return f"{rows}, the validation rows among them, so none is left to give a validation score."
    validation, test = (study.num_rows.get(split, 0) for split in ("validation", "test"))
    return f"{rows}; {validation:,} validation rows and {test:,} test rows were held out."


def _better(training: Mapping[str, Any]) -> str:
    """Return where the adapter with a higher validation score is, if there is one."""
    if not training["best_rung_text"]:
        return ""
    folder = Path(training["best_rung"]["adapter"]).name if training["best_rung"]["adapter"] else ""
    return f"; it was {training['best_rung_text']}" + (f" (`../{folder}`)" if folder else "")


def _metrics(training: Mapping[str, Any]) -> dict[str, float]:
    """Return every score on validation and test rows."""
    found = {**training["metrics"], **(training["test"]["metrics"] if training["test"] else {})}
    return {name: value for name, value in found.items() if value is not None and not name.startswith("train/")}


def _table(values: Mapping[str, Any], what: str) -> list[str]:
    cells = (f"| {markdown_code(key)} | {value} |" for key, value in values.items())
    return [f"| {what} | value |", "| --- | --- |", *cells]


def _labels(study: StudyRecord) -> list[str]:
    if not study.labels:
        return []
    return ["Labels, in the order of the outputs: " + ", ".join(map(markdown_code, study.labels)) + ".", ""]


def _code(study: StudyRecord, base: str) -> list[str]:
    auto = _CLASSES.get(study.task, "AutoModel")
    count = f", num_labels={len(study.labels)}" if study.task == "text_classification" else ""
    return [
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f"base = {json.dumps(base, ensure_ascii=False)}",
        "tokenizer = AutoTokenizer.from_pretrained(base)",
        f"model = {auto}.from_pretrained(base{count})",
        'model = PeftModel.from_pretrained(model, "path/to/this/folder").eval()',
    ]
