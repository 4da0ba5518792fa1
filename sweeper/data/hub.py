"""Source `hub`: a dataset of the Hugging Face hub, or a local folder that `datasets` can read.

A test split without labels (all -1, as benchmarks publish them) is left out; `splits` then takes test rows from the
training rows.

With ``streaming``, a dataset is never stored: only as many rows are read as the splits need. They are the first ones
after a shuffle of the files and of a window of rows, whose order depends on the seed only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.config.settings import DatasetSettings
from sweeper.data.disk import quiet
from sweeper.data.formats import Row
from sweeper.data.split_names import SPLIT_NAMES, find_splits
from sweeper.data.tables import Builder
from sweeper.errors import ConfigError, DataError, FetchError, first_line
from sweeper.fetch.files import sha256_of
from sweeper.fetch.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

__all__ = ["check", "identity", "load"]

log = logging.getLogger(__name__)

_WINDOW = 10_000
"""Rows of a stream that are shuffled at a time; so many more are read than are taken."""
_SPARE = 1.1
"""Rows of a stream that are taken for each one that is needed, since some repeat others."""
_LABELS_OF_STREAM = 100
"""Rows of a stream that show whether a split has labels."""


def check(settings: DatasetSettings) -> None:
    """Check the settings; see `sweeper.data.check_source`."""
    identity(settings)
    if settings.streaming:
        _rows_needed(settings, named=frozenset())


def load(settings: DatasetSettings, cache: Path, progress: Progress, build: Builder) -> Dataset:
    """Return all rows; see `sweeper.data.base.Source`."""
    found = _fetch(settings, cache, progress)
    if len(found) == 1 and not settings.splits:
        ((name, only),) = found.items()
        return build(_rows(settings, _taken(settings, {name: ""}, {name: only})[name], split=""), settings)
    names = find_splits(map(str, found), settings)
    if not names:
        raise DataError(
            f"dataset {settings.name}: none of its splits {', '.join(map(str, found))} is named "
            f"{', '.join(SPLIT_NAMES)}. Say which is which, e.g. {settings.section}.splits.train={next(iter(found))}"
        )
    if ignored := sorted(map(str, set(found) - set(names))):
        known = ", ".join(map(str, settings.splits.values() or SPLIT_NAMES))
        log.warning("dataset %s: the splits %s are left out: they are not named %s", settings.name, ignored, known)
    labelled = {name: found[name] for name in names if not _is_unlabelled(name, found[name], settings)}
    parts = _taken(settings, names, labelled)
    return build((row for name, part in parts.items() for row in _rows(settings, part, split=name)), settings)


def identity(settings: DatasetSettings) -> str:
    """Return a string that identifies this data: of a local folder, its content.

    Of a dataset on the hub without a revision, the cache keeps what was fetched first.
    """
    if not settings.id:
        key = f"{settings.section}.id"
        raise ConfigError(key, "", "must be the id of a dataset on the hub", f"For example {key}=stanfordnlp/sst2")
    folder = Path(settings.id).expanduser()
    if folder.is_dir():
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        content = " ".join(f"{path.relative_to(folder)}:{sha256_of(path)}" for path in files)
        return f"{settings.config_name} {content}"
    return f"{settings.id} {settings.config_name} {settings.revision}"


def _taken(
    settings: DatasetSettings, names: Mapping[str, str], parts: Mapping[str, Any]
) -> Mapping[str, Dataset | IterableDataset]:
    """Return the rows that are read of each split: all, or of a stream as many as are needed.

    Args:
        settings: The dataset.
        names: What each split stands for; nothing if the dataset has only one.
        parts: The splits.
    """
    if not settings.streaming:
        return parts
    needed = _rows_needed(settings, named=frozenset(names[name] for name in parts) - {""})
    return {
        name: part.shuffle(seed=settings.seed, buffer_size=_WINDOW).take(needed[names[name] or "train"])
        for name, part in parts.items()
        if needed[names[name] or "train"]
    }


def _rows_needed(settings: DatasetSettings, *, named: frozenset[str]) -> Mapping[str, int]:
    """Return the number of rows to take of the training, validation and test split of a stream.

    Args:
        settings: The dataset.
        named: The splits that the data have; the training split provides for the others.
    """
    asked = {"train": settings.train_rows, "validation": settings.validation_rows, "test": settings.test_rows}
    for part in ("train", "validation"):
        if not asked[part]:
            key = f"{settings.section}.{part}_rows"
            raise ConfigError(
                key, 0, "a stream needs a number of rows", f"Set it, or {settings.section}.streaming=false."
            )
    # The confirmation takes what is left of named validation rows, else of the training rows (see `splits`).
    asked["validation" if "validation" in named else "train"] += settings.confirm_rows
    taken_from = {part: part if part in named else "train" for part in asked}
    needed = dict.fromkeys(asked, 0)
    for part, rows in asked.items():
        needed[taken_from[part]] += rows
    return {part: round(rows * _SPARE) for part, rows in needed.items()}


def _fetch(settings: DatasetSettings, cache: Path, progress: Progress) -> DatasetDict | IterableDatasetDict:
    from datasets import DatasetDict, IterableDatasetDict, load_dataset

    identity(settings)
    progress(settings.id, 0, 0)
    try:
        with quiet():
            found = load_dataset(
                settings.id,
                settings.config_name or None,
                revision=settings.revision or None,
                cache_dir=str(cache.expanduser() / "hub"),
                streaming=settings.streaming,
            )
    except Exception as error:
        raise FetchError(
            f"dataset {settings.name}: {settings.id} could not be loaded from the hub: {first_line(error)} Check the "
            f"network, {settings.section}.id, config_name and revision; a private dataset needs `hf auth login`. "
            f"Without a network, save it as JSONL on another machine and use dataset=files."
        ) from error
    if not isinstance(found, DatasetDict | IterableDatasetDict):
        raise DataError(
            f"dataset {settings.name}: {settings.id} is a {type(found).__name__}, not a set of splits. Set "
            f"{settings.section}.id to a dataset with splits."
        )
    return found


def _is_unlabelled(name: str, part: Any, settings: DatasetSettings) -> bool:
    if settings.streaming:
        labels = [row.get(settings.label, "") for row in part.take(_LABELS_OF_STREAM)]
    else:
        labels = part[settings.label] if settings.label in (part.column_names or ()) else []
    unlabelled = bool(len(labels)) and all(label in (-1, None) for label in labels)
    if unlabelled and name in settings.splits.values():
        key = next(key for key, named in settings.splits.items() if named == name)
        rule = "the rows of this split have no labels"
        raise ConfigError(f"{settings.section}.splits.{key}", name, rule, "Name a split with labels, or leave it out.")
    if unlabelled:
        log.warning("dataset %s: split %s has no labels and is left out", settings.name, name)
    return unlabelled


def _rows(settings: DatasetSettings, part: Dataset | IterableDataset, *, split: str) -> Iterator[Row]:
    from datasets import ClassLabel

    feature = (part.features or {}).get(settings.label)  # a stream may not know its columns in advance
    for number, row in enumerate(part, start=1):
        content: dict[str, Any] = dict(row)
        label = content.get(settings.label)
        if isinstance(feature, ClassLabel) and isinstance(label, int):
            content[settings.label] = feature.int2str(label) if label >= 0 else None
        if split:
            content[settings.split] = split
        yield f"{settings.id} {split} row {number}", content
