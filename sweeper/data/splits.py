"""Split labelled rows once: deduplicated, stratified, seeded, and hashed.

Which rows go where is decided by a hash of seed and text, not by a random generator: it is the same for any order of
the rows and any library version, and a file that grows keeps most of its split. Duplicates go before the split, for a
text on both sides of it would let the search score what it was trained on. `sizes` decides how many rows go where.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets import Dataset, Features, Value

from sweeper.data.base import Splits
from sweeper.data.sizes import Sizes, plan_sizes
from sweeper.errors import DataError, did_you_mean
from sweeper.settings import DatasetSettings

__all__ = ["SPLIT_NAMES", "make_splits"]

log = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What a split may be called, in any case, and what it is."""

MIN_LABELS = 2


@dataclass(frozen=True, slots=True)
class _Row:
    text: str
    label: str
    split: str
    order: float
    """Hash of seed and text, in [0, 1)."""


def make_splits(table: Dataset, settings: DatasetSettings) -> Splits:
    """Deduplicate, split and label rows.

    Args:
        table: Columns ``text``, ``label`` and optionally ``split``, all strings.
        settings: Sizes, seed and labels.

    Raises:
        DataError: A split is empty, a label is unknown, or there are fewer than two labels.
    """
    rows = _unique(_rows(table, settings), settings)
    parts = (
        _take_given(rows, settings) if "split" in table.column_names else _take(rows, plan_sizes(len(rows), settings))
    )
    parts = {
        name: sorted(part, key=lambda row: _order(settings.seed, f"shuffle {row.text}")) for name, part in parts.items()
    }
    labels = tuple(settings.labels) or _labels_of(parts["train"])
    _check(parts, labels, settings)
    made = {name: _dataset(part, labels) for name, part in parts.items()}
    return Splits(
        name=settings.name,
        train=made["train"],
        validation=made["validation"],
        test=made["test"],
        labels=labels,
        fingerprint=_fingerprint(parts, labels),
    )


def _rows(table: Dataset, settings: DatasetSettings) -> list[_Row]:
    texts, labels = table["text"], table["label"]
    splits = table["split"] if "split" in table.column_names else [""] * len(table)
    names = {name: _split_name(name, settings) for name in set(splits)}
    return [
        _Row(text, label, names[split], _order(settings.seed, _normal(text)))
        for text, label, split in zip(texts, labels, splits, strict=True)
    ]


