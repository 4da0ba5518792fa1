"""Splits the rows of a language model, and finds out whether their completions are a closed set of choices.

A closed set (few completions that repeat) is split like labels: stratified, with one row per prompt. Open completions
have no classes; rows are duplicates only if prompt and completion are equal. Of chats, the last answer is the
completion, and a closed set only counts if no other answer is learnt. `prepare_splits` calls this.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings
from sweeper.data.base import Splits
from sweeper.data.chats import has_loss, to_last_answer
from sweeper.data.disk import to_dataset
from sweeper.data.labels import check_labels
from sweeper.data.prompts import label_completion
from sweeper.data.splits import Row, check_parts, divide, fingerprint, row_order, same_text

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["split_prompts"]

log = logging.getLogger(__name__)

KINDS = ("prompt", "instruction", "chat", "document")
"""Kinds of the rows of `prompts.build_prompts`, which are the names of their columns."""
_WITHOUT_COMPLETION = ("chat", "document")
"""Kinds whose content already has all that is learnt."""
MAX_CHOICES = 64
MAX_CHOICE_CHARACTERS = 2048
"""Most characters of all choices together, because each row scores all of them in one sequence."""
MIN_ROWS_A_CHOICE = 4


def split_prompts(table: Dataset, settings: DatasetSettings, *, loss_on: str = "all") -> Splits:
    """Deduplicate and split rows.

    Args:
        table: A column named after the kind of the rows, ``completion`` and optionally ``split`` and ``group``, all
            strings.
        settings: Sizes, seed, and the completions if ``labels`` lists them.
        loss_on: The answers of a chat that are learnt, ``task.loss_on``.

    Raises:
        DataError: A split is empty, or a completion is not among those listed.
    """
    kind = next(name for name in KINDS if name in table.column_names)
    contents, completions = list(table[kind]), list(table["completion"])
    choices = _choices(completions, settings) if _may_be_closed(kind, contents, loss_on) else ()
    if kind == "chat" and choices:
        kind, contents = "messages", [_before_answer(chat) for chat in contents]
    elif kind in _WITHOUT_COMPLETION:
        completions = [""] * len(completions)
    given = "split" in table.column_names
    rows = _rows(table, contents, completions, settings, is_closed=bool(choices))
    parts, num_available = divide(rows, settings, given=given)
    check_parts(parts, settings)
    if choices:
        parts["confirmation"] = [row for row in parts["confirmation"] if row.label in choices]
        check_labels({name: [row.label for row in part] for name, part in parts.items()}, choices, settings)
    made = {name: _dataset(part, kind, choices) for name, part in parts.items()}
    return Splits(
        name=settings.name,
        **made,
        labels=choices,
        fingerprint=fingerprint(parts, choices),
        num_available=num_available,
        kind=kind,
    )


def _may_be_closed(kind: str, contents: Sequence[str], loss_on: str) -> bool:
    """Whether a row has one completion, which may be a choice."""
    if kind != "chat":
        return kind != "document"
    chats = [json.loads(content) for content in contents]
    answers = [sum(map(has_loss, chat["messages"])) for chat in chats]
    return not any("tools" in chat for chat in chats) and (loss_on == "last" or max(answers) == 1)


def _before_answer(chat: str) -> str:
    """Return the messages before the last answer of a chat, as JSON."""
    before = to_last_answer(json.loads(chat)["messages"])[:-1]
    shown = [{"role": message["role"], "content": message["content"]} for message in before]
    return json.dumps(shown, ensure_ascii=False)


def _choices(completions: Sequence[str], settings: DatasetSettings) -> tuple[str, ...]:
    """Return the closed set of completions, in order; empty if they are open."""
    if settings.labels:
        is_made = bool(settings.prompt_template)
        return tuple(label_completion(label, settings) if is_made else label for label in settings.labels)
    found = Counter(completions)
    is_closed = (
        1 < len(found) <= min(MAX_CHOICES, len(completions) // MIN_ROWS_A_CHOICE)
        and sum(map(len, found)) <= MAX_CHOICE_CHARACTERS
    )
    named = ", ".join(repr(choice) for choice in sorted(found)) if is_closed else "not a closed set"
    log.info("dataset %s: %d different completions (%s)", settings.name, len(found), named)
    return tuple(sorted(found)) if is_closed else ()


def _rows(
    table: Dataset, contents: Sequence[str], completions: Sequence[str], settings: DatasetSettings, *, is_closed: bool
) -> list[Row]:
    splits, groups = (table[name] if name in table.column_names else [""] * len(table) for name in ("split", "group"))
    return [
        Row(
            text=text,
            label=completion if is_closed else "",
            split=split,
            order=row_order(settings.seed, same_text(text)),
            key=same_text(text) if is_closed else f"{text}\0{completion}",
            completion=completion,
            group=group,
        )
        for text, completion, split, group in zip(contents, completions, splits, groups, strict=True)
    ]


def _dataset(rows: Sequence[Row], kind: str, choices: Sequence[str]) -> Dataset:
    index = {choice: number for number, choice in enumerate(choices)}
    content = {
        kind: [row.text for row in rows],
        "completion": [row.completion for row in rows],
        "label": [index.get(row.completion, -1) for row in rows],
    }
    return to_dataset(content, {kind: "string", "completion": "string", "label": "int64"})
