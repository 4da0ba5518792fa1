"""Turns the rows of any source into what a language model learns: the table that `completions` splits.

A row holds a chat; a prompt with a completion; an instruction with an output, as in Alpaca; a plain text; or a text and
a label, from which ``prompt_template`` makes a prompt. ``row_format`` says which, or the columns of the first row do.
Chats and instructions stay JSON here, because only `chat_tokens` and `prompt_tokens` know the model's chat template.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.config.settings import DatasetSettings
from sweeper.data.chats import ASSISTANT, chat_json, has_loss, messages_of, without_answer
from sweeper.data.content import shorten
from sweeper.data.disk import to_dataset
from sweeper.data.formats import Row
from sweeper.data.tables import check_text, group_value, is_kept, label_text, label_value, no_rows, split_value
from sweeper.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["build_prompts", "label_completion"]

log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""What a row holds, as its kind stores it, and its completion: of a chat the last answer, of a plain text none."""
Read = Callable[[str, Mapping[str, Any], DatasetSettings], Sequence[Pair]]
"""Reads a row: one pair, or several if it lists texts."""

_FIELD = re.compile(r"\{(\w+)\}")
_CHAT_COLUMNS = ("conversations",)
"""Columns with a chat, if there is none of the name that is set."""
_TEXT_COLUMNS = ("texts",)
"""Columns with a list of texts, if there is none of the name that is set."""


class _IncompleteError(DataError):
    """A row has nothing to learn; it may be left out."""


@dataclass(frozen=True, slots=True)
class _Format:
    """How rows are read."""

    kind: str
    """Of the rows; see `sweeper.data.base.Splits`."""
    read: Read
    columns: str
    """The columns that are read, as the log names them."""


def build_prompts(rows: Iterable[Row], settings: DatasetSettings) -> Dataset:
    """Pick and check the columns of rows.

    Returns:
        A column named after the kind of the rows (see `sweeper.data.base.Splits`), ``completion`` and, if the data has
        them, ``split`` and ``group``; all strings.

    Raises:
        ConfigError: A template names a column that the data does not have.
        DataError: A column, prompt or completion is missing; the message names the row.
    """
    form: _Format | None = None
    contents: list[str] = []
    table: dict[str, list[str]] = {"completion": []}
    has_split = False
    num_kept = num_incomplete = 0
    for where, row in rows:
        if form is None:
            form = _format(where, row, settings)
            has_split = settings.split in row
            log.info("dataset %s: rows are read as %s (%s)", settings.name, form.kind, form.columns)
        if not is_kept(where, row, settings):
            continue
        num_kept += 1
        try:
            pairs = form.read(where, row, settings)
        except _IncompleteError:
            if settings.incomplete == "error":
                raise
            num_incomplete += 1
            continue
        for content, completion in pairs:
            contents.append(content)
            table["completion"].append(completion)
            if has_split:
                table.setdefault("split", []).append(split_value(where, row, settings))
            if settings.group or settings.block_rows:
                table.setdefault("group", []).append(group_value(where, row, settings, number=num_kept))
    if num_incomplete:
        message = "dataset %s: %d of %d rows have nothing to learn (no answer, or an empty one) and were left out"
        log.warning(message, settings.name, num_incomplete, num_kept)
    if form is None or not contents:
        raise no_rows(settings, is_filtered=form is not None)
    return to_dataset({form.kind: contents, **table})


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


