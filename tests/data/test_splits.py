from __future__ import annotations

import itertools
import logging
import random
from collections import Counter

import pytest
from datasets import Dataset

from sweeper.config.settings import DatasetSettings
from sweeper.data.sizes import Sizes, plan_sizes
from sweeper.data.splits import make_splits
from sweeper.errors import DataError


def table_of(counts, split=None):
    """Rows ``<label> <number>``, with the given number of rows of each label."""
    rows = [{"text": f"{label} {n}", "label": label} for label, count in counts.items() for n in range(count)]
    return Dataset.from_list([{**row, "split": split} if split else row for row in rows])


def mine(**settings):
    return DatasetSettings(name="mine", **{"train_rows": 100, "validation_rows": 40, "test_rows": 60, **settings})


def texts(splits):
    return {name: list(getattr(splits, name)["text"]) for name in ("train", "validation", "test")}


def test_sizes_are_as_asked():
    expected = {"train": 100, "validation": 40, "test": 60, "confirmation": 200}
    assert make_splits(table_of({"a": 200, "b": 200}), mine()).num_rows == expected


def test_the_rows_that_could_be_training_rows_are_counted():
    assert make_splits(table_of({"a": 200, "b": 200}), mine()).num_available == 300
    assert make_splits(table_of({"a": 200, "b": 200}), mine(train_rows=0)).num_available == 300
    assert make_splits(table_of({"a": 25, "b": 25}), mine()).num_available == 30


def test_of_named_splits_only_those_for_training_are_available():
    rows = [*table_of({"a": 200, "b": 100}, "train").to_list(), {"text": "A 1", "label": "a", "split": "train"}]
    rows += [{"text": f"test {n}", "label": "ab"[n % 2], "split": "test"} for n in range(80)]
    splits = make_splits(Dataset.from_list(rows), mine())
    assert splits.num_rows == {"train": 100, "validation": 40, "test": 60, "confirmation": 160}
    assert splits.num_available == 300 - 40


def test_no_text_is_in_two_splits():
    found = texts(make_splits(table_of({"a": 100, "b": 100}), mine()))
    assert len({text for part in found.values() for text in part}) == 200


def test_every_split_has_the_shares_of_all_rows():
    splits = make_splits(table_of({"a": 700, "b": 200, "c": 100}), mine())
    for part in (splits.train, splits.validation, splits.test):
        counts = Counter(part["label"])
        for label, share in enumerate((0.7, 0.2, 0.1)):
            assert counts[label] == pytest.approx(share * len(part), abs=2)


def test_sorted_rows_are_shuffled():
    labels = make_splits(table_of({"a": 200, "b": 200}), mine()).train["label"]
    assert 30 < sum(one != other for one, other in itertools.pairwise(labels)) < 70


def test_repeated_texts_are_left_out_before_the_split():
    table = table_of({"a": 50, "b": 50})
    rows = [*table.to_list(), *({**row, "text": f"  {row['text'].upper()} "} for row in table)]
    assert sum(make_splits(Dataset.from_list(rows), mine()).num_rows.values()) == 100


def test_of_a_text_with_two_labels_the_first_is_kept_and_the_number_logged(caplog):
    rows = [*table_of({"a": 50, "b": 50}).to_list(), {"text": "A 7", "label": "b"}, {"text": "a  8", "label": "a"}]
    splits = make_splits(Dataset.from_list(rows), mine(train_rows=0, test_rows=0))
    labels = {row["text"]: row["label"] for part in (splits.train, splits.validation) for row in part}
    assert labels["a 7"] == 0
    assert "1 of them have a different label" in caplog.text


def test_the_same_seed_gives_the_same_split_whatever_the_order_of_the_rows():
    rows = table_of({"a": 200, "b": 200}).to_list()
    shuffled = random.Random(3).sample(rows, len(rows))  # noqa: S311 - not for secrets
    one, other = (make_splits(Dataset.from_list(r), mine()) for r in (rows, shuffled))
    assert texts(one) == texts(other)
    assert one.fingerprint == other.fingerprint


