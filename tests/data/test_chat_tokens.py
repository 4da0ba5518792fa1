"""Chats that are too long, answers without a weight, and rows of the ready-made datasets."""

from __future__ import annotations

import logging

import pytest

from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data import open_rows, prepare
from sweeper.errors import DataError
from sweeper.tasks.causal_lm import Task
from tests.data.builders import make_tokenizer, write_jsonl
from tests.data.test_prompt_tokens import END, with_template

ASKED, ANSWERED = [4, 0, 3, 11, END, 13], [4, 0]  # 0 user row 7 [EOS] 9; 0 assistant


@pytest.fixture
def model_dir(tmp_path):
    return with_template(make_tokenizer(tmp_path / "model"))


def asked():
    return {"role": "user", "content": "row 7"}


def answered(text, **more):
    return {"role": "assistant", "content": text, **more}


def one_row(tmp_path, model_dir, messages, *, max_length=64, loss_on="all"):
    """Return token ids and spans of a chat, as the task gets them from the cache."""
    rows = [{"messages": messages, "split": "train"}]
    rows += [{"messages": [asked(), answered(f"{n} {n}")], "split": "validation"} for n in range(20, 22)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    model = ModelSettings(id=str(model_dir), max_length=max_length)
    where = {"model_dir": model_dir, "cache": tmp_path / "cache"}
    dataset = DatasetSettings(name="mine", path=str(path), test_rows=0)
    ref = prepare(dataset, model, completions=True, loss_on=loss_on, **where).ref
    tokens = open_rows(ref, trust_remote_code=False, **where)
    found = Task().examples(tokens, "train")
    assert found.weights == [sum(stop - start for start, stop in spans) for spans in found.spans]
    assert [target[0] for target in found.targets] == [spans[0][0] for spans in found.spans]
    return found.ids[0], found.spans[0]


TWO = [asked(), answered("1 2"), asked(), answered("3")]
WHOLE = [*ASKED, *ANSWERED, 5, 6, END, 13, *ASKED, *ANSWERED, 7, END, 13]


def test_all_answers_have_a_loss_or_the_last_one(tmp_path, model_dir):
    assert one_row(tmp_path, model_dir, TWO) == (WHOLE, [(8, 12), (20, 23)])
    assert one_row(tmp_path, model_dir, TWO, loss_on="last") == (WHOLE, [(20, 23)])


def test_an_answer_of_no_weight_has_no_loss(tmp_path, model_dir):
    chat = [asked(), answered("1 2", weight=0), asked(), answered("3", weight=1)]
    assert one_row(tmp_path, model_dir, chat) == (WHOLE, [(20, 23)])


def test_a_row_ends_with_its_last_token_that_has_a_loss(tmp_path, model_dir):
    assert one_row(tmp_path, model_dir, [*TWO, asked()])[0] == WHOLE


def test_a_long_chat_loses_its_end(tmp_path, model_dir, caplog):
    caplog.set_level(logging.WARNING)
    assert one_row(tmp_path, model_dir, TWO, max_length=21) == (WHOLE[:21], [(8, 12), (20, 21)])
    assert "1 of 1 train chats were cut at the end to fit model.max_length=21; 28.6 % of the answers'" in caplog.text
    assert one_row(tmp_path, model_dir, TWO, max_length=10) == (WHOLE[:10], [(8, 10)])


def test_a_chat_whose_first_answer_comes_too_late_loses_its_beginning(tmp_path, model_dir):
    assert one_row(tmp_path, model_dir, TWO[:2], max_length=7) == (WHOLE[5:12], [(3, 7)])
    long = [asked(), answered("1 2 " * 9)]  # 20 tokens: half of the window is left to the question
    ids, spans = one_row(tmp_path, model_dir, long, max_length=8)
    assert (len(ids), spans) == (8, [(4, 8)])
    assert ids[:4] == WHOLE[4:8]


def test_of_a_last_answer_nothing_is_lost(tmp_path, model_dir):
    assert one_row(tmp_path, model_dir, TWO, max_length=9, loss_on="last") == (WHOLE[-9:], [(6, 9)])
    with pytest.raises(DataError, match=r"train row 1 has an answer of 3 tokens.*model\.max_length=3"):
        one_row(tmp_path, model_dir, TWO, max_length=3, loss_on="last")
