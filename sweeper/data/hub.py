"""Source `hub`: a dataset of the Hugging Face hub, or a local folder that `datasets` can read.

A test split without labels (all -1, as benchmarks publish them) is left out; `splits` then takes test rows from the
training rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.config.settings import DatasetSettings
from sweeper.data.disk import quiet
from sweeper.data.formats import Row
from sweeper.data.splits import SPLIT_NAMES
from sweeper.data.tables import Builder
from sweeper.errors import ConfigError, DataError, FetchError, first_line
from sweeper.fetch.files import sha256_of
from sweeper.fetch.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["check", "identity", "load"]

log = logging.getLogger(__name__)


def check(settings: DatasetSettings) -> None:
    """Check the settings; see `sweeper.data.check_source`."""
    identity(settings)


def load(settings: DatasetSettings, cache: Path, progress: Progress, build: Builder) -> Dataset:
    """Return all rows; see `sweeper.data.base.Source`."""
    found = _fetch(settings, cache, progress)
    parts = {name: part for name, part in found.items() if name.lower() in SPLIT_NAMES}
    if len(found) == 1:
        return build(_rows(settings, next(iter(found.values())), split=""), settings)
    known = ", ".join(SPLIT_NAMES)
    if ignored := sorted(map(str, set(found) - set(parts))):
        log.warning("dataset %s: the splits %s are left out: they are not named %s", settings.name, ignored, known)
    parts = {name: part for name, part in parts.items() if not _is_unlabelled(name, part, settings)}
    return build((row for name, part in parts.items() for row in _rows(settings, part, split=str(name))), settings)


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


def _fetch(settings: DatasetSettings, cache: Path, progress: Progress) -> DatasetDict:
    from datasets import DatasetDict, load_dataset

    identity(settings)
    progress(settings.id, 0, 0)
    try:
        with quiet():
            found = load_dataset(
                settings.id,
                settings.config_name or None,
                revision=settings.revision or None,
                cache_dir=str(cache.expanduser() / "hub"),
            )
    except Exception as error:
        raise FetchError(
            f"dataset {settings.name}: {settings.id} could not be loaded from the hub: {first_line(error)} Check the "
            f"network, {settings.section}.id, config_name and revision; a private dataset needs `hf auth login`. "
            f"Without a network, save it as JSONL on another machine and use dataset=files."
        ) from error
    if not isinstance(found, DatasetDict):
        raise DataError(
            f"dataset {settings.name}: {settings.id} is a {type(found).__name__}, not a set of splits. Set "
            f"{settings.section}.id to a dataset with splits."
        )
    return found


def _is_unlabelled(name: str, part: Dataset, settings: DatasetSettings) -> bool:
    if settings.label not in part.column_names or not len(part):
        return False
    unlabelled = all(label in (-1, None) for label in part[settings.label])
    if unlabelled:
        log.warning("dataset %s: split %s has no labels and is left out", settings.name, name)
    return unlabelled


def _rows(settings: DatasetSettings, part: Dataset, *, split: str) -> Iterator[Row]:
    from datasets import ClassLabel

    feature = part.features.get(settings.label)
    for number, row in enumerate(part, start=1):
        content: dict[str, Any] = dict(row)
        label = content.get(settings.label)
        if isinstance(feature, ClassLabel) and isinstance(label, int):
            content[settings.label] = feature.int2str(label) if label >= 0 else None
        if split:
            content[settings.split] = split
        yield f"{settings.id} {split} row {number}", content
