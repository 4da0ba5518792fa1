"""Source `hub`: a model of the Hugging Face hub, or a local folder as it is.

Only safetensors weights are fetched; the other formats are larger twice over and can run code when they are loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeper.config.settings import ModelSettings
from sweeper.errors import ConfigError, FetchError
from sweeper.fetch.files import sha256_of
from sweeper.fetch.progress import Progress

__all__ = ["fetch"]

FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
CODE_FILES = ["*.py"]
OTHER_FORMATS = ["*/*"]
"""Subfolders hold exports for other programs (onnx, openvino, coreml)."""


def fetch(settings: ModelSettings, cache: Path, progress: Progress) -> Path:
    """Return the model's folder; see `sweeper.models.fetch_model`."""
    if not settings.id:
        remedy = "For example model.id=FacebookAI/roberta-base or model.id=path/to/folder"
        raise ConfigError("model.id", "", "must be an id on the hub or a local folder", remedy)
    local = Path(settings.id).expanduser()
    folder = local.absolute() if local.is_dir() else _download(settings, cache, progress)
    _check_weights(folder, settings.weights_sha256.lower())
    return folder


def _download(settings: ModelSettings, cache: Path, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download, utils

    bars: Any = utils  # exports them without saying so
    shown = not bars.are_progress_bars_disabled()
    bars.disable_progress_bars()
    progress(settings.id, 0, 0)
    try:
        found = snapshot_download(
            settings.id,
            revision=settings.revision or None,
            cache_dir=cache / "hub",
            allow_patterns=FILES + (CODE_FILES if settings.trust_remote_code else []),
            ignore_patterns=OTHER_FORMATS,
        )
    except Exception as error:
        raise FetchError(_failure(settings, error)) from error
    finally:
        if shown:
            bars.enable_progress_bars()
    return Path(found)


def _failure(settings: ModelSettings, error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"model {settings.id} could not be fetched from the hub: {said} Check the network, model.id and "
        f"model.revision; a gated model needs `hf auth login`. Without network, copy the model's folder here and set "
        f"model.id to its path, or use model=minilm."
    )


def _check_weights(folder: Path, expected: str) -> None:
    path = folder / "model.safetensors"
    if not expected:
        return
    got = sha256_of(path) if path.exists() else "no such file"
    if got != expected:
        raise FetchError(
            f"{path} has the wrong checksum: model.weights_sha256 is {expected}, got {got}. Correct either."
        )
