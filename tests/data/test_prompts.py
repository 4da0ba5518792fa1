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


def messages_in(found):
    return json.loads(found["chat"])["messages"]


def test_a_chat_is_kept_as_it_is_and_its_last_answer_is_the_completion():
    system, bye = {"role": "system", "content": "Be short."}, {"role": "assistant", "content": "Bye."}
    (found,) = built({"messages": [system, USER, ASSISTANT, USER, bye, USER]})
    assert messages_in(found) == [system, USER, ASSISTANT, USER, bye, USER]
    assert found["completion"] == "Bye."


def test_a_chat_may_be_written_as_json_in_a_column_of_text():
    (found,) = built({"messages": json.dumps([USER, ASSISTANT])})
    assert messages_in(found) == [USER, ASSISTANT]


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_sharegpt_chats_are_read(column):
    said = [("system", "Be short."), ("human", "Hi"), ("gpt", "Hello."), ("human", "Bye")]
    (found,) = built({column: [{"from": who, "value": text} for who, text in said]})
    assert messages_in(found)[:3] == [{"role": "system", "content": "Be short."}, USER, ASSISTANT]
    assert messages_in(found)[3:] == [{"role": "user", "content": "Bye"}]


def test_a_system_message_may_have_a_column_of_its_own():
    (found,) = built({"system": "Be short.", "conversations": [USER, ASSISTANT]})
    assert messages_in(found) == [{"role": "system", "content": "Be short."}, USER, ASSISTANT]


def test_messages_keep_what_templates_read_and_nothing_else():
    call = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    calling = {"role": "assistant", "content": None, "tool_calls": call, "name": None, "timestamp": 7}
    tool = {"role": "tool", "content": "3", "tool_call_id": "1"}
    tools = [{"type": "function", "function": {"name": "add"}}]
    for column in (tools, json.dumps(tools)):
        (found,) = built({"messages": [USER, calling, tool, ASSISTANT], "tools": column})
        kept = {"role": "assistant", "content": "", "tool_calls": call}
        assert messages_in(found) == [USER, kept, tool, ASSISTANT]
        assert json.loads(found["chat"])["tools"] == tools


def test_text_may_come_in_parts():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    (found,) = built({"messages": [USER, {"role": "assistant", "content": parts}]})
    assert messages_in(found) == [USER, ASSISTANT]


def test_of_two_people_the_second_is_the_assistant_and_messages_in_a_row_are_one():
    lines = [[("ann", "Hi"), ("ann", "there")], [("bob", "Hello.")], [("ann", " ")], [("bob", "You?")]]
    turns = [[{"sender": who, "text": text} for who, text in turn] for turn in lines]
    (found,) = built({"messages": turns}, role="sender", content="text")
    assert messages_in(found) == [
        {"role": "user", "content": "Hi\nthere"},
        {"role": "assistant", "content": "Hello.\nYou?"},
    ]


def test_three_people_are_an_error():
    with pytest.raises(DataError, match=r"row 1: column 'messages' has 3 speakers \('a', 'b', 'c'"):
        built({"messages": [{"role": who, "content": "Hi"} for who in "abc"]})


