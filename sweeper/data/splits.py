"""Splits labelled rows: deduplicated, stratified, seeded and hashed.

A hash of seed and text decides which split a row goes to, not a random generator. So the splits are the same for any
order of the rows and any library version, and a file that grows keeps most of its splits. Duplicates are removed first,
because a text in two splits would let the search score rows that it was trained on. `sizes` sets the number of rows.
`labels` finds the labels and checks them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings
from sweeper.data.base import Splits
from sweeper.data.disk import to_dataset
from sweeper.data.labels import check_classes, check_labels, label_index, learnt_labels, with_listed_labels
from sweeper.data.sizes import Sizes, plan_sizes
from sweeper.data.split_names import column_splits
from sweeper.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Row",
    "check_parts",
    "divide",
    "fingerprint",
    "make_splits",
    "row_order",
    "same_text",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """A row before it is given to a split."""

    text: str
    label: str
    """The class, whose share is the same in every split; empty if rows have no classes."""
    split: str
    """The split that the data names; empty if it names none."""
    order: float
    """Hash of seed and text, in [0, 1)."""
    key: str
    """Equal for duplicates, of which one is kept."""
    completion: str = ""
    """The completion that a language model learns; empty in a classification, and if rows have no single one."""
    group: str = ""
    """Rows of a group are never in two splits; empty if rows stand alone."""


def make_splits(table: Dataset, settings: DatasetSettings) -> Splits:
    """Deduplicate, split and label rows.

    Args:
        table: Columns ``text``, ``label`` and optionally ``split``, all strings.
        settings: Sizes, seed and labels.

    Raises:
        DataError: A split is empty, a label is not among those listed, or the labels are no classes.
    """
    rows = _rows(table, settings)
    check_classes([row.label for row in rows], settings)
    parts, num_available = divide(rows, settings, given="split" in table.column_names)
    check_parts(parts, settings)
    found = {name: [row.label for row in part] for name, part in parts.items()}
    labels = learnt_labels(found["train"], settings)
    check_labels(found, labels, settings)
    index = label_index(found, labels, settings)
    made = {name: _dataset(part, index) for name, part in parts.items()}
    return Splits(
        name=settings.name,
        **made,
        labels=labels,
        fingerprint=fingerprint(parts, labels),
        num_available=num_available,
    )


def divide(rows: Iterable[Row], settings: DatasetSettings, *, given: bool) -> tuple[dict[str, list[Row]], int]:
    """Deduplicate rows and deal them to train, validation, test and confirmation, shuffled.

    Args:
        rows: The rows.
        settings: Sizes and seed.
        given: Whether the rows name their splits.

    Returns:
        The rows of each split, and how many unique rows could have been training rows: ``train_rows`` may cap them.

    Raises:
        ConfigError: ``splits`` is set and no row names a split.
        DataError: The splits they name are unknown, or none is for training.
    """
    known = list(rows)
    if settings.splits and not given:
        key = f"{settings.section}.splits"
        rule = f"the rows have no column '{settings.split}' that names splits"
        raise ConfigError(key, settings.splits, rule, f"Set {settings.section}.split to the column.")
    names = {"": "", **(column_splits({row.split for row in known}, settings) if given else {})}
    named = [dataclasses.replace(row, split=names[row.split]) for row in known if row.split in names]
    unique = _unique(named, settings)
    if given:
        parts = _take_given(unique, settings)
    else:
        parts = _take(unique, plan_sizes(len(unique), settings), confirm_rows=settings.confirm_rows)
    trainable = "train" if given else ""
    num_held_out = sum(row.split == trainable for name in ("validation", "test") for row in parts[name])
    num_available = sum(row.split == trainable for row in unique) - num_held_out
    if not settings.train_rows:  # no cap: what training leaves over was held out for the confirmation
        num_available = len(parts["train"])
    shuffled = {
        name: sorted(part, key=lambda row: row_order(settings.seed, f"shuffle {row.text}"))
        for name, part in parts.items()
    }
    return shuffled, num_available


def _rows(table: Dataset, settings: DatasetSettings) -> list[Row]:
    splits = table["split"] if "split" in table.column_names else [""] * len(table)
    keys = [same_text(text) for text in table["text"]]
    labels = with_listed_labels(table["label"], settings)
    groups = table["group"] if "group" in table.column_names else [""] * len(table)
    return [
        Row(text, label, split, row_order(settings.seed, key), key, group=group)
        for text, label, split, key, group in zip(table["text"], labels, splits, keys, groups, strict=True)
    ]


def same_text(text: str) -> str:
    """Return a key that is equal for texts that differ only in case and white space."""
    return " ".join(text.casefold().split())


def row_order(seed: int, text: str) -> float:
    """Return a hash of seed and text, in [0, 1)."""
    digest = hashlib.blake2b(f"{seed} {text}".encode(errors="surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def _unique(rows: Iterable[Row], settings: DatasetSettings) -> list[Row]:
    # Test rows come first, so that a text in two splits is removed from the training rows, never from the test rows.
    priority = {"test": 0, "validation": 1, "train": 2, "": 2}
    kept: dict[str, Row] = {}
    duplicates = conflicts = 0
    for row in sorted(rows, key=lambda row: priority[row.split]):
        first = kept.setdefault(row.key, row)
        duplicates += first is not row
        conflicts += first.label != row.label
    if duplicates:
        log.info("dataset %s: %d rows repeat a text and were left out", settings.name, duplicates)
    if conflicts:
        log.warning("dataset %s: %d of them have a different label; the first was kept", settings.name, conflicts)
    return list(kept.values())


def _take(rows: Sequence[Row], sizes: Sizes, *, confirm_rows: int) -> dict[str, list[Row]]:
    """Take test rows, then validation, then training rows, so that ``train_rows`` changes neither of the first two.

    Rows for the confirmation come from what is left.
    """
    if any(row.group for row in rows):
        return _take_groups(
            rows, {"test": sizes.test, "validation": sizes.validation, "train": sizes.train}, confirm_rows
        )
    reserved, others = _stratified(rows)
    held_out = sizes.test + sizes.validation
    missing = max(0, held_out - len(others))  # only if nearly every class has a single row
    pool = [*others[:held_out], *reserved[:missing]]
    trainable = [*reserved[missing:], *others[held_out:]]
    return {
        "train": trainable[: sizes.train],
        "validation": pool[sizes.test : held_out],
        "test": pool[: sizes.test],
        "confirmation": trainable[sizes.train :][:confirm_rows],
    }


def _take_groups(rows: Sequence[Row], sizes: Mapping[str, int], confirm_rows: int) -> dict[str, list[Row]]:
    """Take whole groups; where the last one of a split has more rows than the split needs, these are left out."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.order, row.text)):
        groups[row.group].append(row)
    parts: dict[str, list[Row]] = {}
    left = iter(groups.values())  # in the order of the first row of each, which is random
    for name, size in {**sizes, "confirmation": confirm_rows}.items():
        part: list[Row] = []
        while len(part) < size and (group := next(left, None)) is not None:
            part += group
        parts[name] = part[:size]
    return parts


