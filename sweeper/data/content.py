"""Reads the content of a user's file: decompresses gzip, and decodes text. `formats` makes rows of it.

A file is what its first bytes say, whatever its name. An encoding is never guessed silently: one that is detected is
logged with a line as it reads in that encoding, and if two encodings are equally likely, the user decides.
"""

from __future__ import annotations

import codecs
import gzip
import logging
import zlib
from pathlib import Path

from charset_normalizer import CharsetMatch, from_bytes

from sweeper.config.settings import DatasetSettings
from sweeper.errors import ConfigError, DataError

__all__ = ["check_encoding", "read_bytes", "read_text", "shorten"]

log = logging.getLogger(__name__)

SHOWN_CHARACTERS = 80
AUTO = "auto"

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT = (
    (b"PK\x03\x04", b"", "a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV"),
    (b"PAR1", b"PAR1", "a Parquet file", "Set {section}.format=parquet"),
    (b"BZh91AY&SY", b"", "compressed with bzip2", "Decompress it, or compress it with gzip"),
    (b"\xfd7zXZ\x00", b"", "compressed with xz", "Decompress it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", b"", "compressed with zstd", "Decompress it, or compress it with gzip"),
)
"""First and last bytes of files that users take for text, what they are, and what to do."""

_MOST_SHOWN = 4
"""Encodings that a message names at most."""
_UTF8_SHARE = 0.2
"""Share of lines that are UTF-8 beyond ASCII, by accident hardly any, above which the others are broken UTF-8."""
_SAMPLE_BYTES = 50_000
"""Bytes of lines with other characters than ASCII that the encoding is detected from."""
_ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("iso8859_2", "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "cp949", "mac_roman"),
)
"""Encodings that are considered, the most common first. Rarer ones would only be mistaken for these."""
_NEVER_CERTAIN = ("mac_roman",)
"""An encoding that files hardly have any more, and that reads well what other ones mean."""
_MOST_CHAOS, _LEAST_COHERENCE = 0.1, 0.2
_CHAOS_APART, _COHERENCE_APART = 0.05, 0.2
"""How certain a detection must be, on the scales of `CharsetMatch`.

With these bounds, none of 4,000 random samples of 1 to 40 rows (``tests/data/languages.py``) was misread and a third
was read; for the others, the user has to choose. With 0.1 as the last bound, 2 were misread.
"""


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzip.

    Raises:
        DataError: The file cannot be read, or its gzip is damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged gzip ({error}). Compress it again, or copy it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Check the file and its permissions.") from error


