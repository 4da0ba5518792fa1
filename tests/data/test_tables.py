from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.config.settings import DatasetSettings
from sweeper.data.tables import build_table, label_text, read_table
from sweeper.errors import ConfigError, DataError
from tests.data.builders import write_jsonl

ROWS = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]


def mine(**settings):
    return DatasetSettings(name="mine", **settings)


def rows_of(path, **settings):
    return read_table([path], mine(**settings), build_table).to_list()


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl_is_read(tmp_path):
    assert rows_of(write_jsonl(tmp_path / "a.jsonl", ROWS)) == ROWS


def test_csv_is_read_with_quotes_and_line_breaks(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\r\n"a ""b""\nc, d",1\r\nplain,0\r\n')
    assert rows_of(path) == [{"text": 'a "b"\nc, d', "label": "1"}, {"text": "plain", "label": "0"}]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_spreadsheets_is_read(tmp_path, delimiter):
    path = write(tmp_path / "a.csv", b"\xef\xbb\xbf" + f"text{delimiter}label\nhi, you{delimiter}x\n".encode())
    assert rows_of(path) == [{"text": "hi, you", "label": "x"}]


def test_csv_fields_may_be_longer_than_the_default_limit(tmp_path):
    csv.field_size_limit(131072)
    path = write(tmp_path / "a.csv", f"text,label\n{'x' * 200_000},1\n")
    assert len(rows_of(path)[0]["text"]) == 200_000


def test_parquet_is_read(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 0]}), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]


def test_lines_are_matched_with_a_pattern_and_an_encoding(tmp_path):
    path = write(tmp_path / "a.txt", "DESC:manner Où est\x85 la?\r\nHUM:ind Who?\n".encode("latin-1"))
    found = rows_of(path, format="lines", encoding="latin-1", pattern=r"(?P<label>\w+):\S+ (?P<text>.+)")
    assert found == [{"text": "Où est\x85 la?", "label": "DESC"}, {"text": "Who?", "label": "HUM"}]


def test_several_files_become_one_table(tmp_path):
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", [row]) for n, row in enumerate(ROWS)]
    assert read_table(paths, mine(), build_table).to_list() == ROWS


def test_where_keeps_only_equal_rows(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": str(n), "label": "x", "part": n} for n in range(3)])
    assert [row["text"] for row in rows_of(path, where={"part": "1"})] == ["1"]


def test_where_that_keeps_nothing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="mine is empty: no row has"):
        rows_of(write_jsonl(tmp_path / "a.jsonl", ROWS), where={"label": "maybe"})


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="mine is empty: it has no rows"):
        rows_of(write(tmp_path / "a.jsonl", ""))


def test_a_split_column_is_kept(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{**ROWS[0], "split": " Train "}])
    assert rows_of(path) == [{**ROWS[0], "split": "Train"}]


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (3, "3"), (3.0, "3"), (" spam ", "spam"), (0.5, "0.5")])
def test_labels_become_strings(value, text):
    assert label_text(value) == text


@pytest.mark.parametrize(
    ("setting", "names"),
    [({"text": "txt"}, "'text'"), ({"label": "labels"}, "'label'"), ({"where": {"spilt": "x"}}, "")],
)
def test_a_missing_column_names_those_there_are_and_the_key(tmp_path, setting, names):
    key = f"dataset.mine.{next(iter(setting))}"
    with pytest.raises(DataError, match=f"its columns are 'text', 'label'.*(Set|Correct) {key}") as caught:
        rows_of(write_jsonl(tmp_path / "a.jsonl", ROWS), **setting)
    assert not names or f"Did you mean {names}?" in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('{"text": "a", "label"', "line 3 is not JSON"),
        ('["a", "b"]', "line 3 is not a JSON object"),
        ('{"text": null, "label": "a"}', "line 3 has no text"),
        ('{"text": "  ", "label": "a"}', "line 3 has no text"),
        ('{"text": 7, "label": "a"}', "line 3: column 'text' holds a int"),
        ('{"text": "a", "label": null}', "line 3 has no label"),
        ('{"text": "a", "label": ""}', "line 3 has no label"),
        ('{"text": "a"}', "line 3 has no label"),
        ('{"text": "a", "label": NaN}', "line 3 has no label"),
        ('{"text": "a", "label": ["x"]}', "line 3 has a list as label"),
        ('{"text": "\\ud800", "label": "a"}', "line 3 holds half a surrogate"),
    ],
)
def test_a_broken_jsonl_row_is_named_by_its_line(tmp_path, broken, said):
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": "b"}\n\n' + broken + "\n")
    with pytest.raises(DataError, match=said):
        rows_of(path)


@pytest.mark.parametrize("indent", [None, 1], ids=["on one line", "indented"])
def test_a_json_array_is_read(tmp_path, indent):
    rows = [{"text": "a", "label": "x"}, {"text": "b [1]", "label": "y"}]
    assert rows_of(write(tmp_path / "a.json", "\n " + json.dumps(rows, indent=indent))) == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"text": "a", "label": "b"}', r"begins with \[ but is not one JSON array .*one JSON object on each line"),
        ('["a", 1]\n["b", 2]\n', r"begins with \[ but is not one JSON array"),
        ('[{"text": "a", "label": "b"}, 7]', r"item 2 is not a JSON object: '7'"),
        ('[{"text": "a", "label": "b"}, {"text": "a"}]', "item 2 has no label"),
    ],
)
def test_a_broken_json_array_is_explained(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        rows_of(write(tmp_path / "a.json", content))


def test_a_column_that_the_header_has_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"the column 'label' more than once \(fields 2, 3\).*Rename"):
        rows_of(write(tmp_path / "a.csv", "text,label,label\na,1,2\n"))


def test_columns_without_a_name_may_repeat(tmp_path):
    assert rows_of(write(tmp_path / "a.csv", "text,label,,\na,1,,\n")) == [{"text": "a", "label": "1"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\na,1\nb,2,3\n", "line 3 has 3 fields, but the header has 2"),
        ('text,label\n"a\nb",1\nb\n', "line 4 has 1 fields"),
        ('text,label\na,1\n"never closed,2\nb,1\n', "line 3 is not CSV"),
    ],
)
def test_a_broken_csv_row_is_named_by_its_first_line(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        rows_of(write(tmp_path / "a.csv", content))


def test_a_line_without_match_is_named(tmp_path):
    with pytest.raises(DataError, match="line 2 does not match the pattern: 'nothing'"):
        rows_of(write(tmp_path / "a.txt", "a:b\nnothing\n"), format="lines", pattern="(?P<label>.):(?P<text>.)")


def test_long_content_is_shortened_in_errors(tmp_path):
    with pytest.raises(DataError) as caught:
        rows_of(write(tmp_path / "a.jsonl", "x" * 10_000))
    assert len(str(caught.value)) < 500


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        rows_of(write(tmp_path / "a.parquet", "text"))


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("format", {"format": "cvs"}),
        ("format", {"format": "auto"}),
        ("encoding", {"format": "csv", "encoding": "utf-99"}),
        ("pattern", {"format": "lines", "pattern": "("}),
        ("pattern", {"format": "lines", "pattern": "(.)"}),
    ],
)
def test_a_wrong_setting_names_its_key(tmp_path, key, settings):
    with pytest.raises(ConfigError) as caught:
        rows_of(write(tmp_path / "a.data", "a\n"), **settings)
    assert caught.value.key == f"dataset.mine.{key}"
