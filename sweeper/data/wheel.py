"""Source `wheel`: a data file inside a published wheel, pinned by checksum."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings
from sweeper.data.formats import check_format
from sweeper.data.tables import Builder, read_table
from sweeper.fetch.members import extract_file
from sweeper.fetch.progress import Progress
from sweeper.fetch.wheel import WheelPin

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["check", "identity", "load"]


def check(settings: DatasetSettings) -> None:
    """Check the settings; see `sweeper.data.check_source`."""
    check_format(PurePosixPath(_pin(settings).member), settings)


def load(settings: DatasetSettings, cache: Path, progress: Progress, build: Builder) -> Dataset:
    """Return all rows; see `sweeper.data.base.Source`."""
    return read_table([extract_file(_pin(settings), cache=cache, progress=progress)], settings, build)


def identity(settings: DatasetSettings) -> str:
    """Return a string that identifies this data."""
    return _pin(settings).key


def _pin(settings: DatasetSettings) -> WheelPin:
    return WheelPin.of(settings.section, settings)
