"""Rows of a language model: columns, messages, templates; closed and open completions."""

from __future__ import annotations

import json

import pytest

from sweeper.config.settings import DatasetSettings
from sweeper.data import prepare_splits
from sweeper.data.prompts import build_prompts
from sweeper.errors import ConfigError, DataError
from tests.data.builders import write_jsonl

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}


def mine(**settings):
    return DatasetSettings(name="mine", **settings)


def built(*rows, **settings):
    return build_prompts([(f"row {n}", row) for n, row in enumerate(rows, start=1)], mine(**settings)).to_list()


def splits_of(tmp_path, rows, **settings):
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return prepare_splits(mine(path=str(path), **settings), cache=tmp_path / "cache", completions=True)


def everything(splits):
    return [row for part in (splits.train, splits.validation, splits.test) for row in part.to_list()]


def test_the_rows_that_could_be_training_rows_are_kept_with_the_splits(tmp_path):
    rows = [{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(100)]
    for _ in range(2):  # made, then from the cache
        splits = splits_of(tmp_path, rows, train_rows=20, validation_rows=10, test_rows=10)
        assert (len(splits.train), splits.num_available) == (20, 80)


def test_prompts_and_completions_are_taken_as_they_are():
    row = {"prompt": "def f():\n", "completion": "    return 1\n"}
    assert built(row) == [row]


def test_columns_with_other_names_are_used():
    found = built({"q": "2+2=", "a": "4"}, prompt="q", completion="a")
    assert found == [{"prompt": "2+2=", "completion": "4"}]


def test_the_last_answer_of_a_chat_is_the_completion_and_what_is_before_it_the_prompt():
    system = {"role": "system", "content": "Be short."}
    (found,) = built({"messages": [system, USER, ASSISTANT, USER, {"role": "assistant", "content": "Bye."}, USER]})
    assert json.loads(found["messages"]) == [system, USER, ASSISTANT, USER]
    assert found["completion"] == "Bye."


def test_a_chat_may_be_written_as_json_in_a_column_of_text():
    (found,) = built({"messages": json.dumps([USER, ASSISTANT])})
    assert json.loads(found["messages"]) == [USER]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([USER], "row 1 has no message of the role 'assistant'"),
        ([ASSISTANT], "row 1 has no message of the role 'assistant' after another message"),
        ("hello", "must hold a list of messages"),
        ([{"from": "human", "value": "Hi"}], "each with role and content"),
        ([USER, {"role": "assistant", "content": " "}], "row 1 has an empty completion"),
        ([USER, {"role": "assistant", "content": [{"text": "a"}]}], "each with role and content as text"),
    ],
)
def test_a_chat_that_cannot_be_learnt_is_an_error_with_its_row(messages, said):
    with pytest.raises(DataError, match=said):
        built({"messages": messages})


def test_a_template_makes_prompts_of_labelled_texts():
    found = built(
        {"question": "Who?", "topic": "a", "label": 1},
        text="question",
        prompt_template="Topic {topic}. Question: {text}\nType:",
        label_words={"1": "human"},
    )
    assert found == [{"prompt": "Topic a. Question: Who?\nType:", "completion": " human"}]


def test_without_label_words_the_label_is_the_completion():
    (found,) = built({"text": "Who?", "label": "HUM"}, prompt_template="{text}", completion_template="-> {label}.")
    assert found["completion"] == "-> HUM."


def test_a_template_is_filled_once_whatever_the_text_holds():
    (found,) = built({"text": "a {label} {text} {0}", "label": "x"}, prompt_template="Q: {text}")
    assert found["prompt"] == "Q: a {label} {text} {0}"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"prompt_template": "Question:"}, "dataset.mine.prompt_template"),
        ({"prompt_template": "{texd}"}, "dataset.mine.prompt_template"),
        ({"prompt_template": "{text}", "completion_template": "x"}, "dataset.mine.completion_template"),
    ],
)
def test_a_wrong_template_names_its_key(settings, key):
    with pytest.raises(ConfigError) as caught:
        built({"text": "Who?", "label": "HUM"}, **settings)
    assert caught.value.key == key


def test_a_label_without_a_word_is_an_error():
    with pytest.raises(DataError, match=r"'HUMN' has no word in dataset\.mine\.label_words.*Did you mean 'HUM'"):
        built({"text": "Who?", "label": "HUMN"}, prompt_template="{text}", label_words={"HUM": "human"})


