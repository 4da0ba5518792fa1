"""Source `files`: JSONL, CSV, Parquet or text files of the user."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings
from sweeper.data.formats import ENDINGS
from sweeper.data.tables import Builder, read_table
from sweeper.errors import ConfigError, did_you_mean
from sweeper.fetch.files import sha256_of
from sweeper.fetch.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["identity", "load"]


def load(settings: DatasetSettings, cache: Path, progress: Progress, build: Builder) -> Dataset:  # noqa: ARG001  part of the contract
    """Return all rows; see `sweeper.data.base.Source`."""
    return read_table(_paths(settings), settings, build)


def identity(settings: DatasetSettings) -> str:
    """Return a string that identifies this data: the content of the files, wherever they are."""
    return " ".join(f"{path.suffix}:{sha256_of(path)}" for path in _paths(settings))


def _paths(settings: DatasetSettings) -> list[Path]:
    key = f"dataset.{settings.name}.path"
    if not settings.path:
        raise ConfigError(key, "", "must name a file, a folder or a glob", f"For example {key}=my.jsonl")
    path = Path(settings.path).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in (*ENDINGS, ".txt") and p.is_file()]
    else:
        found = [p for p in map(Path, sorted(glob.glob(str(path), recursive=True))) if p.is_file()]  # noqa: PTH207 - the pattern may be absolute
    if not found:
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        rule = f"there is no such file; relative paths start in {Path.cwd()}"
        raise ConfigError(key, settings.path, rule, near or "Check the path.")
    return found
