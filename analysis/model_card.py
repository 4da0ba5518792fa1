"""The model card of a final training: README.md beside the adapter, as the Hugging Face hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.analysis.final import score_text
from sweeper.config.settings import DatasetSettings
from sweeper.figures.text import markdown_code, markdown_text, plural
from sweeper.types import StudyRecord

__all__ = ["model_card"]

_CAUSAL = "causal_lm"
_CHAT_USES = {
    "always": "Prompts were put into the tokenizer's chat template.",
    "if_any": "Prompts were put into the tokenizer's chat template if it has one.",
    "never": "Prompts are plain text, without a chat template.",
}
_CLASSES = {"causal_lm": "AutoModelForCausalLM", "text_classification": "AutoModelForSequenceClassification"}


def model_card(
    training: Mapping[str, Any], study: StudyRecord, *, sweep: str, dataset: DatasetSettings | None = None
) -> str:
    """Return the text of a model card: what was trained on what, how it scores, every setting, and how to load it.

    Args:
        training: An entry of `final_trainings` that has an adapter.
        study: Its study.
        sweep: Name of the sweep that chose the configuration.
        dataset: Settings of its dataset, which say how prompts were made.
    """
    base = _base(Path(training["adapter"]))
    is_local = Path(base).is_absolute()
    name = Path(base).name if is_local else base
    has_head = study.task != _CAUSAL
    return "\n".join(
        [
            "---",
            "library_name: peft",
            # The hub accepts no path here.
            *([] if is_local else [f"base_model: {json.dumps(base, ensure_ascii=False)}"]),
            "tags: [lora]",
            "---",
            "",
            f"# LoRA adapter of {markdown_text(name)} for {markdown_text(study.dataset)}",
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
            *_table({key: json.dumps(value) for key, value in _settings(training, has_head=has_head)}, "setting"),
            "",
            f"{training['num_parameters']:,} trainable parameters. Fingerprint of the rows: `{study.fingerprint}`.",
            "",
            *_labels(study, has_head=has_head),
            *_prompts(study, dataset),
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


def _settings(training: Mapping[str, Any], *, has_head: bool) -> list[tuple[str, Any]]:
    return [
        (key, value)
        for key, value in training["hyperparameters"].items()
        if has_head or not key.startswith("train.head_")
    ]


def _labels(study: StudyRecord, *, has_head: bool) -> list[str]:
    if not study.labels:
        return []
    what = "Labels, in the order of the outputs" if has_head else "Answers, of which the likeliest was scored"
    return [f"{what}: " + ", ".join(map(markdown_code, study.labels)) + ".", ""]


def _prompts(study: StudyRecord, dataset: DatasetSettings | None) -> list[str]:
    """Return what prompts were, as far as it is known; empty for a classifier."""
    rows = study.rows_ref
    if study.task != _CAUSAL or rows is None:
        return []
    found = []
    if dataset is not None and dataset.prompt_template and rows.kind == "prompt":
        template, answer = (
            json.dumps(text, ensure_ascii=False) for text in (dataset.prompt_template, dataset.completion_template)
        )
        found.append(
            f"Prompts were made from the columns of a row by {markdown_code(template)}, answers by "
            f"{markdown_code(answer)} (as JSON strings)."
        )
    found.append(f"{_CHAT_USES[_chat(study)]} Rows had at most {rows.max_length:,} tokens.")
    return ["## Prompts", "", *(f"- {line}" for line in found), ""]


def _chat(study: StudyRecord) -> str:
    """Return when prompts went into the chat template, a key of `_CHAT_USES`."""
    rows = study.rows_ref
    if rows is None:
        return "never"
    if rows.kind in ("messages", "chat"):
        return "always"
    # `for_messages` means not for these, and plain texts have no prompts.
    return "never" if rows.kind == "document" or rows.chat == "for_messages" else rows.chat


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
        *(_generate(study) if study.task == _CAUSAL else ()),
    ]


def _generate(study: StudyRecord) -> list[str]:
    inputs = 'inputs = tokenizer("your prompt", return_tensors="pt")'
    if _chat(study) != "never":
        inputs = (
            'inputs = tokenizer.apply_chat_template([{"role": "user", "content": "your prompt"}], '
            'add_generation_prompt=True, return_dict=True, return_tensors="pt")'
        )
    return ["", inputs, "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))"]
