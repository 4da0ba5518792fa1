"""Splits prompts with completions, and finds out whether the completions are a closed set of choices.

A closed set (few completions that repeat) is split like labels: stratified, with one row per prompt. Open completions
have no classes; rows are duplicates only if prompt and completion are equal. `prepare_splits` calls this.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings
from sweeper.data.base import Splits
from sweeper.data.disk import to_dataset
from sweeper.data.labels import check_labels
from sweeper.data.prompts import label_completion
from sweeper.data.splits import Row, check_parts, divide, fingerprint, row_order, same_text

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["split_prompts"]

log = logging.getLogger(__name__)

MAX_CHOICES = 64
MAX_CHOICE_CHARACTERS = 2048
"""Most characters of all choices together, because each row scores all of them in one sequence."""
MIN_ROWS_A_CHOICE = 4


def split_prompts(table: Dataset, settings: DatasetSettings) -> Splits:
    """Deduplicate and split rows.

    Args:
        table: Columns ``prompt`` or ``messages``, ``completion`` and optionally ``split``, all strings.
        settings: Sizes, seed, and the completions if ``labels`` lists them.

    Raises:
        DataError: A split is empty, or a completion is not among those listed.
    """
    kind = "messages" if "messages" in table.column_names else "prompt"
    choices = _choices(list(table["completion"]), settings)
    given = "split" in table.column_names
    rows = _rows(table, kind, settings, is_closed=bool(choices))
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


def _rows(table: Dataset, kind: str, settings: DatasetSettings, *, is_closed: bool) -> list[Row]:
    splits = table["split"] if "split" in table.column_names else [""] * len(table)
    return [
        Row(
            text=text,
            label=completion if is_closed else "",
            split=split,
            order=row_order(settings.seed, same_text(text)),
            key=same_text(text) if is_closed else f"{text}\0{completion}",
            completion=completion,
        )
        for text, completion, split in zip(table[kind], table["completion"], splits, strict=True)
    ]


def _dataset(rows: Sequence[Row], kind: str, choices: Sequence[str]) -> Dataset:
    index = {choice: number for number, choice in enumerate(choices)}
    content = {
        kind: [row.text for row in rows],
        "completion": [row.completion for row in rows],
        "label": [index.get(row.completion, -1) for row in rows],
    }
    return to_dataset(content, {kind: "string", "completion": "string", "label": "int64"})