def _split_name(name: str, settings: DatasetSettings) -> str:
    known = SPLIT_NAMES.get(name.lower()) if name else ""
    if known is None:
        raise DataError(
            f"dataset {settings.name}: column '{settings.split}' names a split '{name}'; known are "
            f"{', '.join(SPLIT_NAMES)}. {did_you_mean(name, SPLIT_NAMES)} If it is another column, set "
            f"dataset.{settings.name}.split=none."
        )
    return known


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _order(seed: int, text: str) -> float:
    digest = hashlib.blake2b(f"{seed} {text}".encode(errors="surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def _unique(rows: Iterable[_Row], settings: DatasetSettings) -> list[_Row]:
    # Test rows come first, so that a text on both sides leaves the training rows, never the test.
    priority = {"test": 0, "validation": 1, "train": 2, "": 2}
    kept: dict[str, _Row] = {}
    duplicates = conflicts = 0
    for row in sorted(rows, key=lambda row: priority[row.split]):
        first = kept.setdefault(_normal(row.text), row)
        duplicates += first is not row
        conflicts += first.label != row.label
    if duplicates:
        log.info("dataset %s: %d rows repeat a text and were left out", settings.name, duplicates)
    if conflicts:
        log.warning("dataset %s: %d of them have another label; the first was kept", settings.name, conflicts)
    return list(kept.values())


def _take(rows: Sequence[_Row], sizes: Sizes) -> dict[str, list[_Row]]:
    """Take test, validation and training rows, in this order, so that more training rows change no other split."""
    reserved, others = _stratified(rows)
    held_out = sizes.test + sizes.validation
    missing = max(0, held_out - len(others))  # only if nearly every class has a single row
    pool = [*others[:held_out], *reserved[:missing]]
    return {
        "train": [*reserved[missing:], *others[held_out:]][: sizes.train],
        "validation": pool[sizes.test : held_out],
        "test": pool[: sizes.test],
    }


def _stratified(rows: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Order rows so that any run of them has the shares of labels of the whole.

    Row k of a class of n goes to (k + u) / n, with u in [0, 1) of the class's own: systematic sampling.

    Returns:
        One row of each label, kept for training so that a rare label is learnt at all; and all others.
    """
    classes: dict[str, list[_Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.order, row.text)):
        classes[row.label].append(row)
    reserved = [classes[label].pop() for label in sorted(classes)]
    placed = [
        ((k + _order(0, label)) / len(members), label, row)
        for label, members in classes.items()
        for k, row in enumerate(members)
    ]
    placed.sort(key=lambda entry: entry[:2])
    return reserved, [row for _, _, row in placed]


def _take_given(rows: Sequence[_Row], settings: DatasetSettings) -> dict[str, list[_Row]]:
    given = {name: [row for row in rows if row.split == name] for name in ("train", "validation", "test")}
    if not given["train"]:
        raise DataError(
            f"dataset {settings.name}: column '{settings.split}' names no training rows, only "
            f"{dict(Counter(row.split for row in rows))}. Name them train, or set dataset.{settings.name}.split=none."
        )
    needed = {name: not given[name] for name in ("validation", "test")}
    sizes = plan_sizes(len(given["train"]), settings, validation=needed["validation"], test=needed["test"])
    parts = _take(given["train"], sizes)
    for name in ("validation", "test"):
        if needed[name] and parts[name]:
            log.info(
                "dataset %s: no %s rows are named; %d training rows were taken", settings.name, name, len(parts[name])
            )
    caps = {"validation": settings.validation_rows or len(given["validation"]), "test": settings.test_rows}
    return {"train": parts["train"]} | {
        name: parts[name] if needed[name] else _sample(given[name], cap) for name, cap in caps.items()
    }


def _sample(rows: Sequence[_Row], cap: int) -> list[_Row]:
    reserved, others = _stratified(rows)
    return [*others, *reserved][:cap] if cap < len(rows) else list(rows)


def _labels_of(rows: Iterable[_Row]) -> tuple[str, ...]:
    found = {row.label for row in rows}
    is_number = all(label.lstrip("-").isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label), label) if is_number else (0, label)))


def _check(parts: dict[str, list[_Row]], labels: Sequence[str], settings: DatasetSettings) -> None:
    name = settings.name
    for split, rows in parts.items():
        if not rows and not (split == "test" and settings.test_rows == 0):
            counts = {key: len(part) for key, part in parts.items()}
            raise DataError(
                f"dataset {name}: the {split} split is empty; after deduplication the splits have {counts} rows. "
                f"Add rows, or change dataset.{name}.train_rows, validation_rows and test_rows."
            )
    if len(labels) < MIN_LABELS:
        raise DataError(
            f"dataset {name}: classification needs two labels or more, the training rows have {list(labels)}. "
            f"Check that dataset.{name}.label={settings.label} is the column with the label, and "
            f"dataset.{name}.where={settings.where}."
        )
    for split, rows in parts.items():
        _check_known(split, rows, labels, name)


def _check_known(split: str, rows: Iterable[_Row], labels: Sequence[str], name: str) -> None:
    unknown = Counter(row.label for row in rows if row.label not in labels)
    if unknown:
        label, count = unknown.most_common(1)[0]
        raise DataError(
            f"dataset {name}: {count} {split} rows have the label '{label}', which is not among {list(labels)}. "
            f"{did_you_mean(label, labels)} Correct the rows, take more training rows, or list every label in "
            f"dataset.{name}.labels."
        )


def _dataset(rows: Iterable[_Row], labels: Sequence[str]) -> Dataset:
    index = {label: number for number, label in enumerate(labels)}
    rows = list(rows)
    content = {"text": [row.text for row in rows], "label": [index[row.label] for row in rows]}
    return Dataset.from_dict(content, features=Features({"text": Value("string"), "label": Value("int64")}))


def _fingerprint(parts: dict[str, list[_Row]], labels: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(labels)).encode())
    for split, rows in parts.items():
        for row in rows:
            digest.update(json.dumps([split, row.text, row.label]).encode())
    return digest.hexdigest()
