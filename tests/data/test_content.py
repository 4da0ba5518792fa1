"""Encodings, compression, and files that are no text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.config.settings import DatasetSettings
from sweeper.data.content import read_text
from sweeper.data.files import identity
from sweeper.data.tables import build_table, read_table
from sweeper.errors import ConfigError, DataError, SweeperError
from tests.data.languages import sample

CSV = "text,label\nça va,a\nnaïve,b\n"
ROWS = [{"text": "ça va", "label": "a"}, {"text": "naïve", "label": "b"}]
NUM_SAMPLES = 150


def mine(**settings):
    return DatasetSettings(name="mine", **settings)


def text_of(tmp_path, content, **settings):
    (tmp_path / "a.csv").write_bytes(content)
    return read_text(tmp_path / "a.csv", mine(**settings))


def rows_of(path, **settings):
    return read_table([path], mine(**settings), build_table).to_list()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding):
    assert text_of(tmp_path, CSV.encode(encoding)) == CSV


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named_and_then_read(tmp_path, encoding):
    with pytest.raises(DataError, match=rf"null characters.*set dataset\.mine\.encoding={encoding}\."):
        text_of(tmp_path, CSV.encode(encoding))
    assert text_of(tmp_path, CSV.encode(encoding), encoding=encoding) == CSV


def test_an_encoding_that_is_set_overrides_the_detection(tmp_path):
    assert text_of(tmp_path, "déjà".encode("koi8_u", "replace") + "é".encode("latin-1"), encoding="latin-1")[-1] == "é"


def test_a_wrong_encoding_names_the_line_and_the_right_setting(tmp_path):
    with pytest.raises(DataError, match=r"line 1 is not utf-8: .*Set dataset\.mine\.encoding=utf-16"):
        text_of(tmp_path, CSV.encode("utf-16"), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2 is not ascii: .*Set dataset\.mine\.encoding=auto"):
        text_of(tmp_path, CSV.encode(), encoding="ascii")


def test_an_unknown_encoding_is_an_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        text_of(tmp_path, b"", encoding="utf-61")
    assert (caught.value.key, caught.value.value) == ("dataset.mine.encoding", "utf-61")


def test_a_detected_encoding_is_logged_with_a_line_as_it_reads(tmp_path, caplog):
    text = "text,label\n" + "".join(f"Привет как дела номер {n},a\n" for n in range(20))
    assert text_of(tmp_path, text.encode("cp1251")) == text
    assert "is read as cp1251, which was detected, e.g. 'Привет" in caplog.text
    assert "dataset.mine.encoding" in caplog.text


def test_an_encoding_that_is_not_certain_is_for_the_user_to_choose(tmp_path):
    with pytest.raises(DataError) as caught:
        text_of(tmp_path, "text,label\nok,1\nété,0\n".encode("latin-1"))
    said = str(caught.value)
    assert "line 3 is not UTF-8" in said
    assert "'été,0' in cp1252 or 'йtй,0' in cp1251" in said
    assert "dataset.mine.encoding=cp1252" in said


def test_no_text_is_read_in_a_wrong_encoding(tmp_path):
    found = Counter()
    for seed in range(NUM_SAMPLES):
        text, encoding = sample(seed)
        try:
            read = text_of(tmp_path, text.encode(encoding, "replace"))
        except SweeperError:
            found["asked"] += 1
        else:
            found["right" if read == text.encode(encoding, "replace").decode(encoding) else f"wrong {seed}"] += 1
    assert set(found) == {"asked", "right"}
    assert found["right"] > NUM_SAMPLES / 6


def test_a_broken_line_of_a_utf_8_file_is_no_other_encoding(tmp_path):
    content = CSV.encode() + "été,a\n".encode("latin-1") + "où,b\n".encode()
    with pytest.raises(DataError, match=r"line 4 is not UTF-8 like the other lines: .*Correct the line"):
        text_of(tmp_path, content)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv", "a.CSV.GZ"])
def test_gzip_is_read_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(CSV.encode()))
    assert rows_of(tmp_path / name) == ROWS


def test_a_parquet_file_may_be_gzip_as_well(tmp_path):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["ça va", "naïve"], "label": ["a", "b"]}), buffer)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(buffer.getvalue()))
    assert rows_of(tmp_path / "a.parquet.gz") == ROWS


def test_compression_does_not_hide_the_ending_from_the_identity(tmp_path):
    for name in ("a.csv", "b.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(CSV.encode(), mtime=0))
    one, other = (identity(mine(path=str(tmp_path / name))) for name in ("a.csv", "b.csv.gz"))
    assert one == other


@pytest.mark.parametrize("end", [30, -9])
def test_damaged_gzip_is_named(tmp_path, end):
    with pytest.raises(DataError, match=r"a\.csv is damaged gzip .*copy it again"):
        text_of(tmp_path, gzip.compress(CSV.encode() * 50)[:end])


def _zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("sheet.xml", "<x/>")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_zip(), r"a ZIP archive or an Excel workbook, not text\. Unpack it, or save the sheet as CSV"),
        (bz2.compress(b"x"), "compressed with bzip2"),
        (lzma.compress(b"x"), "compressed with xz"),
        (b"PAR1 ... PAR1", r"a Parquet file, not text. Set dataset\.mine\.format=parquet"),
        (b"\x00\x01\x02\x00binary", "null characters. It seems not to be a text file"),
    ],
)
def test_what_is_no_text_is_named_with_a_remedy(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        text_of(tmp_path, content)


def test_text_that_begins_like_another_format_is_read(tmp_path):
    assert text_of(tmp_path, b"PAR1,label\nBZh,1\n") == "PAR1,label\nBZh,1\n"
