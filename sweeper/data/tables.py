"""Turns the rows of any source into the table that `splits` takes: text, label and, if the data has it, split.

Every column is a string. A missing or broken value is an error with the number of its row; no row is dropped silently,
except those that the setting ``where`` filters out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.config.settings import DatasetSettings
from sweeper.data.content import shorten
from sweeper.data.disk import to_dataset
from sweeper.data.formats import Row, read_rows
from sweeper.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Builder",
    "build_table",
    "check_text",
    "group_value",
    "is_kept",
    "label_text",
    "label_value",
    "no_rows",
    "read_table",
    "split_value",
]

Builder = Callable[[Iterable[Row], DatasetSettings], "Dataset"]
"""Makes a table of rows: `build_table`, or `prompts.build_prompts`."""


def read_table(paths: Sequence[Path], settings: DatasetSettings, build: Builder) -> Dataset:
    """Read files with equal columns into one table.

    Args:
        paths: The files, in the order of the rows.
        settings: Columns, format and filter.
        build: Makes the table.

    Raises:
        ConfigError: The format, pattern or encoding is wrong.
        DataError: A column is missing or a row is broken.
    """
    return build((row for path in paths for row in read_rows(path, settings)), settings)


def build_table(rows: Iterable[Row], settings: DatasetSettings) -> Dataset:
    """Pick and check the columns of rows.

    Raises:
        DataError: A column is missing, or a text or label is empty; the message names the row.
    """
    table: dict[str, list[str]] = {"text": [], "label": []}
    has_split: bool | None = None
    num_kept = 0
    for where, row in rows:
        if has_split is None:
            _check_columns(where, row, settings)
            has_split = settings.split in row
        if not is_kept(where, row, settings):
            continue
        table["text"].append(_text(where, row, settings))
        table["label"].append(label_value(where, row, settings))
        if has_split:
            table.setdefault("split", []).append(split_value(where, row, settings))
        num_kept += 1
        if settings.group or settings.block_rows:
            table.setdefault("group", []).append(group_value(where, row, settings, number=num_kept))
    if not table["text"]:
        raise no_rows(settings, is_filtered=has_split is not None)
    return to_dataset(table)


def no_rows(settings: DatasetSettings, *, is_filtered: bool) -> DataError:
    """Return the error of a dataset without rows.

    Args:
        settings: The dataset.
        is_filtered: Whether there were rows before the filter ``where``.
    """
    key = f"{settings.section}.where"
    cause = f"no row has {settings.where}. Correct {key}" if is_filtered and settings.where else "it has no rows"
    return DataError(f"dataset {settings.name} is empty: {cause}.")


def label_text(value: object) -> str:
    """Return a label as a string: integers without a decimal point, booleans in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _check_columns(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> None:
    wanted = [("text", settings.text), ("label", settings.label), *(("where", column) for column in settings.where)]
    for key, column in wanted:
        if column not in row:
            names = ", ".join(map(repr, row))
            remedy = "Correct {0}." if key == "where" else "Set {0} to the name of the column."
            raise DataError(
                f"{where} has no column '{column}'; its columns are {names}. {did_you_mean(column, map(str, row))} "
                f"{remedy.format(f'{settings.section}.{key}')}"
            )


def is_kept(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> bool:
    """Whether a row passes the filter ``where``.

    Raises:
        DataError: The row lacks a column of the filter; the message names the row.
    """
    for column, wanted in settings.where.items():
        if column not in row:
            key = f"{settings.section}.where"
            raise DataError(f"{where} has no column '{column}', which {key} filters by. Correct the row or {key}.")
        if label_text(row[column]) != label_text(wanted):
            return False
    return True


def _text(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> str:
    value = row.get(settings.text)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(
            f"{where} has no text: column '{settings.text}' is empty in {shorten(dict(row))}. Correct the row."
        )
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column '{settings.text}' holds a {type(value).__name__}, not text: {shorten(value)}. "
            f"Set {settings.section}.text to the column with the text."
        )
    return check_text(where, value)


def check_text(where: str, text: str) -> str:
    """Return a text that can be encoded.

    Raises:
        DataError: It holds half a surrogate pair, which JSON can escape but UTF-8 cannot encode.
    """
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(
            f"{where} holds half a surrogate pair, which is not valid text: {shorten(text)}. Correct the row."
        )
    return text


def label_value(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> str:
    """Return the label of a row.

    Raises:
        DataError: The row has no usable label; the message names the row.
    """
    value = row.get(settings.label)
    is_number = isinstance(value, float) and value == value  # noqa: PLR0124  tables write a missing number as NaN
    if not (isinstance(value, str | int) or is_number) or not label_text(value):
        kind = (
            "no label"
            if value in (None, "") or isinstance(value, str | float)
            else f"a {type(value).__name__} as label"
        )
        raise DataError(
            f"{where} has {kind}: column '{settings.label}' is {shorten(value)} in {shorten(dict(row))}. "
            f"Correct the row, or set {settings.section}.label to the column with the label."
        )
    return label_text(value)


def split_value(where: str, row: Mapping[str, Any], settings: DatasetSettings) -> str:
    """Return the name of a row's split.

    Raises:
        DataError: The row names no split; the message names the row.
    """
    value = row.get(settings.split)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{where} names no split: column '{settings.split}' is {shorten(value)}. Name one in every row, or set "
            f"{settings.section}.split=none."
        )
    return value.strip()


def group_value(where: str, row: Mapping[str, Any], settings: DatasetSettings, *, number: int) -> str:
    """Return the group of a row, whose rows stay in one split.

    Args:
        where: Place of the row.
        row: The row.
        settings: The column, or the number of rows of a block.
        number: Number of the row, from 1.

    Raises:
        DataError: The row has no value in the column; the message names the row.
    """
    if not settings.group:
        return f"block {(number - 1) // settings.block_rows}"
    value = row.get(settings.group)
    if value is None or not label_text(value):
        raise DataError(
            f"{where} has nothing in column '{settings.group}', which {settings.section}.group names: "
            f"{shorten(dict(row))}. Correct the row or the setting."
        )
    return label_text(value)