def _format(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> _Format:
    """Return the format that is set, or else the first one whose columns a row has."""
    name = settings.row_format if settings.row_format != "auto" else _found(row, settings)
    missing = [column for column in _columns(name, row, settings) if column not in row]
    if name == "" or missing:
        raise _no_format(where, row, settings, name)
    if name == "labelled":
        _check_template(where, row, settings)
    columns = _columns(name, row, settings)
    is_chat = name == "prompt" and any(isinstance(row[column], list) for column in columns)
    kind, read = ("chat", _of_conversation) if is_chat else _FORMATS[name]
    return _Format(kind, read, " and ".join(columns) or settings.prompt_template)


def _found(row: Mapping[str, Any], settings: DatasetSettings) -> str:
    if settings.prompt_template:
        return "labelled"
    for name in ("messages", "prompt", "alpaca", "text"):
        if all(column in row for column in _columns(name, row, settings)):
            # Texts with labels want a template; without one, only an explicit setting ignores the labels.
            return "" if name == "text" and settings.label in row else name
    return ""


def _columns(name: str, row: Mapping[str, Any], settings: DatasetSettings) -> tuple[str, ...]:
    """Return the columns that a format reads."""
    if name == "messages":
        return (_first_of((settings.messages, *_CHAT_COLUMNS), row),)
    if name == "text":
        return (_first_of((settings.text, *_TEXT_COLUMNS), row),)
    return {"prompt": (settings.prompt, settings.completion), "alpaca": ("instruction", "output")}.get(name, ())


def _first_of(columns: Sequence[str], row: Mapping[str, Any]) -> str:
    return next((column for column in columns if column in row), columns[0])


def _no_format(where: str, row: Mapping[str, Any], settings: DatasetSettings, asked: str) -> DataError:
    name, columns = settings.section, ", ".join(map(repr, row))
    if asked:
        missing = [column for column in _columns(asked, row, settings) if column not in row]
        return DataError(
            f"{where} has no column '{missing[0]}', which {name}.row_format={asked} reads; its columns are {columns}. "
            f"{did_you_mean(missing[0], map(str, row))} Name the column, or set {name}.row_format=auto."
        )
    if settings.text in row and settings.label in row:
        return DataError(
            f"{where} has a text and a label, of which a language model needs a prompt. Set {name}.prompt_template, "
            f"e.g. {name}.prompt_template='Question: {{text}} Answer:'; or {name}.row_format=text to learn the texts "
            "and ignore the labels."
        )
    return DataError(
        f"{where} has neither the columns '{settings.prompt}' and '{settings.completion}' nor '{settings.messages}', "
        f"'conversations', 'instruction' and 'output', or '{settings.text}'; its columns are {columns}. Name them with "
        f"{name}.prompt and {name}.completion, {name}.messages or {name}.text; or make prompts of labelled texts, e.g. "
        f"{name}.prompt_template='Question: {{text}} Answer:'."
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


def _of_template(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Sequence[Pair]:
    def filled(match: re.Match[str]) -> str:
        column = settings.text if match[1] == "text" else match[1]
        if row.get(column) is None:
            raise DataError(
                f"{where} has nothing in column '{column}', which the prompt needs: {shorten(dict(row))}. Correct the "
                f"row, or {settings.section}.prompt_template."
            )
        return label_text(row[column])

    prompt = _FIELD.sub(filled, settings.prompt_template)
    return [(check_text(where, prompt), label_completion(label_value(where, row, settings), settings))]


def _of_columns(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Sequence[Pair]:
    prompt, completion = row.get(settings.prompt), row.get(settings.completion)
    for column, value in ((settings.prompt, prompt), (settings.completion, completion)):
        if not isinstance(value, str):
            raise _no_text(where, row, column)
    return [(check_text(where, str(prompt)), _completion(where, str(completion)))]


def _of_conversation(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Sequence[Pair]:
    """Read a prompt and a completion that are lists of messages: only answers of the completion are learnt."""
    before, after = (
        messages_of(where, row.get(column), settings, column=column)
        for column in (settings.prompt, settings.completion)
    )
    fixed = [{**message, "weight": 0} if message["role"] == ASSISTANT else message for message in before]
    return _chat(where, [*fixed, *after], row)


def _of_messages(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Sequence[Pair]:
    (column,) = _columns("messages", row, settings)
    messages = messages_of(where, row.get(column), settings, column=column)
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": check_text(where, system)}, *messages]
    return _chat(where, messages, row)


def _chat(where: str, messages: Sequence[dict[str, Any]], row: Mapping[str, Any]) -> Sequence[Pair]:
    if why := without_answer(messages):
        raise _IncompleteError(f"{where} {why}: {shorten(list(messages))}. Remove the row.")
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(
                f"{where}: column 'tools' is not JSON ({error}): {shorten(tools)}. Correct the row."
            ) from None
    last = [message for message in messages if has_loss(message)][-1]
    return [(chat_json(messages, tools), last["content"])]


def _of_alpaca(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Sequence[Pair]:  # noqa: ARG001  one of the readers
    instruction, more, output = (row.get(column) for column in ("instruction", "input", "output"))
    for column, value in (("instruction", instruction), ("output", output)):
        if not isinstance(value, str):
            raise _no_text(where, row, column)
    more = more if isinstance(more, str) else ""
    parts = [check_text(where, part.strip()) for part in (str(instruction), more)]
    return [(json.dumps(parts, ensure_ascii=False), _completion(where, str(output)))]


def _of_text(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> Sequence[Pair]:
    (column,) = _columns("text", row, settings)
    value = row.get(column)
    texts = value if isinstance(value, list) else [value]
    if not texts or any(text is None or (isinstance(text, str) and not text.strip()) for text in texts):
        raise _IncompleteError(
            f"{where} has no text: column '{column}' is empty in {shorten(dict(row))}. Correct the row."
        )
    if not all(isinstance(text, str) for text in texts):
        raise _no_text(where, row, column)
    return [(check_text(where, str(text)), "") for text in texts]


def _completion(where: str, text: str) -> str:
    if not text.strip():
        raise _IncompleteError(f"{where} has an empty completion. Correct or remove the row.")
    return check_text(where, text)


def _no_text(where: str, row: Mapping[str, Any], column: str) -> DataError:
    value = row.get(column)
    if value is None:
        return _IncompleteError(f"{where} has nothing in column '{column}': {shorten(dict(row))}. Correct the row.")
    kind = type(value).__name__
    return DataError(f"{where} has a {kind}, not text, in column '{column}': {shorten(dict(row))}. Correct the row.")


_FORMATS: Mapping[str, tuple[str, Read]] = {
    "labelled": ("prompt", _of_template),
    "messages": ("chat", _of_messages),
    "prompt": ("prompt", _of_columns),
    "alpaca": ("instruction", _of_alpaca),
    "text": ("document", _of_text),
}
"""Kind and reader of each value of ``row_format``."""
