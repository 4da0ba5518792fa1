"""Token ids of prompts with completions."""

from __future__ import annotations

import json
import logging

import pytest

from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data import prepare_splits
from sweeper.data.prompt_tokens import _alpaca, chat_use
from sweeper.data.tokens import tokenise
from sweeper.errors import ConfigError, DataError, ModelError
from tests.data.builders import make_tokenizer, write_jsonl

ROW, END = 3, 2  # of the tokenizer of `make_tokenizer`; the number n is 4 + n, what it does not know 0
TEMPLATE = (
    "{% for message in messages %}{{ '0 ' + message['role'] + ' ' + message['content'] + ' [EOS] 9 ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '0 assistant ' }}{% endif %}"
)


@pytest.fixture
def model_dir(tmp_path):
    return make_tokenizer(tmp_path / "model")


@pytest.fixture
def chat_dir(tmp_path):
    return with_template(make_tokenizer(tmp_path / "chat"))


def with_template(folder, template=TEMPLATE):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return folder


def tokens_of(tmp_path, rows, folder, *, max_length=32, chat="for_messages", **settings):
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    dataset = DatasetSettings(name="mine", path=str(path), **settings)
    splits = prepare_splits(dataset, cache=tmp_path / "cache", completions=True)
    return tokenise(splits, model_dir=folder, max_length=max_length, cache=tmp_path / "cache", chat=chat)


def opened(num_rows=20, prompt="row"):
    return [{"prompt": f"{prompt} {n}", "completion": f"{n + 1} {n}"} for n in range(num_rows)]


def closed(num_rows=40, prompt="row"):
    return [{"prompt": f"{prompt} {n}", "completion": " 1" if n % 2 else " 2 3"} for n in range(num_rows)]


def chats(num_rows=20):
    return [
        {"messages": [{"role": "user", "content": f"row {n}"}, {"role": "assistant", "content": f" {n + 1} "}]}
        for n in range(num_rows)
    ]


def all_rows(tokens):
    return [row for part in (tokens.train, tokens.validation, tokens.test) for row in part.to_list()]


def test_a_row_is_its_prompt_then_its_completion_then_the_end(tmp_path, model_dir):
    for row in all_rows(tokens_of(tmp_path, opened(), model_dir)):
        number = row["input_ids"][1] - 4
        assert row == {
            "input_ids": [ROW, 4 + number, 5 + number, 4 + number, END],
            "length": 5,
            "label": -1,
            "prompt": 2,
        }


def test_choices_are_tokenised_with_their_end(tmp_path, model_dir):
    tokens = tokens_of(tmp_path, closed(), model_dir)
    assert tokens.choices == ((5, END), (6, 7, END))
    for row in all_rows(tokens):
        assert tuple(row["input_ids"][row["prompt"] :]) == tokens.choices[row["label"]]


def test_open_completions_have_no_choices(tmp_path, model_dir):
    assert tokens_of(tmp_path, opened(), model_dir).choices == ()


def test_a_long_prompt_loses_its_beginning_and_the_completion_nothing(tmp_path, model_dir, caplog):
    caplog.set_level(logging.WARNING)
    for row in all_rows(tokens_of(tmp_path, opened(prompt="row " * 9 + "row"), model_dir, max_length=6)):
        number = row["input_ids"][2] - 4
        assert row["input_ids"] == [ROW, ROW, 4 + number, 5 + number, 4 + number, END]
        assert row["prompt"] == 3
    assert "12 of 12 train prompts were cut at the beginning to fit model.max_length=6" in caplog.text


def test_in_a_closed_set_the_length_of_a_cut_prompt_does_not_reveal_the_answer(tmp_path, model_dir):
    rows = all_rows(tokens_of(tmp_path, closed(prompt="row " * 9 + "row"), model_dir, max_length=8))
    assert {row["prompt"] for row in rows} == {5}
    assert {row["length"] for row in rows} == {7, 8}


def test_a_completion_that_leaves_no_room_for_a_prompt_is_an_error_that_names_the_row(tmp_path, model_dir):
    rows = opened()
    rows = [{**row, "completion": "1 " * 30, "split": "train"} if n == 4 else row for n, row in enumerate(rows)]
    rows = [{**row, "split": row.get("split", "train" if n < 12 else "validation")} for n, row in enumerate(rows)]
    with pytest.raises(DataError, match=r"train row \d+ has a completion of 31 tokens.*model\.max_length above 31"):
        tokens_of(tmp_path, rows, model_dir, max_length=16, test_rows=0)


def test_an_empty_prompt_still_has_a_token_to_predict_from(tmp_path, model_dir):
    rows = [{"prompt": "", "completion": f"{n}"} for n in range(20)]
    assert {tuple(row["input_ids"][: row["prompt"]]) for row in all_rows(tokens_of(tmp_path, rows, model_dir))} == {
        (END,)
    }


def test_messages_go_through_the_chat_template_with_what_it_puts_behind_an_answer(tmp_path, chat_dir):
    for row in all_rows(tokens_of(tmp_path, chats(), chat_dir)):
        number = row["input_ids"][3] - 4
        asked = [4, 0, ROW, 4 + number, END, 13, 4, 0]  # 0 user row n [EOS] 9 0 assistant
        assert row["input_ids"] == [*asked, 5 + number, END, 13]
        assert row["prompt"] == len(asked)
        assert row["spans"] == [len(asked), len(asked) + 3]


