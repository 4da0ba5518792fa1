"""Every key that an error of a dataset names is one that the user can type, whatever the dataset is called."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

import sweeper.data
from sweeper.config.compose import compose
from sweeper.config.overrides import described_key
from sweeper.data import check_source, prepare_splits
from sweeper.errors import SweeperError

LABELLED = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(60)]
ASKED = [{"prompt": f"row {n}", "completion": "ab"[n % 2]} for n in range(60)]
NAMED = [{**row, "split": "test"} for row in LABELLED]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def changed(**values):
    return jsonl([LABELLED[0], {**LABELLED[1], **values}, *LABELLED[2:]])


# What is wrong, the file's name and content, and further overrides under dataset.files.
CASES = {
    "no path": ("", "", []),
    "no file": ("other.jsonl", jsonl(LABELLED), ["path=my.jsonl"]),
    "unknown ending": ("my.dat", jsonl(LABELLED), []),
    "unknown source": ("my.jsonl", jsonl(LABELLED), ["source=zip"]),
    "no id": ("my.jsonl", "", ["source=hub"]),
    "no package": ("my.jsonl", "", ["source=wheel"]),
    "no checksum": ("my.jsonl", "", ["source=wheel", "package='a==1'"]),
    "no member": ("my.jsonl", "", ["source=wheel", "package='a==1'", f"sha256={'0' * 64}"]),
    "unknown encoding": ("my.csv", "text,label\na,b\n", ["encoding=utf-61"]),
    "other encoding": ("my.csv", "text,label\na,b\n".encode("utf-16"), ["encoding=utf-8"]),
    "uncertain encoding": ("my.csv", "text,label\né,b\n".encode("latin-1"), []),
    "no byte order mark": ("my.csv", "text,label\na,b\n".encode("utf-16-le"), []),
    "no text file": ("my.csv", b"\0\0\1", []),
    "parquet": ("my.csv", gzip.compress(b"PAR1PAR1"), []),
    "no pattern": ("my.txt", "a", ["format=lines"]),
    "broken pattern": ("my.txt", "a", ["format=lines", "pattern='('"]),
    "other lines": ("my.txt", "a", ["format=lines", "pattern='(?P<text>b)'"]),
    "no text column": ("my.jsonl", jsonl(LABELLED), ["text=body"]),
    "no label column": ("my.jsonl", jsonl(LABELLED), ["label=topic"]),
    "no filter column": ("my.jsonl", jsonl(LABELLED), ["where={x: y}"]),
    "a row without filter": ("my.jsonl", jsonl([{**LABELLED[0], "x": "y"}, *LABELLED]), ["where={x: y}"]),
    "no row left": ("my.jsonl", jsonl(LABELLED), ["where={label: c}"]),
    "a number as text": ("my.jsonl", changed(text=1), []),
    "no label": ("my.jsonl", changed(label=None), []),
    "no split": ("my.jsonl", jsonl([{**LABELLED[0], "split": ""}]), []),
    "unknown split": ("my.jsonl", jsonl([{**row, "split": "trane"} for row in LABELLED]), []),
    "no training split": ("my.jsonl", jsonl(NAMED), []),
    "empty split": ("my.jsonl", jsonl(LABELLED[:1]), []),
    "one label": ("my.jsonl", jsonl(LABELLED[::2]), []),
    "one label listed": ("my.jsonl", jsonl(LABELLED), ["labels=[a]"]),
    "a label not listed": ("my.jsonl", jsonl(LABELLED), ["labels=[a,c]"]),
    "two spellings": ("my.jsonl", changed(label="A"), []),
    "measurements": ("my.jsonl", jsonl([{"text": f"row {n}", "label": n / 7} for n in range(60)]), []),
    "ids": ("my.jsonl", jsonl([{"text": f"row {n}", "label": f"id {n}"} for n in range(60)]), []),
    "no prompts": ("my.jsonl", jsonl(LABELLED), ["task"]),
    "no template": ("my.jsonl", jsonl(LABELLED), ["task", "prompt_template=x"]),
    "unknown column of a template": ("my.jsonl", jsonl(LABELLED), ["task", "prompt_template='{x}'"]),
    "nothing for a template": ("my.jsonl", changed(text=None), ["task", "prompt_template='{text}'"]),
    "no completion template": (
        "my.jsonl",
        jsonl(LABELLED),
        ["task", "prompt_template='{text}'", "completion_template=x"],
    ),
    "no label word": ("my.jsonl", jsonl(LABELLED), ["task", "prompt_template='{text}'", "label_words={a: yes}"]),
    "a completion not listed": ("my.jsonl", jsonl(ASKED), ["task", "labels=[a,c]"]),
}
VALUES = {"int": "1", "str": "x", "list[str]": "[a,b]", "dict[str, str]": "{a: b}"}
KEY = re.compile(r"\bdataset\.[\w.-]*\w")


def error_of(settings, cache, *, completions):
    try:
        check_source(settings)
        prepare_splits(settings, cache=cache, completions=completions)
    except SweeperError as error:
        return str(error)
    return pytest.fail("there was no error")


@pytest.mark.parametrize("case", CASES)
def test_a_key_that_an_error_names_is_accepted(tmp_path, case):
    name, content, overrides = CASES[case]
    chosen = ["dataset=files", "dataset.files.name=mine"]
    if name:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        chosen.append(f"dataset.files.path={tmp_path / name}")
    has_completions = "task" in overrides
    chosen += ["task=causal_lm", "model=smollm2"] if has_completions else []
    chosen += [f"dataset.files.{text}" for text in overrides if text != "task"]
    settings = compose([text.replace("path=my", f"path={tmp_path}/my") for text in chosen]).settings.dataset["files"]
    said = error_of(settings, tmp_path / "cache", completions=has_completions).replace(str(tmp_path), "")
    keys = set(KEY.findall(said))
    assert keys, said
    for key in keys:
        described = described_key(key)
        assert described is not None, (key, said)
        value = described.choices[0] if described.choices else VALUES[described.kind]
        value = "x" if ".splits." in key else value  # an entry of a dictionary
        assert compose([*chosen[:2], f"{key}={value}"])


def test_no_message_is_made_of_the_name_of_a_dataset():
    for path in Path(sweeper.data.__file__).parent.glob("*.py"):
        assert "dataset.{" not in path.read_text(), path
