"""Reads the rows of JSON, CSV, Parquet and pattern-matched text files, one mapping per row.

These readers report a broken row with its number and its content; the builders of `datasets` report neither. `tables`
and `prompts` pick and check the columns.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from sweeper.config.settings import DatasetSettings
from sweeper.data.content import check_encoding, read_bytes, read_text, shorten
from sweeper.errors import ConfigError, DataError, did_you_mean

__all__ = ["ENDINGS", "Row", "check_format", "ending_of", "read_rows"]

Row = tuple[str, Mapping[str, Any]]
"""Place of the row (file and number), and its columns."""

FIELD_LIMIT = 2**31 - 1
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
"""Format of a file by its ending, for ``format: auto``."""


def ending_of(path: PurePath) -> str:
    """Return the ending of a file's name in lower case; that before .gz if it is compressed."""
    name = path.name.lower()
    return PurePath(name.removesuffix(".gz")).suffix


def check_format(path: PurePath, settings: DatasetSettings) -> str:
    """Return the format of a file, without opening it.

    Raises:
        ConfigError: ``format`` is not known, or is auto and the file's name does not tell it; or ``pattern`` or
            ``encoding`` is wrong.
    """
    name, key = settings.format, f"{settings.section}.format"
    if name == "auto":
        name = ENDINGS.get(ending_of(path), "")
        if not name:
            rule = f"the ending of {path.name} is not that of a known format"
            raise ConfigError(key, "auto", rule, f"Set it to one of {', '.join(_READERS)}.")
    if name not in _READERS:
        rule = f"must be auto or one of {', '.join(_READERS)}"
        raise ConfigError(key, name, rule, did_you_mean(name, _READERS) or f"For example {key}=jsonl.")
    check_encoding(settings)
    if name == "lines":
        _compiled(settings)
    return name


def read_rows(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        ConfigError: ``format``, ``pattern`` or ``encoding`` is wrong.
        DataError: The file cannot be read, or a row is broken; the message gives its number.
    """
    return _READERS[check_format(path, settings)](path, settings)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Only newlines end a line: str.splitlines would also split at U+2028 and U+0085, which occur inside texts.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _read_jsonl(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    text = read_text(path, settings)
    if text.lstrip().startswith("["):
        yield from _read_array(path, text, settings)
        return
    if (whole := _single_object(text)) is not None:
        yield from _read_object(path, whole, settings)
        return
    for number, line in _lines(text):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path} line {number} is not JSON ({error}): {shorten(line)}. Each line must be one JSON object; or "
                "the whole file one JSON array of objects."
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path} line {number} is not a JSON object: {shorten(line)}. Each line must be one JSON object."
            )
        yield f"{path} line {number}", row


def _single_object(text: str) -> dict[str, Any] | None:
    """Return the content of a file that is one JSON object; None if it holds one object a line, or something else."""
    lines = [line for _, line in itertools.islice(_lines(text), 2)]
    if not lines or not lines[0].lstrip().startswith("{"):
        return None
    with suppress(ValueError):
        json.loads(lines[0])
        if len(lines) > 1:
            return None  # the first line is an object of its own
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _read_object(path: Path, whole: dict[str, Any], settings: DatasetSettings) -> Iterator[Row]:
    """Yield the rows of a file that is one JSON object: of rows by name, of a list of rows, or a row itself."""
    values = list(whole.values())
    if values and all(isinstance(value, dict) for value in values):
        for name, row in whole.items():
            yield f"{path} item {name}", row
    elif len(values) == 1 and isinstance(values[0], list) and values[0] and isinstance(values[0][0], dict):
        if next(iter(whole)) in (settings.messages, "conversations"):  # one row with one chat
            yield f"{path} line 1", whole
            return
        yield from _checked_items(path, values[0], settings)
    else:
        yield f"{path} line 1", whole


def _read_array(path: Path, text: str, settings: DatasetSettings) -> Iterator[Row]:
    """Yield the objects of a file that is one JSON array, as many programs write it."""
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{path} begins with [ but is not one JSON array ({error}). Correct it, or write one JSON object on each "
            "line, without brackets around them."
        ) from None
    yield from _checked_items(path, rows, settings)


def _checked_items(path: Path, rows: Sequence[Any], settings: DatasetSettings) -> Iterator[Row]:
    """Yield the items of an array: rows, or plain texts."""
    for number, item in enumerate(rows, start=1):
        row = {settings.text: item} if isinstance(item, str) else item
        if not isinstance(row, dict):
            raise DataError(
                f"{path} item {number} is not a JSON object: {shorten(row)}. Each item of the array must be one, e.g. "
                '{"text": "...", "label": "..."}; or a text, if only texts are learnt.'
            )
        yield f"{path} item {number}", row


def _read_csv(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    csv.field_size_limit(FIELD_LIMIT)  # some reviews are longer than the default of 128 KiB
    text = read_text(path, settings)
    delimiter = max(",;\t", key=text.split("\n", maxsplit=1)[0].count)
    # strict, because otherwise a quote that is never closed takes in the rest of the file without an error.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    begin = 1
    try:
        for fields in reader:
            if header and fields:
                where = f"{path} line {begin}"
                if len(fields) != len(header):
                    shown = shorten(",".join(fields))
                    raise DataError(
                        f"{where} has {len(fields)} fields, but the header has {len(header)}: {shown}. Correct the row."
                    )
                yield where, dict(zip(header, fields, strict=True))
            if fields and not header:
                header = fields
                _check_header(path, header)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path} line {begin} is not CSV ({error}). Correct the row; a quote inside a field must be doubled."
        ) from None


def _check_header(path: Path, header: list[str]) -> None:
    # Empty names are common: a delimiter at the end of each line makes one.
    twice = [name for name, count in Counter(header).items() if count > 1 and name.strip()]
    if twice:
        places = ", ".join(str(n) for n, name in enumerate(header, start=1) if name == twice[0])
        raise DataError(
            f"{path}: the header has the column {twice[0]!r} more than once (fields {places}), so it is not clear "
            "which one is meant. Rename all but one of them in the file."
        )


def _read_parquet(path: Path, settings: DatasetSettings) -> Iterator[Row]:  # noqa: ARG001  called like the other readers
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(_plain_parquet(path)) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet after row {number}: {error}") from error


def _plain_parquet(path: Path) -> Path | io.BytesIO:
    """Return the file, or its decompressed content if it is gzip: Parquet files are read in parts, gzip as a whole."""
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    return path if is_parquet else io.BytesIO(read_bytes(path))


def _compiled(settings: DatasetSettings) -> re.Pattern[str]:
    key, example = f"{settings.section}.pattern", r"For example (?P<label>\w+):(?P<text>.+)"
    try:
        pattern = re.compile(settings.pattern)
    except re.error as error:
        raise ConfigError(key, settings.pattern, f"is not a regular expression: {error}", example) from None
    if not pattern.groupindex:
        raise ConfigError(key, settings.pattern, "must have named groups, which are the columns", example)
    return pattern


def _read_pattern(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    pattern = _compiled(settings)
    for number, line in _lines(read_text(path, settings)):
        match = pattern.fullmatch(line)
        if match is None:
            remedy = f"Correct the line or {settings.section}.pattern={settings.pattern}"
            raise DataError(f"{path} line {number} does not match the pattern: {shorten(line)}. {remedy}")
        yield f"{path} line {number}", match.groupdict()


_READERS = {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet, "lines": _read_pattern}
