"""Base models: fetched by a source, loaded as a frozen classifier; the controller calls `fetch_model`, workers `load`.

A new source is a module here with ``fetch(settings, cache, progress) -> Path``; ``model.source`` finds it by its name.
A new model is a YAML in conf/model. This module loads no torch.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType

from sweeper.config.settings import ModelSettings
from sweeper.errors import ConfigError, ModelError, did_you_mean
from sweeper.fetch.progress import Progress, no_progress

__all__ = ["fetch_model", "model_type_of"]

_NO_SOURCES = ("attention", "first_token", "gguf", "linear", "load", "targets")


def fetch_model(settings: ModelSettings, *, cache: Path, progress: Progress | None = None) -> Path:
    """Return a folder with config.json, tokenizer and safetensors weights.

    Args:
        settings: The model.
        cache: Folder of fetched models.
        progress: Told of downloads.

    Raises:
        ConfigError: A setting is wrong.
        FetchError: The model cannot be had or fails its checksum.
        ModelError: What was fetched is not a model that can be loaded.
    """
    folder: Path = _source(settings).fetch(settings, cache.expanduser().absolute(), progress or no_progress)
    model_type_of(folder)
    if not any(folder.glob("*.safetensors")):
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:12])
        raise ModelError(
            f"{folder} has no weights in safetensors, only: {held}. Other formats can run code when they are loaded; "
            f"convert the model with save_pretrained, or choose a revision that has model.safetensors."
        )
    return folder


def model_type_of(folder: Path) -> str:
    """Return the architecture that a model's config.json names, e.g. ``bert``.

    Raises:
        ModelError: There is no config.json, or it names none.
    """
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text())["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} does not name a model_type ({error!r}); choose a folder of a transformers model."
        ) from error


def _source(settings: ModelSettings) -> ModuleType:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_SOURCES]
    if settings.source not in names:
        rule = f"must be one of {', '.join(names)}"
        raise ConfigError("model.source", settings.source, rule, did_you_mean(settings.source, names))
    return importlib.import_module(f"{__name__}.{settings.source}")