def test_of_a_prompt_that_is_a_chat_only_the_completion_is_learnt():
    (found,) = built({"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]})
    assert messages_in(found) == [USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT]
    assert found["completion"] == "Hello."


def test_an_answer_of_no_weight_is_not_the_completion():
    (found,) = built({"messages": [USER, ASSISTANT, USER, {"role": "assistant", "content": "Bye.", "weight": 0}]})
    assert found["completion"] == "Hello."


def test_alpaca_rows_are_instructions():
    rows = [{"instruction": "Add.", "input": more, "output": "3"} for more in ("1 2", "", None)]
    found = built(*rows)
    assert [json.loads(row["instruction"]) for row in found] == [["Add.", "1 2"], ["Add.", ""], ["Add.", ""]]
    assert {row["completion"] for row in found} == {"3"}


@pytest.mark.parametrize("rows", [[{"text": "a"}, {"text": "b"}], [{"texts": ["a", "b"]}]])
def test_plain_texts_are_documents(rows):
    assert [row["document"] for row in built(*rows)] == ["a", "b"]


def test_labels_of_texts_are_never_ignored_unless_asked_for():
    row = {"text": "Who?", "label": "HUM"}
    with pytest.raises(DataError, match=r"dataset\.mine\.prompt_template.*dataset\.mine\.row_format=text"):
        built(row)
    assert built(row, row_format="text") == [{"document": "Who?", "completion": ""}]


def test_an_explicit_format_wins_over_the_columns():
    row = {"messages": [USER, ASSISTANT], "prompt": "a", "completion": "b", "text": "c"}
    assert built(row)[0].keys() == {"chat", "completion"}
    assert built(row, row_format="prompt") == [{"prompt": "a", "completion": "b"}]
    assert built(row, row_format="text")[0]["document"] == "c"
    with pytest.raises(DataError, match=r"no column 'instruction', which dataset\.mine\.row_format=alpaca reads"):
        built(row, row_format="alpaca")


def test_the_format_is_logged(caplog):
    caplog.set_level("INFO")
    built({"conversations": [USER, ASSISTANT]})
    assert "dataset mine: rows are read as chat (conversations)" in caplog.text


def test_incomplete_rows_are_left_out_if_wanted_and_counted(caplog):
    rows = [{"messages": [USER, ASSISTANT]}, {"messages": [USER]}, {"messages": [ASSISTANT]}]
    assert len(built(*rows, incomplete="skip")) == 1
    assert "2 of 3 rows have nothing to learn" in caplog.text
    with pytest.raises(DataError, match="row 1: column 'messages' must hold"):  # broken is not incomplete
        built({"messages": "x"}, *rows, incomplete="skip")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([USER], "row 1 has no message of the role 'assistant'"),
        ([ASSISTANT], "row 1 has no message of the role 'assistant' after another message"),
        ("hello", "must hold a list of messages"),
        ([{"from": "human", "text": "Hi"}], "each with role and content"),
        ([{"from": "human", "value": "Hi"}], "row 1 has no message of the role 'assistant'"),
        ([USER, {"role": "assistant", "content": " "}], "row 1 has an empty completion"),
        ([USER, {"role": "assistant", "content": [{"text": "a"}]}], "each with role and content"),
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


def test_other_columns_are_an_error_that_names_all_forms():
    with pytest.raises(DataError) as caught:
        built({"question": "Hi", "answer": "Hello"})
    known = ("'prompt' and 'completion'", "'messages'", "'conversations'", "'instruction' and 'output'", "'text'")
    for part in (*known, "prompt_template", "'question', 'answer'"):
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


def chat_rows(num_rows, answers):
    return [
        {
            "messages": [
                m
                for k, a in enumerate(answers(n))
                for m in ({**USER, "content": f"row {n} {k}"}, {**ASSISTANT, "content": a})
            ]
        }
        for n in range(num_rows)
    ]


def test_single_answers_of_chats_that_repeat_are_choices(tmp_path):
    splits = splits_of(tmp_path, chat_rows(40, lambda n: ["ab"[n % 2]]))
    assert (splits.kind, splits.labels) == ("messages", ("a", "b"))
    assert json.loads(splits.train["messages"][0])[-1]["role"] == "user"


@pytest.mark.parametrize(("loss_on", "kind", "labels"), [("all", "chat", ()), ("last", "messages", ("a", "b"))])
def test_of_several_answers_only_the_last_alone_can_be_a_choice(tmp_path, loss_on, kind, labels):
    path = write_jsonl(tmp_path / "rows.jsonl", chat_rows(40, lambda n: ["x", "ab"[n % 2]]))
    splits = prepare_splits(mine(path=str(path)), cache=tmp_path / "cache", completions=True, loss_on=loss_on)
    assert (splits.kind, splits.labels) == (kind, labels)


def test_a_conversation_is_one_row_and_never_in_two_splits(tmp_path):
    rows = chat_rows(60, lambda n: [f"a{n}", f"b{n}", f"c{n}"])
    splits = splits_of(tmp_path, [*rows, *rows])
    assert sum(splits.num_rows.values()) == len({row["chat"] for row in everything(splits)}) == 60


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
