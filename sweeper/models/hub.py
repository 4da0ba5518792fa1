"""Source `hub`: a model of the Hugging Face hub, or a local folder.

Only safetensors weights are fetched: other formats would double the download, and can run code when they are loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeper.config.settings import ModelSettings
from sweeper.errors import ConfigError, FetchError, did_you_mean, first_line
from sweeper.fetch.digests import content_digest
from sweeper.fetch.progress import Progress

__all__ = ["check", "fetch", "fetch_small_files", "find_config"]

_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_FILES = [*_SMALL_FILES, "*.safetensors"]
_MOST_PARTS_OF_ID = 2
_CODE_FILES = ["*.py"]
_OTHER_FORMATS = ["*/*"]
"""Subfolders, which hold exports for other programs (onnx, openvino, coreml)."""


def check(settings: ModelSettings) -> None:
    """Check the settings; see `sweeper.models.check_source`."""
    if not settings.id:
        remedy = "For example model.id=FacebookAI/roberta-base or model.id=path/to/folder"
        raise ConfigError("model.id", "", "must be an id on the hub or a local folder", remedy)
    local = Path(settings.id).expanduser()
    # Ids on the hub have at most one slash, and a beginning like these only paths have.
    is_path = local.is_absolute() or settings.id.startswith(("~", ".")) or len(local.parts) > _MOST_PARTS_OF_ID
    if is_path and not local.is_dir():
        near = did_you_mean(local.name, [p.name for p in local.parent.iterdir()]) if local.parent.is_dir() else ""
        rule = f"there is no such folder; relative paths start in {Path.cwd()}"
        raise ConfigError("model.id", settings.id, rule, near or "Check the path.")


def fetch(settings: ModelSettings, cache: Path, progress: Progress) -> Path:
    """Return the model's folder; see `sweeper.models.fetch_model`."""
    check(settings)
    local = Path(settings.id).expanduser()
    folder = local.absolute() if local.is_dir() else _download(settings, cache, progress, _FILES)
    _check_weights(folder, settings.weights_sha256.lower(), cache)
    return folder


def find_config(settings: ModelSettings, cache: Path) -> Path | None:
    """Return config.json of a local folder, or of a model that was fetched before; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    local = Path(settings.id).expanduser() / "config.json"
    if local.is_file():
        return local
    check(settings)
    found = try_to_load_from_cache(settings.id, local.name, cache_dir=cache / "hub", revision=settings.revision or None)
    return Path(found) if isinstance(found, str) else None


def fetch_small_files(settings: ModelSettings, cache: Path, progress: Progress) -> Path:
    """Return the folder of config.json and tokenizer, without weights unless they are there."""
    check(settings)
    local = Path(settings.id).expanduser()
    return local.absolute() if local.is_dir() else _download(settings, cache, progress, _SMALL_FILES)


def _download(settings: ModelSettings, cache: Path, progress: Progress, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download, utils

    bars: Any = utils  # its type stubs leave these functions out
    shown = not bars.are_progress_bars_disabled()
    bars.disable_progress_bars()
    progress(settings.id, 0, 0)
    try:
        found = snapshot_download(
            settings.id,
            revision=settings.revision or None,
            cache_dir=cache / "hub",
            allow_patterns=files + (_CODE_FILES if settings.trust_remote_code else []),
            ignore_patterns=_OTHER_FORMATS,
        )
    except Exception as error:
        raise FetchError(
            f"model {settings.id} could not be fetched from the hub: {first_line(error)} Check the network, model.id "
            f"and model.revision; a gated model needs `hf auth login`. Without a network, copy the model's folder to "
            f"this machine and set model.id to its path, or use model=minilm."
        ) from error
    finally:
        if shown:
            bars.enable_progress_bars()
    return Path(found)


def _check_weights(folder: Path, expected: str, cache: Path) -> None:
    if not expected:
        return
    path = folder / "model.safetensors"
    if path.resolve().name == expected:
        return  # the hub's cache names large files by their SHA-256, which `content` compares with what is in them
    got = content_digest(path, cache=cache) if path.exists() else "no such file"
    if got != expected:
        raise FetchError(
            f"{path} has the wrong checksum: model.weights_sha256 is {expected}, got {got}. Correct the setting, or "
            f"replace the file."
        )