def test_another_seed_gives_another_split():
    table = table_of({"a": 200, "b": 200})
    one, other = (make_splits(table, mine(seed=seed)) for seed in (0, 1))
    assert set(one.train["text"]) != set(other.train["text"])
    assert one.fingerprint != other.fingerprint


def test_the_fingerprint_is_stable():
    assert make_splits(table_of({"a": 30, "b": 30}), mine()).fingerprint[:16] == "d0dddb19d9f1cb39"


def test_a_changed_label_changes_the_fingerprint():
    rows = table_of({"a": 200, "b": 200}).to_list()
    before = make_splits(Dataset.from_list(rows), mine(train_rows=0)).fingerprint
    rows[0]["label"] = "b"
    assert make_splits(Dataset.from_list(rows), mine(train_rows=0)).fingerprint != before


def test_more_training_rows_change_no_other_split():
    table = table_of({"a": 200, "b": 200})
    few, many = (texts(make_splits(table, mine(train_rows=rows))) for rows in (50, 200))
    assert few["test"] == many["test"]
    assert few["validation"] == many["validation"]
    assert set(few["train"]) < set(many["train"])


def test_a_label_with_one_row_is_learnt():
    splits = make_splits(table_of({"a": 200, "b": 200, "rare": 1}), mine())
    assert splits.labels == ("a", "b", "rare")
    assert 2 in splits.train["label"]


def test_a_label_with_two_rows_is_learnt():
    splits = make_splits(table_of({"a": 20, "rare": 2}), mine())
    assert splits.labels == ("a", "rare")
    assert 1 in splits.train["label"]


def test_labels_that_are_numbers_are_in_the_order_of_numbers():
    table = table_of({"10": 50, "9": 50, "-1": 50})
    assert make_splits(table, mine(train_rows=50)).labels == ("-1", "9", "10")


def test_given_labels_set_the_order():
    splits = make_splits(table_of({"a": 100, "b": 100}), mine(labels=["b", "a"]))
    assert all(row["text"][0] == splits.labels[row["label"]] for row in splits.train)
    assert splits.labels == ("b", "a")


def test_a_label_that_is_not_among_the_given_ones_is_an_error():
    with pytest.raises(
        DataError, match=r"the label 'spam' of 50 train rows is not among \['ham', 'spm'\]. Did you mean 'spm'"
    ):
        make_splits(table_of({"ham": 100, "spam": 100}), mine(labels=["ham", "spm"]))


def test_a_test_label_that_no_training_row_has_is_warned_of_and_gets_an_index_that_no_model_predicts(caplog):
    rows = [*table_of({"a": 20, "b": 20}, "train").to_list(), {"text": "x", "label": "aa", "split": "test"}]
    splits = make_splits(Dataset.from_list(rows), mine())
    assert splits.labels == ("a", "b")
    assert list(splits.test["label"]) == [2]
    assert set(splits.train["label"]) == {0, 1}
    assert "no training row has the label 'aa', only 1 test row" in caplog.text
    assert "dataset.mine.train_rows" in caplog.text


@pytest.mark.parametrize("counts", [{"a": 50}, {"a": 1}])
def test_fewer_than_two_labels_or_rows_are_an_error(counts):
    with pytest.raises(DataError, match=r"two labels or more|split is empty"):
        make_splits(table_of(counts), mine())


def test_an_empty_split_is_an_error_with_the_keys_to_change():
    with pytest.raises(DataError, match=r"split is empty.*dataset\.mine\.train_rows"):
        make_splits(table_of({"a": 1, "b": 1}), mine())


def test_no_test_rows_are_allowed_if_asked_for():
    splits = make_splits(table_of({"a": 50, "b": 50}), mine(train_rows=0, validation_rows=0, test_rows=0))
    assert splits.num_rows == {"train": 80, "validation": 20, "test": 0, "confirmation": 0}


def named(part, label, count):
    return [{"text": f"{part} {label} {n}", "label": label, "split": part} for n in range(count)]


