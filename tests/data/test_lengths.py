"""``model.max_length=auto``, and the counts of what is cut."""

from __future__ import annotations

import pytest

from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data import open_rows, prepare
from sweeper.data.lengths import MOST_AUTO_TOKENS, choose_length
from sweeper.errors import DataError
from sweeper.types import CutRows
from tests.data.builders import make_tokenizer, write_jsonl


@pytest.mark.parametrize(
    ("lengths", "options", "length"),
    [
        (range(1, 101), {}, 112),  # 99 tokens are enough for 99 rows of 100
        ([*range(1, 100), 5000], {}, 112),
        ([*[10] * 98, 5000, 5000], {}, MOST_AUTO_TOKENS),  # two rows of a hundred are too many to cut
        ([96] * 40, {}, 96),
        ([97] * 40, {}, 112),
        ([10] * 40, {"least": 300}, 304),
        ([3000] * 40, {"most": 512}, 512),
        ([700] * 40, {"least": 900, "most": 600}, 600),
        ([7], {}, 16),
    ],
)
def test_the_length_is_what_99_rows_of_100_need(lengths, options, length):
    assert choose_length([*lengths], **{"least": 0, "most": MOST_AUTO_TOKENS, **options}) == length


def prepared(tmp_path, rows, *, max_length="auto", folder=None, completions=False, **settings):
    folder = folder or make_tokenizer(tmp_path / "model", max_position_embeddings=1024)
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    sizes = {"train_rows": 100, "validation_rows": 20, "test_rows": 0, "confirm_rows": 0}
    dataset = DatasetSettings(name="mine", path=str(path), **{**sizes, **settings})
    cache, model = tmp_path / "cache", ModelSettings(name="tiny", id=str(folder), max_length=max_length)
    made = prepare(dataset, model, model_dir=folder, cache=cache, completions=completions)
    return made, open_rows(made.ref, cache=cache, model_dir=folder, trust_remote_code=False)


def texts(longest, num_rows=120):
    """Rows of three tokens, but for one training row in 25."""
    return [
        {"text": f"row {n} row" + (" row" * (longest - 3) if n % 25 == 0 else ""), "label": str(n % 2)}
        for n in range(num_rows)
    ]


def test_the_length_of_a_dataset_is_chosen_recorded_and_used(tmp_path):
    made, rows = prepared(tmp_path, texts(40))
    assert made.ref.max_length == 48
    assert made.cut == {}
    assert max(rows.train["length"]) == 40


def test_what_is_cut_is_counted(tmp_path):
    made, rows = prepared(tmp_path, texts(40), max_length=30)
    whole, _ = prepared(tmp_path, texts(40), max_length=64)
    assert whole.cut == {}
    found = {name: [size for size in getattr(rows, name)["length"] if size == 30] for name in ("train", "validation")}
    assert sum(map(len, found.values())) == 5
    for name, long in found.items():
        num_rows = made.splits.num_rows[name]
        total = 3 * (num_rows - len(long)) + 40 * len(long)
        expected = CutRows(rows=len(long), tokens=10 * len(long), all_tokens=total)
        assert made.cut.get(name) == (expected if long else None)


def test_the_model_limits_the_length_that_is_chosen(tmp_path, caplog):
    folder = make_tokenizer(tmp_path / "short", max_position_embeddings=24)
    made, rows = prepared(tmp_path, texts(40), folder=folder)
    assert made.ref.max_length == max(rows.train["length"]) == 24
    assert made.cut["train"].rows > 0
    assert caplog.text == ""  # nobody asked for more


def test_rows_that_are_made_again_from_the_splits_are_the_same(tmp_path):
    import shutil

    made, rows = prepared(tmp_path, texts(40))
    shutil.rmtree(tmp_path / "cache" / "tokens")
    folder = tmp_path / "model"
    again = open_rows(made.ref, cache=tmp_path / "cache", model_dir=folder, trust_remote_code=False)
    assert again.train["input_ids"] == rows.train["input_ids"]


def prompts(completion, num_long=1, num_rows=120):
    """Prompts of 100 tokens with completions of a token, or of so many as given, each with its end token."""
    return [
        {
            "prompt": f"{n} " + "row " * 99,
            "completion": "row " * (completion if n < num_long else 1) + str(n),
            "split": "train" if n < 100 else "dev",
        }
        for n in range(num_rows)
    ]


def test_a_long_completion_is_never_cut_and_keeps_the_end_of_its_prompt(tmp_path):
    made, rows = prepared(tmp_path, prompts(300), completions=True)
    # 300 tokens, a number, an end token and 64 of the prompt; 99 rows of 100 need 103
    assert made.ref.max_length == 368
    assert made.cut == {"train": CutRows(rows=1, tokens=34, all_tokens=99 * 103 + 402)}
    (longest,) = (n for n, size in enumerate(rows.train["length"]) if size > 103)
    assert rows.train[longest]["length"] - rows.train[longest]["prompt"] == 302


def test_a_completion_beyond_what_auto_may_choose_is_an_error(tmp_path):
    folder = make_tokenizer(tmp_path / "long", max_position_embeddings=9000)
    with pytest.raises(DataError, match=r"has a completion of 3002 tokens.*model\.max_length=2048.*Raise"):
        prepared(tmp_path, prompts(3000), folder=folder, completions=True)
    made, _ = prepared(tmp_path, prompts(3000), folder=folder, max_length=4096, completions=True)
    assert made.ref.max_length == 4096


def test_every_prompt_of_a_closed_set_leaves_room_for_the_longest_choice(tmp_path):
    rows = [{"prompt": f"{n} " + "row " * 20, "completion": "1" if n % 2 else "2 2 2 2"} for n in range(120)]
    made, found = prepared(tmp_path, rows, completions=True)
    assert sorted(map(len, found.choices)) == [2, 5]
    assert made.ref.max_length == 32  # 21 tokens and the longer choice
    assert made.cut == {}
