"""Which labels are classes, and what to do if they are not."""

from __future__ import annotations

import pytest
from datasets import Dataset

from sweeper.config.settings import DatasetSettings
from sweeper.data.labels import check_classes
from sweeper.data.splits import make_splits
from sweeper.errors import DataError


def mine(**settings):
    return DatasetSettings(name="mine", **settings)


def splits_of(of_rows, **settings):
    rows = [{"text": f"row {n}", "label": label} for n, label in enumerate(of_rows)]
    return make_splits(Dataset.from_list(rows), mine(**settings))


def test_labels_that_differ_only_in_case_or_blanks_are_an_error_with_both_ways_out():
    with pytest.raises(DataError) as caught:
        splits_of(["spam"] * 40 + ["Spam"] * 3 + ["not spam"] * 40 + ["not  spam"] * 2)
    said = str(caught.value)
    assert "40 rows labelled 'spam' and 3 rows labelled 'Spam' differ only in case or blanks" in said
    assert """'dataset.mine.labels=["not spam",spam]'""" in said
    assert """'dataset.mine.labels=[Spam,"not  spam","not spam",spam]'""" in said


def test_a_label_counts_as_the_listed_one_that_differs_only_in_case_or_blanks():
    splits = splits_of(["spam"] * 40 + ["Spam", "SPAM "] * 3 + ["ham"] * 40, labels=["ham", "spam"])
    assert splits.labels == ("ham", "spam")
    assert sum(sum(part["label"]) for part in splits.parts.values()) == 46


def test_labels_that_are_listed_in_both_spellings_stay_apart():
    splits = splits_of(["spam"] * 40 + ["Spam"] * 40, labels=["Spam", "spam"])
    assert splits.labels == ("Spam", "spam")
    assert set(splits.train["label"]) == {0, 1}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([f"{n / 100:.2f}" for n in range(500)], r"500 different labels in 500 rows, .*measurements"),
        ([f"{n % 90 / 10:.1f}" for n in range(5000)], r"90 different labels in 5000 rows, .*measurements"),
        ([f"id-{n}" for n in range(400)], "400 different labels in 400 rows, .*ids or texts"),
        ([str(n) for n in range(400)], "ids or texts"),
        ([f"topic {n % 10_000}" for n in range(30_000)], "10000 different labels in 30000 rows, .*More than 1000"),
    ],
    ids=["prices", "ratings", "ids", "numbers", "too many"],
)
def test_labels_that_are_no_classes_are_an_error_that_says_what_to_do(labels, said):
    with pytest.raises(DataError, match=said) as caught:
        check_classes(labels, mine(label="y"))
    assert "dataset.mine.label=y" in str(caught.value)
    assert "list them in dataset.mine.labels" in str(caught.value)
    check_classes(labels, mine(label="y", labels=sorted(set(labels))))


@pytest.mark.parametrize(
    "labels",
    [
        ["1.5", "2.5", "3.5"] * 5,
        [str(n) for n in range(20)],
        [f"intent {n % 150}" for n in range(1000)],
        [str(n % 77) for n in range(1000)],
    ],
    ids=["half stars", "a row each, but few", "intents", "indices"],
)
def test_classes_are_classes(labels):
    check_classes(labels, mine())