def test_other_columns_are_an_error_that_names_all_three_forms():
    with pytest.raises(DataError) as caught:
        built({"instruction": "Hi", "output": "Hello"})
    for part in ("'prompt' and 'completion'", "'messages'", "prompt_template", "'instruction', 'output'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("row", [{"prompt": "a", "completion": " "}, {"prompt": "a", "completion": None}])
def test_a_row_without_a_completion_is_an_error_with_its_number(row):
    with pytest.raises(DataError, match="row 2 has"):
        built({"prompt": "a", "completion": "b"}, row)


def test_few_completions_that_repeat_are_a_closed_set_split_by_their_shares(tmp_path):
    rows = [{"prompt": f"row {n}", "completion": " yes" if n % 4 else " no"} for n in range(100)]
    splits = splits_of(tmp_path, rows, train_rows=60, validation_rows=20, test_rows=20)
    assert splits.labels == (" no", " yes")
    assert splits.kind == "prompt"
    assert all(row["completion"] == splits.labels[row["label"]] for row in everything(splits))
    assert [sum(part["label"]) for part in (splits.train, splits.validation, splits.test)] == [45, 15, 15]


@pytest.mark.parametrize("completions", [lambda n: f"answer {n}", lambda n: f"answer {n // 2}", lambda _: "same"])
def test_other_completions_are_open(tmp_path, completions):
    splits = splits_of(tmp_path, [{"prompt": f"row {n}", "completion": completions(n)} for n in range(60)])
    assert splits.labels == ()
    assert {row["label"] for row in everything(splits)} == {-1}
    assert len(everything(splits)) == 60


def test_long_completions_are_open_even_if_they_repeat(tmp_path):
    splits = splits_of(tmp_path, [{"prompt": f"row {n}", "completion": f"{n % 3} " * 600} for n in range(60)])
    assert splits.labels == ()


def test_an_open_prompt_may_have_several_completions_and_none_comes_twice(tmp_path):
    rows = [{"prompt": f"row {n % 30}", "completion": f"answer {n}"} for n in range(60)]
    found = everything(splits_of(tmp_path, [*rows, *rows]))
    assert len(found) == len({row["completion"] for row in found}) == 60


def test_completions_that_are_named_are_the_choices(tmp_path):
    rows = [{"prompt": f"row {n}", "completion": "ab"[n % 2]} for n in range(40)]
    assert splits_of(tmp_path, rows, labels=["b", "a"]).labels == ("b", "a")
    with pytest.raises(DataError, match="label 'b' of 12 train rows is not among"):
        splits_of(tmp_path, rows, labels=["a", "c"])


def test_labels_that_are_named_become_choices_through_template_and_words(tmp_path):
    rows = [{"text": f"row {n}", "label": str(n % 2)} for n in range(40)]
    words = {"0": "no", "1": "yes"}
    splits = splits_of(tmp_path, rows, labels=["1", "0"], prompt_template="{text}?", label_words=words)
    assert splits.labels == (" yes", " no")


def test_rows_keep_the_splits_that_they_name(tmp_path):
    names = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    rows = [{"prompt": f"row {n}", "completion": f"{n}", "split": name} for n, name in enumerate(names)]
    splits = splits_of(tmp_path, rows)
    assert splits.num_rows == {"train": 6, "validation": 2, "test": 2, "confirmation": 0}
    assert set(splits.validation["completion"]) == {"6", "7"}


def test_the_fingerprint_covers_open_completions(tmp_path):
    one = splits_of(tmp_path, [{"prompt": f"row {n}", "completion": f"a{n}"} for n in range(20)])
    other = splits_of(tmp_path, [{"prompt": f"row {n}", "completion": f"b{n}"} for n in range(20)])
    assert one.fingerprint != other.fingerprint


def test_the_same_file_can_serve_a_classification(tmp_path):
    rows = [{"text": f"row {n}", "label": str(n % 2)} for n in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = mine(path=str(path), prompt_template="{text}?")
    labelled = prepare_splits(settings, cache=tmp_path / "cache")
    prompted = prepare_splits(settings, cache=tmp_path / "cache", completions=True)
    assert (labelled.kind, labelled.labels) == ("text", ("0", "1"))
    assert (prompted.kind, prompted.labels) == ("prompt", (" 0", " 1"))
