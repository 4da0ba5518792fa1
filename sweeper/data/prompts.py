"""Turns the rows of any source into prompts with completions: the table that `completions` splits for a language model.

A row has a prompt and a completion; or messages, of which the assistant's last one is the completion; or a text and a
label, from which ``prompt_template`` makes an instruction. If that is not set, the columns of the first row decide.
Chats stay JSON here, because only `prompt_tokens` knows the model's chat template.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sweeper.config.settings import DatasetSettings
from sweeper.data.content import shorten
from sweeper.data.disk import to_dataset
from sweeper.data.formats import Row
from sweeper.data.tables import check_text, is_kept, label_text, label_value, no_rows, split_value
from sweeper.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["build_prompts", "label_completion"]

log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""A prompt, or the messages before the completion as JSON, and the completion."""

_FIELD = re.compile(r"\{(\w+)\}")


def build_prompts(rows: Iterable[Row], settings: DatasetSettings) -> Dataset:
    """Pick and check the columns of rows.

    Returns:
        Columns ``prompt`` or ``messages``, ``completion`` and, if the data has it, ``split``; all strings.

    Raises:
        ConfigError: A template names a column that the data does not have.
        DataError: A column, prompt or completion is missing; the message names the row.
    """
    kind: str = "prompt"
    pair: Callable[[str, Mapping[str, Any], DatasetSettings], Pair] = _of_columns
    prompts: list[str] = []
    table: dict[str, list[str]] = {"completion": []}
    has_split: bool | None = None
    for where, row in rows:
        if has_split is None:
            kind, pair = _kind(where, row, settings)
            has_split = settings.split in row
        if not is_kept(where, row, settings):
            continue
        prompt, completion = pair(where, row, settings)
        prompts.append(prompt)
        table["completion"].append(completion)
        if has_split:
            table.setdefault("split", []).append(split_value(where, row, settings))
    if not prompts:
        raise no_rows(settings, is_filtered=has_split is not None)
    return to_dataset({kind: prompts, **table})


def label_completion(label: str, settings: DatasetSettings) -> str:
    """Return the completion for a label of the data.

    Raises:
        DataError: ``label_words`` has no word for the label.
    """
    words = settings.label_words
    if words and label not in words:
        raise DataError(
            f"dataset {settings.name}: the label '{label}' has no word in {settings.section}.label_words, which "
            f"has {', '.join(words)}. {did_you_mean(label, words)} Add it."
        )
    return settings.completion_template.replace("{label}", words.get(label, label))


def _kind(
    where: str, row: Mapping[str, Any], settings: DatasetSettings
) -> tuple[str, Callable[[str, Mapping[str, Any], DatasetSettings], Pair]]:
    if settings.prompt_template:
        _check_template(where, row, settings)
        return "prompt", _of_template
    if settings.messages in row:
        return "messages", _of_messages
    if settings.prompt in row and settings.completion in row:
        return "prompt", _of_columns
    name = settings.section
    raise DataError(
        f"{where} has neither the columns '{settings.prompt}' and '{settings.completion}' nor '{settings.messages}'; "
        f"its columns are {', '.join(map(repr, row))}. Name them with {name}.prompt and {name}.completion, or "
        f"{name}.messages; or make prompts of labelled texts, e.g. {name}.prompt_template='Question: {{text}} Answer:'."
    )


def _check_template(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> None:
    key = f"{settings.section}.prompt_template"
    wanted = [settings.text if field == "text" else field for field in _FIELD.findall(settings.prompt_template)]
    if not wanted:
        rule = "must name a column in braces"
        raise ConfigError(key, settings.prompt_template, rule, "For example 'Question: {text} Type:'.")
    missing = [column for column in wanted if column not in row]
    if missing:
        names = ", ".join(map(repr, row))
        rule = f"{where} has no column '{missing[0]}'; its columns are {names}"
        raise ConfigError(key, settings.prompt_template, rule, did_you_mean(missing[0], map(str, row)))
    if "{label}" not in settings.completion_template:
        key = f"{settings.section}.completion_template"
        raise ConfigError(key, settings.completion_template, "must contain {label}", "The default is ' {label}'.")


def _of_template(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Pair:
    def filled(match: re.Match[str]) -> str:
        column = settings.text if match[1] == "text" else match[1]
        if row.get(column) is None:
            raise DataError(
                f"{where} has nothing in column '{column}', which the prompt needs: {shorten(dict(row))}. Correct the "
                f"row, or {settings.section}.prompt_template."
            )
        return label_text(row[column])

    prompt = _FIELD.sub(filled, settings.prompt_template)
    return check_text(where, prompt), label_completion(label_value(where, row, settings), settings)


def _of_columns(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Pair:
    prompt, completion = row.get(settings.prompt), row.get(settings.completion)
    for column, value in ((settings.prompt, prompt), (settings.completion, completion)):
        if not isinstance(value, str):
            kind = "nothing" if value is None else f"a {type(value).__name__}, not text,"
            raise DataError(f"{where} has {kind} in column '{column}': {shorten(dict(row))}. Correct the row.")
    return check_text(where, str(prompt)), _completion(where, str(completion))


def _of_messages(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Pair:
    messages = _messages(where, row.get(settings.messages), settings)
    last = max((n for n, (role, _) in enumerate(messages) if role == "assistant"), default=0)
    if last == 0:
        raise DataError(
            f"{where} has no message of the role 'assistant' after another message, so there is no completion: "
            f"{shorten(row.get(settings.messages))}. Remove the row."
        )
    before = [{"role": role, "content": content} for role, content in messages[:last]]
    return json.dumps(before, ensure_ascii=False), _completion(where, messages[last][1])


def _messages(where: str, value: object, settings: DatasetSettings) -> list[Pair]:
    if isinstance(value, str):  # CSV has no lists
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    found = []
    for message in value if isinstance(value, list) else [None]:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{where}: column '{settings.messages}' must hold a list of messages, each with role and content as "
                f"text, but is {shorten(value)}. Correct the row."
            )
        found.append((role, check_text(where, content)))
    return found


def _completion(where: str, text: str) -> str:
    if not text.strip():
        raise DataError(f"{where} has an empty completion. Correct or remove the row.")
    return check_text(where, text)