def _stratified(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Order rows so that any run of consecutive rows has the same shares of labels as all of them.

    This is systematic sampling: row k of a class of n is put at (k + u) / n, where u in [0, 1) depends on the class.

    Returns:
        One row of each label, reserved for training so that even a rare label is learnt; and all other rows.
    """
    classes: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.order, row.text)):
        classes[row.label].append(row)
    reserved = [classes[label].pop() for label in sorted(classes)]
    placed = [
        ((k + row_order(0, label)) / len(members), label, row)
        for label, members in classes.items()
        for k, row in enumerate(members)
    ]
    placed.sort(key=lambda entry: entry[:2])
    return reserved, [row for _, _, row in placed]


def _take_given(rows: Sequence[Row], settings: DatasetSettings) -> dict[str, list[Row]]:
    given = {name: [row for row in rows if row.split == name] for name in ("train", "validation", "test")}
    if not given["train"]:
        raise DataError(
            f"dataset {settings.name}: column '{settings.split}' names no training rows, only "
            f"{dict(Counter(row.split for row in rows))}. Name some train, or set {settings.section}.split=none."
        )
    needed = {name: not given[name] for name in ("validation", "test")}
    sizes = plan_sizes(len(given["train"]), settings, validation=needed["validation"], test=needed["test"])
    parts = _take(given["train"], sizes, confirm_rows=settings.confirm_rows)
    for name in ("validation", "test"):
        if needed[name] and parts[name]:
            log.info(
                "dataset %s: the data names no %s rows; %d training rows were taken",
                settings.name,
                name,
                len(parts[name]),
            )
    if not needed["validation"]:
        # Named validation rows may differ from training rows, so only those that are left of them will do.
        cap = settings.validation_rows or len(given["validation"])
        parts["validation"], left = _sample(given["validation"], cap)
        parts["confirmation"] = left[: settings.confirm_rows]
    if not needed["test"]:
        parts["test"], _ = _sample(given["test"], settings.test_rows)
    return parts


def _sample(rows: Sequence[Row], cap: int) -> tuple[list[Row], list[Row]]:
    """Return so many rows, with the same shares of labels, and the others."""
    if cap >= len(rows):
        return list(rows), []
    reserved, others = _stratified(rows)
    mixed = [*others, *reserved]
    return mixed[:cap], mixed[cap:]


def check_parts(parts: dict[str, list[Row]], settings: DatasetSettings) -> None:
    """Check that no split is empty.

    Raises:
        DataError: One is.
    """
    for split, rows in parts.items():
        is_optional = split == "confirmation" or (split == "test" and settings.test_rows == 0)
        if not rows and not is_optional:
            counts = {key: len(part) for key, part in parts.items()}
            raise DataError(
                f"dataset {settings.name}: the {split} split is empty; after deduplication the splits have {counts} "
                f"rows. Add rows, or change {settings.section}.train_rows, validation_rows and test_rows."
            )


def _dataset(rows: Sequence[Row], index: Mapping[str, int]) -> Dataset:
    content = {"text": [row.text for row in rows], "label": [index[row.label] for row in rows]}
    return to_dataset(content, {"text": "string", "label": "int64"})


def fingerprint(parts: dict[str, list[Row]], labels: Sequence[str]) -> str:
    """Return the SHA-256 over the rows of every split and the labels."""
    digest = hashlib.sha256(json.dumps(list(labels)).encode())
    for split, rows in parts.items():
        for row in rows:
            digest.update(json.dumps([split, row.text, row.completion or row.label]).encode())
    return digest.hexdigest()