def whole(part, count):
    return [*named(part, "a", count // 2), *named(part, "b", count // 2)]


@pytest.mark.parametrize("name", ["validation", "Valid", "val", "DEV"])
def test_a_split_column_is_used(name):
    table = Dataset.from_list([*whole("Train", 20), *whole(name, 10), *whole("test", 12)])
    found = texts(make_splits(table, mine()))
    assert {split: {text.split()[0] for text in part} for split, part in found.items()} == {
        "train": {"Train"},
        "validation": {name},
        "test": {"test"},
    }
    assert [len(part) for part in found.values()] == [20, 10, 12]


def test_a_split_column_is_cut_to_the_sizes_asked_for():
    table = Dataset.from_list([*whole("train", 200), *whole("dev", 200), *whole("test", 200)])
    splits = make_splits(table, mine())
    assert splits.num_rows == {"train": 100, "validation": 40, "test": 60, "confirmation": 160}
    assert Counter(splits.test["label"]) == {0: 30, 1: 30}


def test_without_validation_rows_some_training_rows_are_taken_and_no_test_row():
    splits = make_splits(Dataset.from_list([*whole("train", 200), *whole("test", 60)]), mine())
    found = texts(splits)
    assert splits.num_rows == {"train": 100, "validation": 40, "test": 60, "confirmation": 60}
    assert all(text.startswith("train") for text in found["validation"] + found["train"])
    assert all(text.startswith("test") for text in found["test"])


def test_without_test_rows_some_training_rows_are_taken():
    splits = make_splits(Dataset.from_list([*whole("train", 200), *whole("dev", 40)]), mine())
    assert splits.num_rows == {"train": 100, "validation": 40, "test": 60, "confirmation": 0}
    assert all(text.startswith("train") for text in splits.test["text"])


def test_rows_for_the_confirmation_are_in_no_other_split_and_have_the_same_shares_of_labels():
    splits = make_splits(table_of({"a": 600, "b": 200}), mine(confirm_rows=100))
    assert splits.num_rows["confirmation"] == 100
    assert Counter(splits.confirmation["label"])[0] == pytest.approx(75, abs=1)
    others = {text for name in ("train", "validation", "test") for text in getattr(splits, name)["text"]}
    assert not others & set(splits.confirmation["text"])


@pytest.mark.parametrize("sizes", [{"train_rows": 0}, {"confirm_rows": 0}])
def test_no_rows_are_left_for_the_confirmation_if_all_are_trained_on_or_none_are_wanted(sizes):
    with_rows = make_splits(table_of({"a": 200, "b": 200}), mine())
    splits = make_splits(table_of({"a": 200, "b": 200}), mine(**sizes))
    assert (with_rows.num_rows["confirmation"], splits.num_rows["confirmation"]) == (200, 0)
    assert splits.validation["text"] == with_rows.validation["text"]


def test_rows_for_the_confirmation_are_named_validation_rows_if_there_are_any():
    splits = make_splits(Dataset.from_list([*whole("train", 400), *whole("dev", 100), *whole("test", 60)]), mine())
    assert splits.num_rows["confirmation"] == 60
    assert all(text.startswith("dev") for text in splits.confirmation["text"])


def test_a_row_with_a_label_that_no_trial_can_learn_counts_in_the_confirmation_as_well():
    rare = {"text": "dev c", "label": "c", "split": "dev"}
    rows = [*whole("train", 400), *whole("dev", 100), rare, *whole("test", 60)]
    splits = make_splits(Dataset.from_list(rows), mine())
    assert splits.labels == ("a", "b")
    assert [*splits.validation["label"], *splits.confirmation["label"]].count(2) == 1


def test_a_text_in_training_and_test_stays_in_the_test_only():
    shared = [{"text": "test a 1", "label": "a", "split": "train"}, {"text": "dev b 1", "label": "b", "split": "train"}]
    table = Dataset.from_list([*shared, *whole("train", 20), *whole("dev", 10), *whole("test", 10)])
    found = texts(make_splits(table, mine()))
    assert "test a 1" in found["test"]
    assert "dev b 1" in found["validation"]
    assert not {"test a 1", "dev b 1"} & set(found["train"])


def test_test_rows_that_are_not_wanted_do_not_go_to_training():
    splits = make_splits(Dataset.from_list([*whole("train", 20), *whole("test", 20)]), mine(test_rows=0))
    assert splits.num_rows["test"] == 0
    assert all(text.startswith("train") for text in texts(splits)["train"])


def test_an_unknown_split_name_is_an_error():
    with pytest.raises(DataError, match=r"names a split 'tset'.*Did you mean 'test'"):
        make_splits(Dataset.from_list([*whole("train", 20), *whole("tset", 20)]), mine())


def test_a_split_column_without_training_rows_is_an_error():
    with pytest.raises(DataError, match="names no training rows"):
        make_splits(Dataset.from_list([*whole("dev", 20), *whole("test", 20)]), mine())


@pytest.mark.parametrize(
    ("rows", "asked", "sizes"),
    [
        (5000, (1000, 400, 1000), (1000, 400, 1000)),
        (2400, (1000, 400, 1000), (1000, 400, 1000)),
        (60, (1000, 400, 1000), (36, 12, 12)),
        (2000, (1000, 400, 1000), (1000, 400, 600)),
        (60, (1000, 400, 0), (45, 15, 0)),
        (5000, (0, 400, 1000), (3600, 400, 1000)),
        (1500, (0, 400, 1000), (900, 300, 300)),
        (1000, (0, 0, 0), (800, 200, 0)),
        (100, (10, 0, 10), (10, 20, 10)),
        (5, (1000, 400, 1000), (3, 1, 1)),
        (4, (1000, 400, 1000), (2, 1, 1)),
        (3, (1000, 400, 1000), (1, 1, 1)),
    ],
)
def test_sizes_are_planned(rows, asked, sizes):
    settings = mine(train_rows=asked[0], validation_rows=asked[1], test_rows=asked[2])
    assert plan_sizes(rows, settings) == Sizes(train=sizes[0], validation=sizes[1], test=sizes[2])


@pytest.mark.parametrize(
    ("rows", "changes", "train"),
    [
        (52_000, {}, 48_600),  # 50,600 are left, of which the confirmation gets the 2,000 that it asks for at most
        (11_400, {}, 9000),  # a tenth of 10,000
        (5399, {}, 3999),  # a tenth would be fewer than there are validation rows
        (5400, {}, 3600),
        (52_000, {"confirm_rows": 0}, 50_600),
        (52_000, {"train_rows": 50_000}, 50_000),
    ],
)
def test_training_on_all_rows_leaves_a_tenth_to_the_confirmation_if_that_is_enough(rows, changes, train):
    settings = DatasetSettings(name="mine", **changes)
    assert plan_sizes(rows, settings) == Sizes(train=train, validation=400, test=1000)


def test_what_training_on_all_rows_leaves_to_the_confirmation_was_no_cap():
    splits = make_splits(table_of({"a": 400, "b": 400}), mine(train_rows=0))
    assert splits.num_rows == {"train": 630, "validation": 40, "test": 60, "confirmation": 70}
    assert splits.num_available == 630
    assert not set(splits.confirmation["text"]) & {text for part in texts(splits).values() for text in part}


def test_validation_rows_that_the_data_names_leave_all_training_rows_to_training():
    rows = [*whole("train", 800), *whole("dev", 100), *whole("test", 60)]
    splits = make_splits(Dataset.from_list(rows), mine(train_rows=0))
    assert splits.num_rows == {"train": 800, "validation": 40, "test": 60, "confirmation": 60}


def test_shrinking_is_logged(caplog):
    plan_sizes(60, mine())
    assert "60 unique rows are too few for train/validation/test = 100/40/60; the splits get 36/12/12" in caplog.text


def test_nothing_is_logged_when_all_is_well(caplog):
    caplog.set_level(logging.INFO)
    make_splits(table_of({"a": 200, "b": 200}), mine())
    assert caplog.text == ""