def read_text(path: Path, settings: DatasetSettings) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: ``encoding`` is unknown.
        DataError: The file cannot be read or is not text, or its encoding is not certain.
    """
    check_encoding(settings)
    content = read_bytes(path)
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "")
    if not marked:
        _check_is_text(path, content, settings)
    if settings.encoding.lower() != AUTO:
        return _decoded(path, content, settings, marked)
    if marked:
        return _marked(path, content, marked, settings)
    if b"\0" in content:
        raise _no_text(path, content, settings)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if _is_mostly_utf8(content):
            raise _undecodable(path, content, error, settings, "", encoding="UTF-8 like the other lines") from None
        return _detected(path, content, settings)


def check_encoding(settings: DatasetSettings) -> None:
    """Check that Python knows the encoding.

    Raises:
        ConfigError: It does not.
    """
    try:
        is_text = settings.encoding.lower() == AUTO or "".encode(settings.encoding) is not None
    except (LookupError, ValueError):  # ValueError: a name with a null character
        is_text = False
    if not is_text:
        rule = "is not an encoding that Python knows"
        remedy = "For example auto, utf-8, latin-1 or utf-16."
        raise ConfigError(f"{settings.section}.encoding", settings.encoding, rule, remedy)


def shorten(content: object) -> str:
    """Return content as an error message shows it, cut to a readable length."""
    shown = content if isinstance(content, str) else repr(content)
    return repr(shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}...")


def _check_is_text(path: Path, content: bytes, settings: DatasetSettings) -> None:
    for first, last, kind, remedy in _NOT_TEXT:
        if content.startswith(first) and content.endswith(last):
            raise DataError(f"{path} is {kind}, not text. {remedy.format(section=settings.section)}.")


def _decoded(path: Path, content: bytes, settings: DatasetSettings, marked: str) -> str:
    """Return the content in the encoding that the settings name."""
    # Spreadsheets write a byte order mark; utf-8-sig removes it, and reads plain UTF-8 as well.
    encoding = "utf-8-sig" if codecs.lookup(settings.encoding).name == "utf-8" else settings.encoding
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _undecodable(path, content, error, settings, marked or AUTO) from None
    except UnicodeError as error:  # UTF-16 and UTF-32 without a mark, or with a wrong one
        remedy = f"Set {settings.section}.encoding={marked or AUTO}."
        raise DataError(f"{path} is not {settings.encoding} ({error}). {remedy}") from None


def _marked(path: Path, content: bytes, marked: str, settings: DatasetSettings) -> str:
    """Return the content in the encoding of its byte order mark."""
    try:
        text = content.decode(marked)
    except UnicodeDecodeError as error:
        raise _undecodable(path, content, error, settings, "", encoding=marked) from None
    if marked != "utf-8-sig":
        log.info("%s is read as %s, which its byte order mark says", path, marked)
    return text


def _undecodable(
    path: Path,
    content: bytes,
    error: UnicodeDecodeError,
    settings: DatasetSettings,
    better: str,
    *,
    encoding: str = "",
) -> DataError:
    line = content[: error.start].count(b"\n") + 1
    near = shorten(content[max(0, error.start - 30) : error.start + 30])
    remedy = f"Set {settings.section}.encoding={better}" if better else "Correct the line, or save the file again"
    return DataError(f"{path} line {line} is not {encoding or settings.encoding}: {near}. {remedy}.")


def _no_text(path: Path, content: bytes, settings: DatasetSettings) -> DataError:
    """Return the error of a file with null characters: text in UTF-16 without a mark, or no text at all."""
    even, odd = content[:_SAMPLE_BYTES:2].count(0), content[1:_SAMPLE_BYTES:2].count(0)
    name = "utf-16-le" if odd > 10 * even else "utf-16-be" if even > 10 * odd else ""
    if name:
        remedy = f"It seems to be UTF-16 without a byte order mark: set {settings.section}.encoding={name}."
    else:
        remedy = f"It seems not to be a text file: check {settings.section}.path, or save the rows as JSONL or CSV."
    return DataError(f"{path} holds null characters. {remedy}")


def _detected(path: Path, content: bytes, settings: DatasetSettings) -> str:
    """Return the content in the encoding that it is most likely to have."""
    sample = _other_lines(content)
    found = [match for match in from_bytes(sample, cp_isolation=[*_ENCODINGS]) if _decodes(content, match.encoding)]
    others = [match for match in found[1:] if str(match) != str(found[0])]
    if not found or not _is_certain(found[0], others):
        raise _uncertain(path, content, {_name(match) for match in [*found[:1], *others]}, settings)
    name = _name(found[0])
    message = "%s is not UTF-8 and is read as %s, which was detected, e.g. %s; if that is wrong, set %s.encoding"
    log.warning(message, path, name, _shown_line(sample, name), settings.section)
    return content.decode(found[0].encoding)


def _name(match: CharsetMatch) -> str:
    """Return the best-known name of those encodings that read the same text."""
    return min({match.encoding, *match.could_be_from_charset} & {*_ENCODINGS}, key=_ENCODINGS.index)


def _other_lines(content: bytes) -> bytes:
    """Return lines with other characters than ASCII: the others say nothing about the encoding."""
    found, size = [], 0
    for line in content.split(b"\n"):
        if not line.isascii():
            found.append(line[:_SAMPLE_BYTES])
            size += len(found[-1])
            if size >= _SAMPLE_BYTES:
                break
    return b"\n".join(found)


def _is_mostly_utf8(content: bytes) -> bool:
    lines = _other_lines(content).split(b"\n")
    return sum(_decodes(line, "utf-8") for line in lines) > _UTF8_SHARE * len(lines)


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeError:
        return False
    return True


def _is_certain(best: CharsetMatch, others: list[CharsetMatch]) -> bool:
    """Whether the best match is good, and much better than all that read another text."""
    # Several bytes a character follow rules that other text breaks. If each byte is a character, only the words of a
    # language tell encodings apart, and English words around a foreign one look the same in all of them.
    is_multibyte = best.multi_byte_usage > 0
    if best.encoding in _NEVER_CERTAIN or best.chaos > _MOST_CHAOS:
        return False
    if not is_multibyte and best.coherence < _LEAST_COHERENCE:
        return False
    return not any(
        other.coherence >= best.coherence - _COHERENCE_APART
        and (not is_multibyte or other.chaos <= best.chaos + _CHAOS_APART)
        for other in others
    )


def _uncertain(path: Path, content: bytes, encodings: set[str], settings: DatasetSettings) -> DataError:
    names = sorted(encodings, key=_ENCODINGS.index)[:_MOST_SHOWN] or [_ENCODINGS[0]]
    sample, lines = _other_lines(content), content.split(b"\n")
    number = next(n for n, text in enumerate(lines, start=1) if not text.isascii())
    read = " or ".join(f"{_shown_line(sample, name)} in {name}" for name in names)
    return DataError(
        f"{path} line {number} is not UTF-8, and its encoding is not certain: it reads {read}. Set the right one, e.g. "
        f"{settings.section}.encoding={names[0]}, or save the file as UTF-8."
    )


def _shown_line(sample: bytes, encoding: str) -> str:
    # The part around the first character that is not ASCII, which is what the user must judge.
    text = sample.decode(encoding, errors="replace")
    first = next((n for n, character in enumerate(text) if not character.isascii()), 0)
    return shorten(text[max(0, first - 20) : first + 20].strip().split("\n")[0])