def test_choices_of_messages_end_where_the_template_ends_an_answer(tmp_path, chat_dir):
    rows = chats(40)
    for n, row in enumerate(rows):
        row["messages"][1]["content"] = "12"[n % 2]
    tokens = tokens_of(tmp_path, rows, chat_dir)
    assert tokens.choices == ((5, END), (6, END))
    assert "spans" not in tokens.train.column_names


def test_all_but_the_first_token_of_a_plain_text_have_a_loss(tmp_path, model_dir):
    rows = [{"text": f"row {n} {n}"} for n in range(20)]
    for row in all_rows(tokens_of(tmp_path, rows, model_dir)):
        number = row["input_ids"][1] - 4
        assert row["input_ids"] == [ROW, 4 + number, 4 + number, END]
        assert (row["prompt"], row["length"], row["label"]) == (1, 4, -1)


def test_a_long_plain_text_loses_its_end(tmp_path, model_dir, caplog):
    rows = [{"text": f"{n} " + "row " * 9} for n in range(20)]
    assert {row["length"] for row in all_rows(tokens_of(tmp_path, rows, model_dir, max_length=6))} == {6}
    assert "12 of 12 train texts were cut at the end to fit model.max_length=6; 45.5 % of their tokens" in caplog.text


@pytest.mark.parametrize("more", ["", "1 2"])
def test_an_instruction_is_a_question_in_a_chat_and_stanfords_prompt_otherwise(tmp_path, chat_dir, more):
    rows = [{"instruction": f"row {n}", "input": more, "output": f"{n} {n}"} for n in range(20)]
    extra = [5, 6] if more else []
    for row in all_rows(tokens_of(tmp_path, rows, chat_dir, chat="if_any")):
        number = row["input_ids"][3] - 4
        assert row["input_ids"] == [4, 0, ROW, 4 + number, *extra, END, 13, 4, 0, 4 + number, 4 + number, END]
    known = [
        token for row in all_rows(tokens_of(tmp_path, rows, chat_dir)) for token in row["input_ids"][: row["prompt"]]
    ]
    assert known.count(ROW) == 20
    assert (5 in known) == (6 in known)


def test_the_prompt_of_an_instruction_is_stanfords():
    assert _alpaca("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n"
        "### Response:\n"
    )
    assert _alpaca("Say {x}.", "") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nSay {x}.\n\n### Response:\n"
    )


@pytest.mark.parametrize(
    ("chat", "is_chat"), [("always", True), ("if_any", True), ("for_messages", False), ("never", False)]
)
def test_plain_prompts_go_through_the_template_if_wanted(tmp_path, chat_dir, chat, is_chat):
    rows = all_rows(tokens_of(tmp_path, opened(), chat_dir, chat=chat))
    assert {row["input_ids"][0] for row in rows} == ({4} if is_chat else {ROW})
    assert {row["prompt"] for row in rows} == ({8} if is_chat else {2})


def test_a_model_without_a_template_is_used_without_one(tmp_path, model_dir):
    assert {row["prompt"] for row in all_rows(tokens_of(tmp_path, opened(), model_dir, chat="if_any"))} == {2}


@pytest.mark.parametrize(("rows", "chat"), [(chats(), "if_any"), (chats(), "never"), (opened(), "always")])
def test_a_template_that_is_needed_and_missing_is_an_error(tmp_path, model_dir, rows, chat):
    with pytest.raises((ModelError, ConfigError), match="chat template"):
        tokens_of(tmp_path, rows, model_dir, chat=chat)


def test_a_chat_that_the_template_refuses_is_an_error(tmp_path, model_dir):
    with_template(model_dir, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"rejects the chat.*roles must alternate"):
        tokens_of(tmp_path, chats(), model_dir)


def test_templates_and_lengths_each_have_their_own_cache(tmp_path, chat_dir):
    for chat, length in [("never", 32), ("always", 32), ("always", 31)]:
        tokens_of(tmp_path, opened(), chat_dir, chat=chat, max_length=length)
    with_template(chat_dir, TEMPLATE.replace("0 ", "1 "))
    tokens_of(tmp_path, opened(), chat_dir, chat="always")
    assert len([p for p in (tmp_path / "cache" / "tokens").iterdir() if not p.name.startswith(".")]) == 4


def test_a_word_that_a_tokenizer_would_begin_with_a_space_is_encoded_as_inside_a_text(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = make_tokenizer(tmp_path / "pieces")
    vocabulary = {
        word: n for n, word in enumerate(["[UNK]", "[PAD]", "[EOS]", "▁", "▁row", "▁yes", "▁no", "\n", "yes"])
    }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
    split_lines = pre_tokenizers.Split("\n", "isolated")
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"), split_lines])
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]").save_pretrained(folder)  # noqa: S106
    rows = [{"prompt": f"row {n}", "completion": " yes" if n % 2 else " no"} for n in range(40)]
    assert tokens_of(tmp_path, rows, folder).choices == ((6, END), (5, END))


@pytest.mark.parametrize(
    ("settings", "use"),
    [
        ({"id": "HuggingFaceTB/SmolLM2-135M-Instruct"}, "if_any"),
        ({"member": "llm/SmolLM2-135M-Instruct.Q4_1.gguf", "name": "smollm2"}, "if_any"),
        ({"id": "google/gemma-2-2b-it"}, "if_any"),
        ({"id": "HuggingFaceTB/SmolLM2-135M"}, "for_messages"),
        ({"id": "HuggingFaceTB/SmolLM2-135M", "chat_template": "always"}, "always"),
        ({"id": "a/b-chat", "chat_template": "never"}, "never"),
    ],
)
def test_auto_takes_the_template_of_models_that_are_named_after_chats(settings, use):
    assert chat_use(ModelSettings(**settings)) == use
