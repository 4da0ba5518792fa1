"""Base models: the controller fetches them with `fetch_model`, workers load them with `load`.

A new source is a module here with ``fetch(settings, cache, progress) -> Path`` and ``check(settings)``;
``model.source`` is its name. A new model is a YAML file in conf/model. Importing this package loads no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

from sweeper.config.modules import find_module
from sweeper.config.settings import ModelSettings
from sweeper.errors import ModelError
from sweeper.fetch.progress import Progress, no_progress

__all__ = ["check_source", "fetch_model", "model_type_of"]


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
        ConfigError: A setting is wrong.
        FetchError: The model cannot be fetched, or its checksum is wrong.
        ModelError: The folder does not hold a model that can be loaded.
    """
    folder: Path = _source(settings).fetch(settings, cache.expanduser().absolute(), progress or no_progress)
    model_type_of(folder)
    if not any(folder.glob("*.safetensors")):
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:12])
        raise ModelError(
            f"{folder} has no safetensors weights, only: {held}. Other formats can run code when they are loaded. "
            f"Convert the model with save_pretrained, or choose a revision that has model.safetensors."
        )
    return folder


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
