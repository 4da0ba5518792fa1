"""Reads the rows of JSONL, CSV, Parquet and pattern-matched text files, one mapping per row.

These readers report a broken row with its number and its content; the builders of `datasets` report neither. `tables`
and `prompts` pick and check the columns.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.config.settings import DatasetSettings
from sweeper.errors import ConfigError, DataError, did_you_mean

__all__ = ["ENDINGS", "Row", "read_rows", "shorten"]

Row = tuple[str, Mapping[str, Any]]
"""Place of the row (file and number), and its columns."""

FIELD_LIMIT = 2**31 - 1
SHOWN_CHARACTERS = 80
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
"""Format of a file by its ending, for ``format: auto``."""


def read_rows(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        ConfigError: ``format``, ``pattern`` or ``encoding`` is wrong.
        DataError: The file cannot be read, or a row is broken; the message gives its number.
    """
    name = settings.format
    if name == "auto":
        name = ENDINGS.get(path.suffix.lower(), "")
        if not name:
            rule = f"the ending of {path.name} is not that of a known format"
            raise ConfigError(_key(settings, "format"), "auto", rule, f"Set it to one of {', '.join(_READERS)}.")
    if name not in _READERS:
        rule = f"must be auto or one of {', '.join(_READERS)}"
        raise ConfigError(_key(settings, "format"), name, rule, did_you_mean(name, _READERS))
    return _READERS[name](path, settings)


def shorten(content: object) -> str:
    """Return content as an error message shows it, cut to a readable length."""
    shown = content if isinstance(content, str) else repr(content)
    return repr(shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}...")


def _key(settings: DatasetSettings, name: str) -> str:
    return f"dataset.{settings.name}.{name}"


def _read_text(path: Path, settings: DatasetSettings) -> str:
    # Spreadsheets write a byte order mark; utf-8-sig removes it, and reads plain UTF-8 as well.
    encoding = "utf-8-sig" if settings.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else settings.encoding
    try:
        content = path.read_bytes()
        return content.decode(encoding)
    except LookupError:
        rule = "is not an encoding that Python knows"
        raise ConfigError(_key(settings, "encoding"), encoding, rule, "For example utf-8, latin-1 or utf-16.") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        near = shorten(content[max(0, error.start - 30) : error.start + 30])
        raise DataError(
            f"{path} line {line} is not {settings.encoding}: {near}. "
            f"Set {_key(settings, 'encoding')}, for example to latin-1."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _lines(path: Path, settings: DatasetSettings) -> Iterator[tuple[int, str]]:
    # Only newlines end a line: str.splitlines would also split at U+2028 and U+0085, which occur inside texts.
    for number, line in enumerate(_read_text(path, settings).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _read_jsonl(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    for number, line in _lines(path, settings):
        try:
            row = json.loads(line)
        except ValueError as error:
            is_array = number == 1 and line[0] == "["
            rule = "Each line must be one JSON object" + (", not part of one JSON array." if is_array else ".")
            raise DataError(f"{path} line {number} is not JSON ({error}): {shorten(line)}. {rule}") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path} line {number} is not a JSON object: {shorten(line)}. Each line must be one JSON object."
            )
        yield f"{path} line {number}", row


def _read_csv(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    csv.field_size_limit(FIELD_LIMIT)  # some reviews are longer than the default of 128 KiB
    text = _read_text(path, settings)
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
            header = header or fields
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path} line {begin} is not CSV ({error}). Correct the row; a quote inside a field must be doubled."
        ) from None


def _read_parquet(path: Path, settings: DatasetSettings) -> Iterator[Row]:  # noqa: ARG001  called like the other readers
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet after row {number}: {error}") from error


def _read_pattern(path: Path, settings: DatasetSettings) -> Iterator[Row]:
    try:
        pattern = re.compile(settings.pattern)
    except re.error as error:
        raise ConfigError(
            _key(settings, "pattern"), settings.pattern, f"is not a regular expression: {error}", "Correct it."
        ) from None
    if not pattern.groupindex:
        rule = "must have named groups, which are the columns"
        raise ConfigError(_key(settings, "pattern"), settings.pattern, rule, r"For example (?P<label>\w+):(?P<text>.+)")
    for number, line in _lines(path, settings):
        match = pattern.fullmatch(line)
        if match is None:
            remedy = f"Correct the line or {_key(settings, 'pattern')}={settings.pattern}"
            raise DataError(f"{path} line {number} does not match the pattern: {shorten(line)}. {remedy}")
        yield f"{path} line {number}", match.groupdict()


_READERS = {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet, "lines": _read_pattern}
